"""A strategy's config, derived from the origin's.

The origin's config holds all that is particular to a model: detector, data, optimiser, schedule.
What another strategy changes follows from the strategy alone, and is written here once.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mtkd_cd.core.car import DEFAULT_THRESHOLDS
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import WORK_DIRS, Layout, Strategy
from mtkd_cd.engine.config import (
    CASCADE,
    DISTILLER,
    FOLD_DATA,
    SPECIALIST_DATA,
    is_type,
    model_of,
    own_type,
    range_of,
)
from mtkd_cd.engine.schedule import set_iters

STUDENT_VAL_INTERVAL = 1000  # iterations
PAPERS_LAMBDA = 1e-4  # of most models
# Of the other distances, which are on the scale of the cross-entropy. Squared log-odds are not.
_MATCH = {
    'kl': dict(match='kl', loss_weight=1.0),
    'margin': dict(match='margin', loss_weight=0.01),
}
# Other folds than those of a FoldDataset in the user's config, which keeps a tenth of the labels,
# say: within one fold of ten all pairs would be of the same fold of five.
_SEED_OF_FOLDS = 1


def derive(
    origin: Config,
    strategy: Strategy,
    range: str | None = None,
    *,
    fold: int | None = None,
    model: str | None = None,
    root: str | Path = WORK_DIRS,
    distill_loss: Mapping[str, Any] | None = None,
    teachers: Config | None = None,
) -> Config:
    """The config of a strategy.

    Args:
        origin: Config of the origin, with whatever the user has changed in it; it is not touched.
        strategy: What is wanted.
        range: CAR range of a specialist; default: the first.
        fold: The fold that a specialist of a strategy with folds does not see; default: 0.
        model: Name that the files are under; default: the name of the origin's file.
        root: Work dir in which the strategy finds the weights that it starts from.
        distill_loss: Config of the student's distillation loss.
        teachers: Config of the origin of the strategy's ``teachers``.

    Returns:
        A config of its own, without a work dir.

    Raises:
        UserError: There is no such range; the config has no model, data or schedule to derive from,
            or is one of another strategy.
    """
    cfg = copy.deepcopy(origin)
    if is_type(cfg.get('model'), CASCADE, DISTILLER):
        raise UserError(
            f'{cfg.filename} has a model of type {cfg.model.type!r}: strategies are derived from '
            'the config of an origin, whose model is the detector itself'
        )
    if range_of(cfg):
        raise UserError(
            f'{cfg.filename} trains on the CAR range {range_of(cfg)} alone: strategies are derived '
            'from the config of an origin, which trains on all images'
        )
    layout = Layout(model or model_of(cfg), Path(root))
    if strategy.teachers and teachers is None:
        raise UserError(f'{strategy}: the config of {strategy.teachers} is needed')
    # What the origin's config says about the student's training alone.
    of_student = {'model': cfg.pop('student_model', None)}
    loader = cfg.pop('student_train_dataloader', None)
    if strategy.kind == 'mtkd' and loader is not None:
        cfg.merge_from_dict(dict(train_dataloader=loader))
    cfg.merge_from_dict(changes(cfg, strategy, layout, range, distill_loss, fold))
    if teachers is not None and strategy.teachers:
        detector = copy.deepcopy(teachers.model)
        if 'data_preprocessor' in teachers:
            detector.setdefault('data_preprocessor', copy.deepcopy(teachers.data_preprocessor))
        cfg.model.teachers = detector
    if strategy.kind in ('continued', 'mtkd') and 'student_train_cfg' not in cfg:
        _halve_schedule(cfg)
    if strategy.kind == 'mtkd' and of_student['model'] is not None:
        cfg.merge_from_dict(of_student)
    return cfg


def stub(origin: Mapping[str, Any], text: str, model: str, **settings: Any) -> dict[str, Any]:
    """What the shipped ``configs/<strategy>/<model>.py`` add to the origin's entries.

    mmengine runs such a file with ``_base_`` in place and merges the file's variables into it, so
    that these configs need no loader of ours.

    Args:
        origin: The entries of the origin's config.
        text: Text of the strategy.
        model: Name of the model.
        settings: ``loss_weight``, the paper's lambda, of a student.
    """
    loss = distillation_loss(**settings) if settings else None
    return changes(origin, Strategy.parse(text), Layout(model), distill_loss=loss)


def distillation_loss(loss_weight: float) -> dict[str, Any]:
    """The paper's distillation loss, weighed with lambda."""
    return dict(type='ChangeMapMSELoss', loss_weight=loss_weight)


def changes(
    origin: Mapping[str, Any],
    strategy: Strategy,
    layout: Layout,
    range: str | None = None,
    distill_loss: Mapping[str, Any] | None = None,
    fold: int | None = None,
) -> dict[str, Any]:
    """The entries in which a strategy's config differs from the origin's, to be merged into it."""
    if strategy.kind == 'partition':
        return _specialist(origin, strategy, range, fold)
    if strategy.kind == 'op':
        return dict(model=_of_specialists(origin, strategy, layout, CASCADE, 'origin'))
    if strategy.kind == 'continued':
        start = str(layout.weights(Strategy('origin')))
        return dict(load_from=start) | _student_schedule(origin)
    if strategy.kind == 'mtkd':
        student = _of_specialists(origin, strategy, layout, DISTILLER, 'student')
        loss = dict(distill_loss or distillation_loss(PAPERS_LAMBDA))
        if strategy.match != 'mse':
            loss = dict(type=own_type(origin, 'ChangeMapLoss'), **_MATCH[strategy.match])
        if loss['type'] == 'ChangeMapMSELoss':
            loss['type'] = own_type(origin, 'ChangeMapMSELoss')
        student['distill_loss'] = loss
        found = dict(model=student) | _student_schedule(origin)
        if strategy.folds:
            student['folds'] = strategy.folds
            data = dict(_folded(origin, strategy.folds), _delete_=True)
            found['train_dataloader'] = dict(dataset=data)
        return found
    return {}


def _folded(origin: Mapping[str, Any], folds: int, **settings: Any) -> dict[str, Any]:
    """The origin's training data, in folds."""
    return dict(
        type=own_type(origin, FOLD_DATA),
        folds=folds,
        seed=_SEED_OF_FOLDS,
        dataset=copy.deepcopy(origin['train_dataloader']['dataset']),
        **settings,
    )


def _specialist(
    origin: Mapping[str, Any], strategy: Strategy, range: str | None, fold: int | None
) -> dict[str, Any]:
    """Training and validation data of one CAR range, without a fold of the training data."""
    partition = strategy.partition
    name = partition.names[partition.index_of_name(range) if range else 0]
    found = {}
    for loader in ('train_dataloader', 'val_dataloader'):
        if not origin.get(loader):
            continue
        data = copy.deepcopy(origin[loader]['dataset'])
        if strategy.folds and loader == 'train_dataloader':
            data = _folded(origin, strategy.folds, leave_out=fold or 0)
        found[loader] = dict(
            dataset=dict(
                _delete_=True,
                type=own_type(origin, SPECIALIST_DATA),
                range=name,
                dataset=data,
                **_variant(strategy),
            )
        )
    return found


def _of_specialists(
    origin: Mapping[str, Any], strategy: Strategy, layout: Layout, kind: str, inner: str
) -> dict[str, Any]:
    """A model round the origin's detector, which brings the specialists of the CAR ranges."""
    model = {
        '_delete_': True,
        'type': own_type(origin, kind),
        inner: copy.deepcopy(origin['model']),
        'checkpoints': layout.checkpoints(strategy),
        **_variant(strategy),
    }
    if strategy.routing != 'car':
        model['routing'] = strategy.routing
    if strategy.routing == 'validated':
        model['routing_file'] = str(layout.routing(strategy))
    return model


def _variant(strategy: Strategy) -> dict[str, Any]:
    own = strategy.thresholds != DEFAULT_THRESHOLDS
    return dict(thresholds=strategy.thresholds) if own else {}


def _student_schedule(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Half as long, validated more often, as the origin's config says."""
    if 'student_train_cfg' not in origin:
        return {}
    if 'student_param_scheduler' not in origin:
        raise UserError(
            'the config has student_train_cfg, but no student_param_scheduler: set the schedule of '
            "the student's learning rate, [] for a constant one"
        )
    return dict(
        train_cfg=copy.deepcopy(origin['student_train_cfg']),
        param_scheduler=copy.deepcopy(origin['student_param_scheduler']),
        default_hooks=dict(checkpoint=dict(interval=STUDENT_VAL_INTERVAL)),
    )


def _halve_schedule(cfg: Config) -> None:
    """Of a config that says nothing about a student."""
    train_cfg = cfg.get('train_cfg') or {}
    length = train_cfg.get('max_iters')
    if not length:
        raise UserError(
            f"{cfg.filename}: the student trains for half of the origin's train_cfg.max_iters, "
            'and there is none: set it, or student_train_cfg and student_param_scheduler'
        )
    set_iters(cfg, max(1, length // 2), train_cfg.get('val_interval'))
