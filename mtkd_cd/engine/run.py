"""One training run and one test, as the tools and the steps of the recipe start them."""

import gc
import hashlib
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process, sync_random_seed
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch.nn.parallel import DistributedDataParallel

from mtkd_cd.core.allocator import pass_over_imports
from mtkd_cd.core.checkpoint import UntrustedError, load_weights, non_finite, read_checkpoint
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import check_not_read, check_own_file, sweep_temporaries
from mtkd_cd.core.locks import alone
from mtkd_cd.core.precision import FULL, Precision
from mtkd_cd.core.strategy import BEST, Strategy
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
    check_counts,
    check_loop,
    check_numbers,
    check_optimizer,
    check_sampler,
    check_scope,
    fit_loaders,
    keep_best_weights,
    shared_memory_advice,
)
from mtkd_cd.engine.config import (
    SPECIALIST_DATA,
    check_checkpoints,
    check_exists,
    innermost_data,
    is_cascade,
    is_type,
    model_of,
    precision_of,
    range_of,
    starting_weights,
    strategy_of,
    work_dir_of,
)
from mtkd_cd.engine.costs import set_precision
from mtkd_cd.engine.hooks.exact_resume import inexact_because
from mtkd_cd.engine.image_size import describe_scale
from mtkd_cd.engine.record import (
    check_data,
    check_settings,
    file_digest,
    read_record,
    settings_of,
    write_data,
    write_record,
)
from mtkd_cd.engine.tta import datasets_of_test, set_tta, without_labels
from mtkd_cd.evaluation.image_table import is_table
from mtkd_cd.evaluation.metric import with_distinct_names
from mtkd_cd.registry import DATASETS, MODELS, RUNNERS

LOCK = '.lock'
PER_IMAGE = 'PerImageChangeMetric'
_CHECKPOINTS = ('iter_{}.pth', 'epoch_{}.pth')  # mmengine's names


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
    _import_parts()
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
    val_set, notes = _open_validation_data(cfg)
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


def _open_validation_data(cfg: Config) -> tuple[Any, list[str]]:
    """(the data set, what there is to say about it)."""
    if not cfg.get('val_dataloader'):
        return None, []
    dataset = cfg.val_dataloader.dataset
    try:
        return _open_dataset(cfg, dataset), []
    except UserError:
        if not is_type(dataset, SPECIALIST_DATA):
            raise
        opened = _open_dataset(cfg, dataset.dataset)
        cfg.val_dataloader.dataset = dataset.dataset
        return opened, [
            f'No validation image has a CAR in the range {range_of(cfg)!r}: validating on all of '
            'them'
        ]


def open_training_data(cfg: Config) -> Any:
    """The data set that a config trains on.

    Raises:
        UserError: As :func:`open_test_data`.
    """
    return _open_dataset(cfg, cfg.train_dataloader.dataset)


def open_test_data(cfg: Config) -> Any:
    """The data set that a config tests on.

    Raises:
        UserError: What is wrong with the data as far as can be told without reading every image.
    """
    return _open_dataset(cfg, cfg.test_dataloader.dataset)


def stamp_of_test_data(cfg: Config) -> dict[str, str]:
    """Digests of the files that a config tests on, see :mod:`mtkd_cd.data.stamp`.

    Raises:
        UserError: As :func:`open_test_data`.
    """
    return data_stamp(open_test_data(cfg))


def folders_read(dataset: Any) -> set[str]:
    """The folders that a data set's files lie in."""
    folders = set()
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        paths = info.get('img_path') or []
        paths = [paths] if isinstance(paths, str) else list(paths)
        folders |= {str(Path(path).parent) for path in (*paths, info.get('seg_map_path')) if path}
    return folders


def _open_dataset(cfg: Config, dataset_cfg: Mapping[str, Any]) -> Any:
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mtkd_cd')):
        dataset = DATASETS.build(dataset_cfg)
    dataset.full_init()
    return dataset


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
    checkpoint = _checkpoint_to_resume(cfg, bool(record), resume)
    seed = _fix_seed(cfg, record if checkpoint else {})
    start, cfg.resume = cfg.get('load_from'), checkpoint is not None
    cfg.load_from = str(checkpoint) if checkpoint else None
    barrier()  # every process has looked before one writes
    if is_main_process():
        sweep_temporaries(work_dir, deep=True)
    termination = TerminationHook()
    with termination.listening(), _loader_errors(), _runner(cfg, terse) as runner:
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


def _fix_seed(cfg: Config, record: Mapping[str, Any]) -> int:
    """Draw the seed that a config leaves open, and draw it once: a resumed run takes it from the
    record."""
    randomness = dict(cfg.get('randomness') or {})
    seed = randomness.get('seed')
    if seed is None:
        seed = record['seed'] if 'seed' in record else sync_random_seed()
        cfg.randomness = dict(randomness, seed=seed)
    return int(seed)


def _checkpoint_places(cfg: Config) -> list[tuple[Path, str]]:
    """(folder, name with ``{}`` for the number) of the checkpoints that a run writes."""
    work_dir = Path(cfg.work_dir)
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    names = [*_CHECKPOINTS, *([hook['filename_tmpl']] if hook.get('filename_tmpl') else [])]
    folders = [work_dir]
    if hook.get('out_dir') and '://' not in str(hook['out_dir']):
        folders.append(Path(hook['out_dir'], work_dir.name))
    places = [(folder, name) for folder in folders for name in names]
    return list(dict.fromkeys(places))


def holds_weights(cfg: Config) -> bool:
    """Whether a work dir holds anything that training again would overwrite."""
    return any(
        path.is_file() for folder, _ in _checkpoint_places(cfg) for path in folder.glob('*.pth')
    )


def checkpoints_of(cfg: Config) -> list[list[Path]]:
    """Find the checkpoints that a run can be resumed from: for each way of naming them a list, the
    newest first."""
    found = []
    for folder, name in _checkpoint_places(cfg):
        before, _, after = name.partition('{')
        pattern = re.compile(re.escape(before) + r'(\d+)' + re.escape(after.partition('}')[2]))
        numbered = [
            (int(match[1]), path)
            for path in folder.glob('*')
            if (match := pattern.fullmatch(path.name))
        ]
        if numbered:
            found.append([path for _, path in sorted(numbered, reverse=True)])
    return found


def _checkpoint_to_resume(cfg: Config, recorded: bool, resume: bool) -> Path | None:
    """The newest readable checkpoint; ``None`` where training starts anew."""
    work_dir = Path(cfg.work_dir)
    if not resume and holds_weights(cfg):
        what = (
            'a run with these settings: continue it with --resume'
            if recorded
            else 'weights of another run: they would be overwritten'
        )
        raise UserError(f'{work_dir} holds {what}, choose another --work-dir, or delete this one')
    readable = []
    for paths in checkpoints_of(cfg):
        if found := _newest_readable(paths):
            path, content = found
            readable.append((content['meta'].get('iter', 0), path))
    if readable:
        return max(readable)[1]
    best = work_dir / BEST
    if best.is_file() and not recorded:
        raise UserError(
            f'{best} is there without a record of its training: choose another --work-dir, or '
            'delete it'
        )
    return None


def _newest_readable(paths: Sequence[Path]) -> tuple[Path, dict[str, Any]] | None:
    for path in paths:
        try:
            content = read_checkpoint(path)
        except UntrustedError:  # it is in order: an older one, or none, is no way out
            raise
        except UserError as error:
            print(f'passing over {error}')
            continue
        if not isinstance(content.get('meta'), Mapping) or 'state_dict' not in content:
            print(f'passing over {path}: it is no checkpoint of a training')
        elif non_finite(content['state_dict']):
            print(f'passing over {path}: it holds weights that are no finite numbers')
        else:
            return path, content
    return None


@contextmanager
def _loader_errors() -> Iterator[None]:
    """Say what can be done about loader workers that are gone or hang, and about full memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f'{str(error).splitlines()[0][:200]} Lower the batch size (--batch-size), or the size '
            'of the crops'
        ) from error
    except RuntimeError as error:
        text = str(error)
        if 'shared memory' in text or 'Bus error' in text or 'unable to write to file' in text:
            raise UserError(f'a loader worker has no room. {shared_memory_advice()}') from error
        if 'DataLoader timed out' in text:
            raise UserError(
                f'{text.splitlines()[0]}: its workers hang, or the data are very slow to read. '
                f'{shared_memory_advice()}; for slow data, set train_dataloader.timeout (seconds; '
                '0: none)'
            ) from error
        if 'Expected to have finished reduction in the prior iteration' in text:
            raise UserError(
                'some parameters take no part in the loss, which several processes have to be '
                'told: --cfg-options find_unused_parameters=True (slower)'
            ) from error
        if re.search(r'DataLoader worker.*(exited unexpectedly|killed by signal)', text):
            raise UserError(
                f'{text.splitlines()[0].strip()} If nobody ended it, memory was short: lower '
                f'--num-workers or --batch-size. {shared_memory_advice()}'
            ) from error
        raise


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
    _import_parts()
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
    with _loader_errors(), _runner(cfg, terse) as runner:
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


def has_labels(dataset: Any) -> bool:
    """Whether the samples of a data set have labels; those of one have them or have not."""
    return len(dataset) == 0 or bool(dataset.get_data_info(0).get('seg_map_path'))


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


class LightRunner(Runner):
    """mmengine's runner, except that the visualiser of a config that names none imports matplotlib
    when something is drawn."""

    def build_visualizer(self, visualizer: Any = None) -> Any:
        """The visualiser; mmengine's default one waits for its figure."""
        if visualizer is None:
            visualizer = dict(
                type='mtkd_cd.Visualizer', vis_backends=[dict(type='LocalVisBackend')]
            )
        return super().build_visualizer(visualizer)


class TerseRunner(LightRunner):
    """Our runner, except that the console shows one line per event; configs, environment and
    tables go to the log file alone."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """The logger, its console handler filtered."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: '\n' not in record.getMessage())
        return logger


def _import_parts() -> None:
    """Import networks and data sets before one is made: mmengine's look through all there is for
    garbage."""
    MODELS.import_from_location()
    DATASETS.import_from_location()
    pass_over_imports()


@contextmanager
def _runner(cfg: Config, terse: bool) -> Iterator[Runner]:
    """A runner of its own name; its log file and loader processes are closed at the end."""
    for key in ('val_evaluator', 'test_evaluator'):
        if isinstance(cfg.get(key), list):
            cfg[key] = with_distinct_names(cfg[key])
    # mmengine takes no `randomness` without a seed.
    cfg.randomness = {'seed': None, **(cfg.get('randomness') or {})}
    _import_parts()
    # mmengine keeps loggers, message hubs and visualisers by this name, per process.
    cfg.experiment_name = f'{strategy_of(cfg)}_{model_of(cfg)}_{time.time_ns()}'
    runner = (
        RUNNERS.build(cfg)
        if 'runner_type' in cfg
        else (TerseRunner if terse else LightRunner).from_cfg(cfg)
    )
    try:
        yield runner
    finally:
        end_workers(runner)
        for handler in list(runner.logger.handlers):
            runner.logger.removeHandler(handler)
            handler.close()
        del runner
        gc.collect()


def end_workers(runner: Runner) -> None:
    """End the loader processes of all loops.

    Runner and loops refer to each other, and the collector of such cycles closes the queues of a
    loader before it asks the processes to end: that question never arrives, and each is waited for
    twice five seconds.
    """
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):  # built or not
        for name in ('dataloader', 'dataloader_iterator'):
            iterator: Any = getattr(getattr(loop, name, None), '_iterator', None)
            if hasattr(iterator, '_shutdown_workers'):
                iterator._shutdown_workers()
