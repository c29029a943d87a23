"""The config of a step: the origin's, with what the user's options change in it, and then what the
step's strategy changes."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import Strategy
from mtkd_cd.core.text import closest
from mtkd_cd.data.images import band_numbers
from mtkd_cd.engine.checkup import TRAINING_NEEDS
from mtkd_cd.engine.config import load_config, merge_options
from mtkd_cd.engine.costs import COSTS, compile_teachers, set_costs, set_teacher_precision
from mtkd_cd.engine.image_size import set_crop_size, set_image_size
from mtkd_cd.engine.inputs import set_bands, set_data, set_loaders, set_radiometry
from mtkd_cd.engine.machine import set_machine
from mtkd_cd.engine.schedule import set_iters, set_val_interval
from mtkd_cd.recipe.derive import derive, distillation_loss
from mtkd_cd.recipe.options import RecipeOptions
from mtkd_cd.recipe.steps import Step

# Derivation gives the student a schedule of its own; the user's options go before it.
_OF_SCHEDULE = ('train_cfg', 'param_scheduler', 'default_hooks')


def model_name(model: str) -> str:
    """The name of a model that was given by its name or by the path of its config."""
    return Path(model).stem if model.endswith('.py') else model


def origin_config(model: str, options: RecipeOptions) -> Config:
    """The origin's config with all that the user has changed.

    Raises:
        UserError: Unknown model, or an option that the config has no place for.
    """
    if model.endswith('.py'):
        cfg = load_config(model, needs=TRAINING_NEEDS)
    else:
        known = sorted(path.stem for path in (options.configs / 'origin').glob('*.py'))
        if model not in known:
            raise UserError(f'unknown model {model!r}: {closest(model, known)}')
        cfg = load_config(options.configs / 'origin' / f'{model}.py')
    merge_options(cfg, options.cfg_options)
    set_machine(cfg, options.device, options.launcher)
    if options.data_root is not None or options.dataset_type is not None:
        set_data(cfg, options.data_root, options.dataset_type)
    if options.bands is not None:
        set_bands(cfg, band_numbers(options.bands))
    if options.radiometry is not None:
        set_radiometry(cfg, options.radiometry)
    if options.image_size is not None:
        set_image_size(cfg, options.image_size)
    if options.crop_size is not None:
        set_crop_size(cfg, options.crop_size)
    set_loaders(cfg, options.batch_size, options.num_workers)
    if options.lr is not None:
        cfg.optim_wrapper.optimizer.lr = options.lr
    if options.seed is not None:
        cfg.setdefault('randomness', {})['seed'] = options.seed
    costs = {name: getattr(options, name) for name in COSTS}
    set_costs(cfg, **costs | dict(teacher_precision=None))  # it has no teachers yet
    return cfg


def step_config(step: Step, model: str, options: RecipeOptions) -> Config:
    """The config of a step: the origin's, the user's changes, then what the strategy changes."""
    name, kind = model_name(model), step.strategy.kind
    layout = options.layout(name)
    cfg = derive(
        origin_config(model, options),
        step.strategy,
        step.range,
        fold=step.fold,
        root=layout.root,
        distill_loss=_distillation_loss(model, options) if kind == 'mtkd' else None,
        teachers=teachers_config(options) if kind == 'mtkd' else None,
    )
    again = {key: value for key, value in options.cfg_options.items() if _is_of_schedule(key)}
    merge_options(cfg, again)
    if kind == 'partition' and options.specialists_from == 'origin':
        cfg.load_from = str(layout.weights(Strategy('origin')))
    if kind == 'mtkd' and options.compile:
        compile_teachers(cfg)
    if kind == 'mtkd' and options.teacher_precision is not None:
        set_teacher_precision(cfg, options.teacher_precision)
    if kind == 'origin':
        _set_student_schedule(cfg, options)
    iters = _iterations(kind, options)
    if iters is not None:
        set_iters(cfg, iters)
    if options.val_interval is not None:
        set_val_interval(cfg, options.val_interval)
    cfg.work_dir = str(step.place(layout))
    if options.tta:
        cfg.tta = True
    return cfg


def teachers_config(options: RecipeOptions) -> Config | None:
    """The origin's config of the model that teaches; the user's entries are for the student's."""
    if options.teachers is None:
        return None
    return origin_config(options.teachers, dataclasses.replace(options, cfg_options={}))


def _is_of_schedule(key: str) -> bool:
    return key.partition('.')[0] in _OF_SCHEDULE


def _iterations(kind: str, options: RecipeOptions) -> int | None:
    if kind == 'partition':
        return options.specialist_iters or options.iters
    if kind in ('continued', 'mtkd'):
        half = max(1, options.iters // 2) if options.iters else None
        return options.student_iters or half
    return options.iters


def _set_student_schedule(cfg: Config, options: RecipeOptions) -> None:
    """Let an origin's config say how long its student trains: once it is written to a file, the
    options are gone. Call it before the origin's own schedule is changed."""
    iters = _iterations('mtkd', options)
    if iters is None:
        return
    student = copy.deepcopy(cfg)
    if 'student_train_cfg' in cfg:
        loop = {key: cfg.train_cfg[key] for key in ('type',) if key in cfg.train_cfg}
        student.train_cfg = {**loop, **student.student_train_cfg}
        student.param_scheduler = student.get('student_param_scheduler', [])
    set_iters(student, iters)
    if options.val_interval is not None:
        set_val_interval(student, options.val_interval)
    if options.iters is None and 'max_epochs' in cfg.train_cfg:
        student.train_cfg['_delete_'] = True  # the origin goes on to count epochs
    cfg.student_train_cfg = student.train_cfg
    cfg.student_param_scheduler = student.param_scheduler


def _distillation_loss(model: str, options: RecipeOptions) -> dict[str, Any] | None:
    """That of ``configs/mtkd/<model>.py``, which states the paper's lambda, where there is one."""
    path = options.configs / 'mtkd' / f'{model}.py'
    loss: dict[str, Any] | None = None
    if not model.endswith('.py') and path.is_file():
        loss = dict(load_config(path).model.distill_loss)
    if options.loss_weight is not None:
        loss = (loss or distillation_loss(0.0)) | dict(loss_weight=options.loss_weight)
    return loss
