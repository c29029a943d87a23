"""One test of a config, and the per-image table that it writes."""

from numbers import Real
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch.nn.parallel import DistributedDataParallel

from mtkd_cd.core.checkpoint import load_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import check_not_read, check_own_file
from mtkd_cd.core.precision import FULL, Precision
from mtkd_cd.core.strategy import Strategy
from mtkd_cd.engine.checkup import check_counts, check_scope, fit_loaders
from mtkd_cd.engine.config import (
    check_checkpoints,
    check_exists,
    innermost_data,
    is_cascade,
    is_type,
    model_of,
    precision_of,
    range_of,
    work_dir_of,
)
from mtkd_cd.engine.costs import set_precision
from mtkd_cd.engine.image_size import describe_scale
from mtkd_cd.engine.open_data import folders_read, has_labels, open_test_data
from mtkd_cd.engine.runner import import_parts, loader_errors, runner_of
from mtkd_cd.engine.tta import datasets_of_test, set_tta, without_labels
from mtkd_cd.evaluation.image_table import is_table

PER_IMAGE = 'PerImageChangeMetric'


def run_test(
    cfg: Config,
    checkpoint: str | Path | None = None,
    *,
    out: str | Path | None = None,
    copy: str | Path | None = None,
    show_dir: str | Path | None = None,
    trusted: bool | None = None,
    tta: bool = False,
    terse: bool = False,
) -> dict[str, float]:
    """Test a config on its test data.

    Args:
        cfg: The config, fitted to the machine.
        checkpoint: Weights; ``None`` for a cascade, which brings its own.
        out: Per-image table to write, ``.json`` or ``.csv``. A config that evaluates otherwise is
            evaluated for it too.
        copy: Where else the caller is going to write it; looked at now.
        show_dir: Folder for a picture of each image's dates, label, prediction and errors.
        trusted: Whether the file may hold pickled objects. Only for files of your own. Default:
            what :func:`~mtkd_cd.core.checkpoint.load_only_tensors` has set.
        tta: Whether to average over views of each pair, see :func:`~mtkd_cd.engine.tta.set_tta`.
        terse: Whether to keep everything longer than a line off the console.

    Returns:
        The metrics, in percent; none where the data have no labels.

    Raises:
        UserError: The data or a checkpoint is no good; the data have no labels and there is no
            ``show_dir``; ``out`` or ``show_dir`` is where something else is.
    """
    import_parts()
    check_scope(cfg)
    check_counts(cfg)
    fit_loaders(cfg)
    cfg.work_dir = str(work_dir_of(cfg))
    if checkpoint is None:
        check_checkpoints(cfg)
    else:
        check_exists(checkpoint, str(checkpoint), cfg.filename)
    dataset = open_test_data(cfg)
    reads = folders_read(dataset)
    check_not_read(cfg.work_dir, reads)
    precision = precision_of(cfg)
    if has_labels(dataset):
        for path in (out, copy):
            if path is not None:
                check_own_file(path, reads, is_table)
        if out is not None:
            evaluator = per_image_evaluator(cfg)
            evaluator['out_file'] = str(out)
            if precision != FULL:
                told = evaluator.get('provenance') or {}
                evaluator['provenance'] = dict(told, precision=precision)
    else:
        _predict_only(cfg, show_dir)
    if show_dir is not None:
        cfg.custom_hooks = [
            *(cfg.get('custom_hooks') or []),
            dict(type='mtkd_cd.ChangeVisualizationHook', out_dir=str(show_dir)),
        ]
    cfg.resume, cfg.load_from = False, None
    brings_its_own = is_cascade(cfg)  # prepared detectors
    if precision != FULL:
        set_precision(cfg, precision)  # of a cascade's model too
    tta = tta or bool(cfg.get('tta'))
    if tta:
        set_tta(cfg)
    with loader_errors(), runner_of(cfg, terse) as runner:
        if checkpoint is not None:
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            load_weights(model.module if tta else model, checkpoint, trusted=trusted)
            if not brings_its_own:
                _prepare_for_test(runner, tta, precision)
        runner.logger.info(describe_scale(cfg))
        if precision != FULL:
            runner.logger.info(f'The network computes in {precision}')
        metrics = runner.test()
    barrier()
    # mmseg's metrics give numpy's float32, which is no float of Python's.
    return {key: float(value) for key, value in metrics.items() if isinstance(value, Real)}


def _prepare_for_test(runner: Runner, tta: bool, precision: Precision) -> None:
    """Let a detector predict through its prepared copy. In float32 DDP wrappers keep theirs.

    Raises:
        UserError: Another precision, for a detector or a wrapper that cannot be prepared.
    """
    from mtkd_cd.models.prepare import prepare  # models cost seconds

    is_wrapped = is_model_wrapper(runner.model)
    if is_wrapped and precision == FULL:
        return
    holder: Any = runner
    names = ['model', *['module'] * (is_wrapped + tta)]
    for name in names[:-1]:
        holder = getattr(holder, name)
    detector = getattr(holder, names[-1])
    can_be = not is_wrapped or isinstance(runner.model, DistributedDataParallel)
    if can_be and (tta or hasattr(detector, 'decode_head')):
        setattr(holder, names[-1], prepare(detector, precision=precision))
    elif precision != FULL:
        raise UserError(
            f'precision={precision!r}: {type(detector).__name__} (in {type(runner.model).__name__})'
            ' can only predict in float32, as it is no detector with a decode_head, in one process '
            'or in DistributedDataParallel: leave precision out'
        )


def _predict_only(cfg: Config, show_dir: str | Path | None) -> None:
    """Make a test one without labels: nothing is loaded of them, nothing is scored."""
    if show_dir is None:
        raise UserError(
            'the test data have no labels, so that there is nothing to score: add --show-dir '
            'FOLDER for the predicted masks (FOLDER/prediction)'
        )
    for dataset in datasets_of_test(cfg):
        dataset.pipeline = without_labels(dataset.pipeline)
    if cfg.get('tta_pipeline'):
        cfg.tta_pipeline = without_labels(cfg.tta_pipeline)
    cfg.test_evaluator = []


def per_image_evaluator(cfg: Config) -> dict[str, Any]:
    """The config of the metric that makes the per-image table of a test. A config that evaluates
    otherwise gets one more, with its scores under ``per_image/``."""
    evaluators = cfg.get('test_evaluator') or []
    cfg.test_evaluator = list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]
    for evaluator in cfg.test_evaluator:
        if is_type(evaluator, PER_IMAGE):
            return evaluator
    cfg.test_evaluator = [
        *cfg.test_evaluator,
        dict(type=f'mtkd_cd.{PER_IMAGE}', prefix='per_image' if cfg.test_evaluator else None),
    ]
    return cfg.test_evaluator[-1]


def set_provenance(cfg: Config, strategy: Strategy) -> None:
    """Let the per-image table of a config's test say which run it is of.

    Args:
        cfg: The config.
        strategy: What is tested.
    """
    data = innermost_data(cfg.test_dataloader.dataset)
    names = (Path(str(data.get('data_root') or '')).name, data.get('split'))
    of_range = range_of(cfg)
    per_image_evaluator(cfg)['provenance'] = dict(
        model=model_of(cfg),
        strategy=f'{strategy}/{of_range}' if of_range else strategy.text,
        seed=(cfg.get('randomness') or {}).get('seed'),
        dataset='/'.join(name for name in names if name) or None,
    )
