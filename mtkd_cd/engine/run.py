"""One training run and one test, as the tools and the stages of the recipe start them."""

import gc
import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mtkd_cd.core.checkpoint import load_weights, read_checkpoint
from mtkd_cd.core.errors import UserError
from mtkd_cd.engine import StartingWeightsHook, StopwatchHook, ValidationCurveHook
from mtkd_cd.engine.config import (
    check_checkpoints,
    check_exists,
    describe_scale,
    is_cascade,
    model_of,
    stage_of,
    starting_weights,
    work_dir_of,
)
from mtkd_cd.engine.record import (
    check_settings,
    file_digest,
    read_record,
    settings_of,
    write_record,
)
from mtkd_cd.registry import DATASETS, RUNNERS

BEST = 'best.pth'


@dataclass
class Prepared:
    """A training run whose settings and data have been checked.

    Attributes:
        cfg: The config to run.
        settings: For the record.
        notes: What there is to log.
    """

    cfg: Config
    settings: dict[str, Any]
    notes: list[str]


def prepare_training(cfg: Config) -> Prepared:
    """Check a training run against its work dir and open its data, before anything is written.

    A specialist whose CAR range has no validation image is made to validate on all of them.

    Args:
        cfg: The config, fitted to the machine.

    Raises:
        UserError: The work dir holds a run with other settings or on other data; what is wrong with
            the data as far as can be told without reading every image; a CAR range without training
            images.
    """
    cfg.work_dir = str(work_dir_of(cfg))
    if is_cascade(cfg):
        raise UserError(
            f'{cfg.filename}: a cascade is tested, not trained; train configs/origin and '
            'configs/partition'
        )
    settings = settings_of(cfg)
    check_settings(cfg.work_dir, settings)
    train_set = _open_dataset(cfg, cfg.train_dataloader.dataset)
    names = '\n'.join(
        _image_name(train_set.get_data_info(index)) for index in range(len(train_set))
    )
    settings |= {
        'data.images': len(train_set),
        'data.names': hashlib.sha256(names.encode()).hexdigest()[:16],
    }
    check_settings(cfg.work_dir, settings)
    return Prepared(cfg, settings, [describe_scale(cfg), *_open_validation_data(cfg)])


def _open_validation_data(cfg: Config) -> list[str]:
    if not cfg.get('val_dataloader'):
        return []
    dataset = cfg.val_dataloader.dataset
    try:
        _open_dataset(cfg, dataset)
    except UserError:
        if 'partition' not in dataset or 'dataset' not in dataset:
            raise
        _open_dataset(cfg, dataset.dataset)
        cfg.val_dataloader.dataset = dataset.dataset
        return [
            f'No validation image has a CAR in the range {dataset.partition!r}: validating on all '
            'of them'
        ]
    return []


def open_test_data(cfg: Config) -> None:
    """Open what a config tests on.

    Raises:
        UserError: What is wrong with the data as far as can be told without reading every image.
    """
    _open_dataset(cfg, cfg.test_dataloader.dataset)


def _open_dataset(cfg: Config, dataset_cfg: Mapping[str, Any]) -> Any:
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mtkd_cd')):
        dataset = DATASETS.build(dataset_cfg)
    dataset.full_init()
    return dataset


def _image_name(info: Mapping[str, Any]) -> str:
    path = info['img_path']
    return Path(path if isinstance(path, str) else path[0]).name


def run_training(
    prepared: Prepared, *, resume: bool = False, terse: bool = False, hooks: Sequence[Hook] = ()
) -> dict[str, Any]:
    """Train in the config's work dir, or go on with the run that the work dir holds.

    Args:
        prepared: See :func:`prepare_training`.
        resume: Go on from the newest readable checkpoint where there is one; a finished run is left
            as it is.
        terse: Whether to keep everything longer than a line off the console.
        hooks: Beside those of the config.

    Returns:
        The record of the finished run: ``settings``, ``seconds`` (those before interruptions
            included) and, of the best weights, ``iter``,
        ``metric`` and ``score``.

    Raises:
        UserError: The work dir holds a run and there is no ``resume``, or one that started from
            other weights; a checkpoint is missing or no good; an image cannot be read.
    """
    cfg, settings = prepared.cfg, prepared.settings
    work_dir = Path(cfg.work_dir)
    check_checkpoints(cfg)
    settings |= {
        f'weights.{name}': file_digest(path) for name, path in starting_weights(cfg).items()
    }
    check_settings(work_dir, settings)
    record = read_record(work_dir)
    if resume and record.get('finished'):
        if not (work_dir / BEST).is_file():
            raise UserError(
                f'{work_dir} held a finished run, but its {BEST} is gone: put it back, or delete '
                'the folder to train again'
            )
        return record
    checkpoint = _checkpoint_to_resume(work_dir, bool(record), resume)
    start, cfg.resume, cfg.load_from = cfg.get('load_from'), checkpoint is not None, checkpoint
    barrier()  # every process has looked before one writes
    write_record(work_dir, dict(settings=settings, finished=False))
    with _runner(cfg, terse) as runner:
        for note in prepared.notes:
            runner.logger.info(note)
        if start and not checkpoint:
            runner.register_hook(StartingWeightsHook(start))
        for hook in (ValidationCurveHook(), *hooks):
            runner.register_hook(hook)
        runner.train()
        seconds = next(
            (hook.seconds for hook in runner.hooks if isinstance(hook, StopwatchHook)), None
        )
    barrier()  # the best weights are written by one process
    record = dict(
        settings=settings,
        finished=True,
        seconds=seconds,
        **read_checkpoint(work_dir / BEST)['meta'],
    )
    write_record(work_dir, record)
    return record


def _checkpoint_to_resume(work_dir: Path, recorded: bool, resume: bool) -> str | None:
    """The newest readable checkpoint; ``None`` where training starts anew."""
    candidates = sorted(
        work_dir.glob('iter_*.pth'),
        key=lambda path: int(path.stem.removeprefix('iter_')),
        reverse=True,
    )
    best = work_dir / BEST
    if not resume and (candidates or best.is_file()):
        what = (
            'a run with these settings: continue it with --resume'
            if recorded
            else 'weights of another run: they would be overwritten'
        )
        raise UserError(f'{work_dir} holds {what}, choose another --work-dir, or delete this one')
    for path in candidates:
        try:
            read_checkpoint(path)
            return str(path)
        except UserError as error:
            print(f'passing over {error}')
    if best.is_file() and not recorded:
        raise UserError(
            f'{best} is there without a record of its training: choose another --work-dir, or '
            'delete it'
        )
    return None


def run_test(
    cfg: Config,
    checkpoint: str | Path | None = None,
    *,
    out: str | Path | None = None,
    show_dir: str | Path | None = None,
    trusted: bool = False,
    terse: bool = False,
) -> dict[str, float]:
    """Test a config on its test data.

    Args:
        cfg: The config, fitted to the machine.
        checkpoint: Weights; ``None`` for a cascade, which brings its own.
        out: Per-image table to write, ``.json`` or ``.csv``.
        show_dir: Folder for a picture of each image's dates, label, prediction and errors.
        trusted: Whether the file may hold pickled objects. Only for files of your own.
        terse: Whether to keep everything longer than a line off the console.

    Returns:
        The metrics, in percent.

    Raises:
        UserError: The data or a checkpoint is no good.
    """
    cfg.work_dir = str(work_dir_of(cfg))
    if checkpoint is None:
        check_checkpoints(cfg)
    else:
        check_exists(checkpoint, str(checkpoint))
    if out is not None:
        evaluators = (
            cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        )
        evaluators[0].out_file = str(out)
    if show_dir is not None:
        cfg.custom_hooks = [
            *cfg.get('custom_hooks', []),
            dict(type='ChangeVisualizationHook', out_dir=str(show_dir)),
        ]
    cfg.resume, cfg.load_from = False, None
    with _runner(cfg, terse) as runner:
        if checkpoint is not None:
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            load_weights(model, checkpoint, trusted=trusted)
        runner.logger.info(describe_scale(cfg))
        metrics = runner.test()
    barrier()
    return {key: float(value) for key, value in metrics.items() if isinstance(value, (int, float))}


class TerseRunner(Runner):
    """mmengine's runner, except that the console shows one line per event; configs, environment and
    tables go to the log file alone."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """The logger, its console handler filtered."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: '\n' not in record.getMessage())
        return logger


@contextmanager
def _runner(cfg: Config, terse: bool) -> Iterator[Runner]:
    """A runner of its own name; its log file and loader processes are closed at the end."""
    # mmengine keeps loggers, message hubs and visualisers by this name, per process.
    cfg.experiment_name = f'{stage_of(cfg)}_{model_of(cfg)}_{time.time_ns()}'
    runner = (
        RUNNERS.build(cfg)
        if 'runner_type' in cfg
        else (TerseRunner if terse else Runner).from_cfg(cfg)
    )
    try:
        yield runner
    finally:
        for handler in list(runner.logger.handlers):
            runner.logger.removeHandler(handler)
            handler.close()
        del runner
        gc.collect()
