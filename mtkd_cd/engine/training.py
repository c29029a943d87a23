"""One training run: checked with its data before anything is written, then run or gone on with."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process, sync_random_seed
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtkd_cd.core.checkpoint import read_checkpoint
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import check_not_read, sweep_temporaries
from mtkd_cd.core.locks import alone
from mtkd_cd.core.strategy import BEST
from mtkd_cd.data.stamp import data_stamp, digest_of
from mtkd_cd.engine import (
    BestWeightsHook,
    DivergenceHook,
    ExactResumeHook,
    OptimizerByNameHook,
    SharedBuffersHook,
    StartingWeightsHook,
    StopwatchHook,
    TerminationHook,
    ValidationCurveHook,
)
from mtkd_cd.engine.checkup import (
    check_batches,
    check_loop,
    check_numbers,
    check_optimizer,
    check_sampler,
    check_scope,
    fit_loaders,
    keep_best_weights,
)
from mtkd_cd.engine.config import check_checkpoints, is_cascade, starting_weights, work_dir_of
from mtkd_cd.engine.hooks.exact_resume import inexact_because
from mtkd_cd.engine.image_size import describe_scale
from mtkd_cd.engine.open_data import folders_read, open_training_data, open_validation_data
from mtkd_cd.engine.record import (
    check_data,
    check_settings,
    file_digest,
    read_record,
    settings_of,
    write_data,
    write_record,
)
from mtkd_cd.engine.resume import checkpoint_to_resume, holds_weights
from mtkd_cd.engine.runner import import_parts, loader_errors, runner_of

LOCK = '.lock'


@dataclass
class PreparedTraining:
    """A training run whose settings and data have been checked.

    Attributes:
        cfg: The config to run.
        settings: For the record.
        data: Digests of the files of the training and the validation data.
        notes: What there is to log.
    """

    cfg: Config
    settings: dict[str, Any]
    data: dict[str, dict[str, str]]
    notes: list[str]


def prepare_training(cfg: Config) -> PreparedTraining:
    """Check a training run against its work dir and open its data, before anything is written.

    A specialist whose CAR range has no validation image is made to validate on all of them; a
    config without a ``BestWeightsHook`` gets one.

    Args:
        cfg: The config, fitted to the machine.

    Raises:
        UserError: The work dir holds a run with other settings or on other data; what is wrong with
            the settings, or with the data as far as can be told without decoding every image; a CAR
            range without training images.
    """
    import_parts()
    check_scope(cfg)
    cfg.work_dir = str(work_dir_of(cfg))
    if is_cascade(cfg):
        raise UserError(
            f'{cfg.filename}: a cascade is tested, not trained; train configs/origin and '
            'configs/partition'
        )
    check_numbers(cfg)
    check_optimizer(cfg)
    check_batches(cfg)
    check_loop(cfg)
    check_sampler(cfg)
    fit_loaders(cfg)
    keep_best_weights(cfg)
    settings = settings_of(cfg)
    holds_run = holds_weights(cfg)
    if holds_run:
        check_settings(cfg.work_dir, settings)
    train_set = open_training_data(cfg)
    check_not_read(cfg.work_dir, folders_read(train_set))
    val_set, notes = open_validation_data(cfg)
    stamps = {'train': data_stamp(train_set)}
    if val_set is not None:
        stamps['val'] = data_stamp(val_set)
    names = '\n'.join(
        _image_name(train_set.get_data_info(index)) for index in range(len(train_set))
    )
    settings |= {
        'data.images': len(train_set),
        'data.names': hashlib.sha256(names.encode(errors='surrogateescape')).hexdigest()[:16],
        **{f'data.{split}': digest_of(stamp) for split, stamp in stamps.items()},
    }
    if holds_run:
        check_data(cfg.work_dir, stamps)
        check_settings(cfg.work_dir, settings)
    return PreparedTraining(cfg, settings, stamps, [describe_scale(cfg), *notes])


def _image_name(info: Mapping[str, Any]) -> str:
    path = info['img_path']
    return Path(path if isinstance(path, str) else path[0]).name


def run_training(
    prepared: PreparedTraining,
    *,
    resume: bool = False,
    terse: bool = False,
    hooks: Sequence[Hook] = (),
) -> dict[str, Any]:
    """Train in the config's work dir, or go on with the run that the work dir holds.

    Nobody else trains there meanwhile. Until the first step the work dir holds no record of the
    run, so that a start that fails leaves it free.

    Args:
        prepared: See :func:`prepare_training`.
        resume: Go on from the newest readable checkpoint where there is one; a finished run is left
            as it is.
        terse: Whether to keep everything longer than a line off the console.
        hooks: Beside those of the config.

    Returns:
        The record of the finished run: ``settings``, ``seconds`` (those before interruptions
        included) and, of the best weights, ``iter``, ``metric`` and ``score``.

    Raises:
        UserError: The work dir holds a run and there is no ``resume``, or one that started from
            other weights; another process trains there; a checkpoint is missing or no good; an
            image cannot be read; the training diverges; the loader's workers come to grief.
        SystemExit: 143, after SIGTERM, when what there was to save has been saved.
    """
    work_dir = Path(prepared.cfg.work_dir)
    # One process of a distributed run stands for all.
    lock: AbstractContextManager = (
        alone(work_dir / LOCK, what=str(work_dir)) if is_main_process() else nullcontext()
    )
    with lock:
        return _run_training(prepared, work_dir, resume, terse, hooks)


def _run_training(
    prepared: PreparedTraining, work_dir: Path, resume: bool, terse: bool, hooks: Sequence[Hook]
) -> dict[str, Any]:
    cfg, settings = prepared.cfg, prepared.settings
    check_checkpoints(cfg)
    settings |= {
        f'weights.{name}': file_digest(path) for name, path in starting_weights(cfg).items()
    }
    record: dict[str, Any] = {}
    if holds_weights(cfg):
        check_settings(work_dir, settings)
        record = read_record(work_dir)
    if resume and record.get('finished'):
        if not (work_dir / BEST).is_file():
            raise UserError(
                f'{work_dir} held a finished run, but its {BEST} is gone: put it back, or delete '
                'the folder to train again'
            )
        return record
    checkpoint = checkpoint_to_resume(cfg, bool(record), resume)
    seed = _fix_seed(cfg, record if checkpoint else {})
    start, cfg.resume = cfg.get('load_from'), checkpoint is not None
    cfg.load_from = str(checkpoint) if checkpoint else None
    barrier()  # every process has looked before one writes
    if is_main_process():
        sweep_temporaries(work_dir, deep=True)
    termination = TerminationHook()
    with termination.listening(), loader_errors(), runner_of(cfg, terse) as runner:
        for note in prepared.notes:
            runner.logger.info(note)
        if start and not checkpoint:
            runner.register_hook(StartingWeightsHook(start))
        own = (
            _RecordHook(dict(settings=settings, finished=False, seed=seed), prepared.data),
            *(ValidationCurveHook(), DivergenceHook(), ExactResumeHook()),
            *(OptimizerByNameHook(), SharedBuffersHook(), termination),
        )
        for hook in (*own, *hooks):
            runner.register_hook(hook)
        stopwatch = next((one for one in runner.hooks if isinstance(one, StopwatchHook)), None)
        if stopwatch is None:  # in a config from elsewhere
            stopwatch = StopwatchHook()
            runner.register_hook(stopwatch)
        runner.train()
        seconds = stopwatch.seconds
        best = next(hook for hook in runner.hooks if isinstance(hook, BestWeightsHook))
    barrier()  # the best weights are written by one process
    record = dict(
        settings=settings,
        finished=True,
        seed=seed,
        seconds=seconds,
        **read_checkpoint(work_dir / best.filename)['meta'],
    )
    write_record(work_dir, record)
    return record


def _fix_seed(cfg: Config, record: Mapping[str, Any]) -> int:
    """Draw the seed that a config leaves open, and draw it once: a resumed run takes it from the
    record."""
    randomness = dict(cfg.get('randomness') or {})
    seed = randomness.get('seed')
    if seed is None:
        seed = record['seed'] if 'seed' in record else sync_random_seed()
        cfg.randomness = dict(randomness, seed=seed)
    return int(seed)


class _RecordHook(Hook):
    """Notes what the work dir holds, once it holds something: after the first step. And says, at
    the first step of a resumed run, what of it is not exactly as it would have been."""

    priority = 'VERY_HIGH'  # before a checkpoint of the same step

    def __init__(self, record: Mapping[str, Any], data: Mapping[str, Mapping[str, str]]) -> None:
        self.record = record
        self.data = data
        self._noted = False

    def before_train(self, runner: Runner) -> None:
        if runner.cfg.get('resume'):
            self._note(runner)
            for reason in inexact_because(runner, runner.iter):
                runner.logger.warning(f'The resumed run is not exactly the uninterrupted: {reason}')

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        self._note(runner)

    def _note(self, runner: Runner) -> None:
        if not self._noted:
            write_data(runner.work_dir, self.data)
            write_record(runner.work_dir, self.record)
            self._noted = True
