"""What can be known of a config before its first iteration, and is put right or refused there."""

import importlib.util
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from multiprocessing.queues import Queue
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device

from mtkd_cd.core.background import processors
from mtkd_cd.core.car import DEFAULT_THRESHOLDS, CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import os_error_message
from mtkd_cd.engine.config import DISTILLER, LOADERS, is_type, nodes
from mtkd_cd.engine.hooks.best_weights import choose_metric
from mtkd_cd.evaluation.scores import CLASSES, MEAN_NAMES, SCORE_NAMES
from mtkd_cd.registry import is_known, similar_name

SHARED_MEMORY = '/dev/shm'
_LEAST_SHARED_MEMORY = 4 << 20  # bytes: less than a batch of any use
LOADER_SECONDS = 600  # without a batch: a worker hangs
_NUMBERS = ('optim_wrapper', 'param_scheduler', 'train_cfg')
TRAINING_NEEDS = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
# Whole numbers that nothing goes on without, and the least that each may be.
_COUNTS = {
    'train_cfg.max_iters': 1,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    **{f'{loader}.batch_size': 1 for loader in LOADERS},
    **{f'{loader}.num_workers': 0 for loader in LOADERS},
    'default_hooks.logger.interval': 1,
    'randomness.seed': 0,
}
_MOST = {'randomness.seed': 2**32 - 1}
_IOU_METRICS = {
    'mIoU': ('aAcc', 'mIoU', 'mAcc'),
    'mDice': ('aAcc', 'mDice', 'mAcc'),
    'mFscore': ('aAcc', 'mFscore', 'mPrecision', 'mRecall'),
}
_ENDLESS = ('InfiniteSampler', 'RatioSampler')
# Toolboxes whose names are registered here too, so that their configs run without them.
_IMPLEMENTED_HERE = ('opencd',)
_QUEUE: Any = Queue
_PYTHONS_OWN = _QUEUE._on_queue_feeder_error  # what torch's workers do without room


def check_scope(cfg: Config) -> None:
    """Refuse a config of a toolbox that is not installed, before its names are looked up.

    Raises:
        UserError: Names the toolbox, and what to set.
    """
    scope = cfg.get('default_scope', 'mtkd_cd')
    if scope in _IMPLEMENTED_HERE and importlib.util.find_spec(scope) is None:
        raise UserError(
            f'{cfg.filename} has default_scope={scope!r}, but the package {scope} is not installed '
            'here. The models, data sets and transforms of its benchmark are there under the same '
            "names: set default_scope='mtkd_cd' (--cfg-options default_scope=mtkd_cd)"
        )


def check_numbers(cfg: Config) -> None:
    """Refuse settings of the optimisation that are no finite numbers, and negative learning rates.

    Raises:
        UserError: Names the entry and its value.
    """
    rate = ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('lr', 0)
    if isinstance(rate, bool) or not isinstance(rate, (int, float)):
        raise UserError(f'optim_wrapper.optimizer.lr={rate!r}: a number is needed')
    check_counts(cfg)
    for key in _NUMBERS:
        for place, value in _numbers(cfg.get(key), key):
            negative = place.rpartition('.')[2] == 'lr' and value < 0
            if negative or (not math.isfinite(value) and not place.endswith('max_norm')):
                raise UserError(
                    f'{place}={value}: a finite number{" from 0 up" if negative else ""} is needed'
                )


def check_counts(cfg: Config) -> None:
    """Refuse numbers of iterations, images and loader processes, and seeds, that are none.

    Raises:
        UserError: Names the entry and its value.
    """
    for place, least in _COUNTS.items():
        value: Any = cfg
        for key in place.split('.'):
            value = value.get(key) if isinstance(value, (Mapping, Config)) else None
        most = _MOST.get(place, math.inf)
        if value is None or (type(value) is int and least <= value <= most):
            continue
        wanted = f'from {least} up' if most == math.inf else f'from {least} to {most}'
        raise UserError(f'{place}={value!r}: a whole number {wanted} is needed')


def check_batches(cfg: Config) -> None:
    """Refuse batches with and without labels that differ between processes of synchronised batch
    norm. A student runs twice on a batch that has both, and its norms would wait for each other for
    ever.

    Raises:
        UserError: Names the sampler that gives every process the same.
    """
    loader: Any = cfg.get('train_dataloader') or {}
    unlabelled = is_type(cfg.get('model'), DISTILLER) and cfg.model.get('unlabelled') is not None
    both = all(
        any(is_type(node, kind) for node in nodes(loader))
        for kind in ('UnlabelledDataset', 'ConcatDataset')
    )
    sampler = loader.get('sampler')
    if unlabelled and both and cfg.get('sync_bn') and not is_type(sampler, 'RatioSampler'):
        raise UserError(
            f'train_dataloader.sampler={sampler}: on several GPUs every process has to get as many '
            "pairs without labels in a batch as the others; take dict(type='RatioSampler', "
            'ratio=(labelled, unlabelled)), or --cfg-options sync_bn=None'
        )


def check_loop(cfg: Config) -> None:
    """Refuse a length that the training loop does not count in, as that of a student
    (``student_train_cfg``) may be in an origin's loop.

    Raises:
        UserError: Names the loop, the entry, and the one that it takes.
    """
    loop: Any = cfg.get('train_cfg') or {}
    for kind, wanted, other in (
        ('EpochBasedTrainLoop', 'max_epochs', 'max_iters'),
        ('IterBasedTrainLoop', 'max_iters', 'max_epochs'),
    ):
        if is_type(loop, kind) and other in loop:
            own = 'student_train_cfg' if 'student_train_cfg' in cfg else 'train_cfg'
            raise UserError(
                f'train_cfg.{other}={loop[other]}: {kind} takes {wanted}. Set '
                f"{own}=dict(_delete_=True, {wanted}=...), or train_cfg.type='ReplayableIterLoop', "
                'which takes both'
            )


def check_sampler(cfg: Config) -> None:
    """Refuse epochs of a sampler without an end: the first would last for ever.

    Raises:
        UserError: Names the sampler, and those that fit.
    """
    loop: Any = cfg.get('train_cfg') or {}
    by_epoch = is_type(loop, 'EpochBasedTrainLoop') or ('type' not in loop and loop.get('by_epoch'))
    sampler: Any = (cfg.get('train_dataloader') or {}).get('sampler')
    if by_epoch and is_type(sampler, *_ENDLESS):
        raise UserError(
            f'train_dataloader.sampler={dict(sampler)} has no end, so that the first epoch of '
            "train_cfg would have none: take sampler=dict(type='DefaultSampler', shuffle=True), or "
            "count iterations with train_cfg=dict(type='IterBasedTrainLoop', max_iters=...)"
        )


def check_optimizer(cfg: Config) -> None:
    """Refuse an optimiser that nobody knows, of which mmengine asks the arguments before it looks,
    and factors of a weight decay that there is not.

    Raises:
        UserError: Names it, and what may have been meant.
    """
    wrapper = cfg.get('optim_wrapper') or {}
    optimizer = wrapper.get('optimizer') or {}
    decays = [
        place
        for place, _ in _numbers(wrapper.get('paramwise_cfg'), 'optim_wrapper.paramwise_cfg')
        if place.endswith('decay_mult')
    ]
    own = wrapper.get('constructor') not in (None, 'DefaultOptimWrapperConstructor')
    if decays and optimizer and not own and optimizer.get('weight_decay') is None:
        raise UserError(
            f'{decays[0]}: there is no optim_wrapper.optimizer.weight_decay that it could '
            'multiply; set that, 0 for none'
        )
    kind = optimizer.get('type')
    if not isinstance(kind, str) or is_known(kind):
        return
    advice = similar_name(kind) or 'check its spelling'
    raise UserError(f'optim_wrapper.optimizer.type={kind!r} is not in the registries: {advice}')


def _numbers(node: Any, place: str) -> list[tuple[str, float]]:
    if isinstance(node, Mapping):
        items = [(f'{place}.{key}', value) for key, value in node.items()]
    elif isinstance(node, (list, tuple)):
        items = [(f'{place}.{index}', value) for index, value in enumerate(node)]
    elif isinstance(node, (int, float)):
        return [(place, float(node))]
    else:
        return []
    return [pair for inner, value in items for pair in _numbers(value, inner)]


def fit_loaders(cfg: Config) -> None:
    """Settle the settings of the loaders that belong together. Without workers nothing persists.
    With them, a loader that gives nothing for :data:`LOADER_SECONDS` is an error and does not hang
    for ever. There are no more workers than processors for this process. For a GPU, batches come
    in pinned memory, from which they are copied while the host goes on.

    Raises:
        UserError: The shared memory through which workers hand over images is full.
    """
    workers = 0
    for name in LOADERS:
        loader = cfg.get(name)
        if not loader:
            continue
        loader.num_workers = min(loader.get('num_workers', 0), processors())
        if get_device() == 'cuda':
            loader.setdefault('pin_memory', True)
        if loader.num_workers == 0:
            for key in ('persistent_workers', 'prefetch_factor', 'timeout'):
                loader.pop(key, None)
        else:
            workers = max(workers, loader.num_workers)
            loader.setdefault('timeout', LOADER_SECONDS)
    if workers:
        _check_shared_memory()
        end_workers_without_room()


def end_workers_without_room() -> None:
    """Let a loader's worker end when it finds no shared memory for a batch. Python prints a
    traceback there and goes on, and the loader waits for that batch until its time is over.

    Workers that are forked from now on do so.
    """
    if _QUEUE._on_queue_feeder_error is not _ends_without_room:
        _QUEUE._on_queue_feeder_error = staticmethod(_ends_without_room)


def _ends_without_room(error: BaseException, item: Any) -> None:
    if os_error_message(error) is None and 'shared memory' not in str(error):
        _PYTHONS_OWN(error, item)
        return
    os.write(2, f'a loader worker has no room: {error}\n'.encode())
    os._exit(1)


def _check_shared_memory() -> None:
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # not on Linux
        return
    if free < _LEAST_SHARED_MEMORY:
        raise UserError(f'{SHARED_MEMORY} has {free >> 10} KiB free. {shared_memory_advice()}')


def shared_memory_advice() -> str:
    """What to do about it, with what is free now."""
    return (
        f'Loader workers hand images over in {SHARED_MEMORY}: free it (df {SHARED_MEMORY}), start '
        'the container with more (docker run --shm-size=8g), or load without workers '
        '(--num-workers 0)'
    )


def keep_best_weights(cfg: Config) -> None:
    """Make a run leave ``best.pth``. A config without a ``BestWeightsHook`` gets one. It decides by
    what the checkpoint hook's ``save_best`` names, else by mIoU, else by whatever is reported
    first. Checkpoints are written whole or not at all.

    Raises:
        UserError: The metric is none of those that the evaluators report.
    """
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
    if (
        checkpoint
        and is_type(checkpoint, 'CheckpointHook')
        and not checkpoint.get('backend_args')
        and not checkpoint.get('file_client_args')
    ):
        checkpoint.backend_args = dict(backend='atomic')
    saved = [hook for hook in cfg.get('custom_hooks') or [] if is_type(hook, 'BestWeightsHook')]
    wanted = [(f'BestWeightsHook(metric={one!r})', one) for one in _metrics_of(saved)]
    named = (checkpoint or {}).get('save_best')
    named = [named] if isinstance(named, str) else list(named or [])
    wanted += [(f'default_hooks.checkpoint.save_best={one!r}', one) for one in named]
    reported = reported_metrics(cfg.get('val_evaluator')) if cfg.get('val_dataloader') else None
    if reported is not None:
        for what, metric in wanted:
            if metric != 'auto' and metric not in reported:
                raise UserError(
                    f'{what}: the validation reports {", ".join(reported) or "nothing"}. Name one '
                    'of these, or change val_evaluator'
                )
    if saved:
        return
    metric, rule = (named or ['auto'])[0], (checkpoint or {}).get('rule') or 'auto'
    if metric == 'auto' and reported:
        metric = choose_metric(reported)
    rule = rule if isinstance(rule, str) else rule[0] or 'auto'
    hook = dict(type='mtkd_cd.BestWeightsHook', metric=metric, rule=rule)
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]


def _metrics_of(hooks: Sequence[Mapping[str, Any]]) -> list[str]:
    return [hook.get('metric', 'mIoU') for hook in hooks]


def reported_metrics(evaluators: Any) -> list[str] | None:
    """Names of what evaluators report, from their configs; ``None`` where that is not known."""
    if is_type(evaluators, 'Evaluator'):
        evaluators = evaluators.get('metrics', evaluators)
    names: list[str] = []
    for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        if not isinstance(evaluator, Mapping):
            return None
        known = _reported_by(evaluator)
        if known is None:
            return None
        prefix = f'{evaluator["prefix"]}/' if evaluator.get('prefix') else ''
        names += [f'{prefix}{name}' for name in known]
    return names


def _reported_by(evaluator: Mapping[str, Any]) -> list[str] | None:
    if is_type(evaluator, 'IoUMetric'):
        if evaluator.get('format_only'):
            return []
        chosen = evaluator.get('iou_metrics', ['mIoU'])
        chosen = [chosen] if isinstance(chosen, str) else chosen
        return list(dict.fromkeys(name for one in chosen for name in _IOU_METRICS.get(one, ())))
    if is_type(evaluator, 'PerImageChangeMetric'):
        by_class = [f'{score}_{name}' for name in CLASSES for score in SCORE_NAMES]
        partition = CARPartition(
            evaluator.get('thresholds', DEFAULT_THRESHOLDS), evaluator.get('names')
        )
        return [
            *MEAN_NAMES,
            *by_class,
            *(f'pooled_{name}' for name in (*MEAN_NAMES, *by_class, 'aAcc')),
            *(f'{name}_{one}' for one in partition.names for name in MEAN_NAMES),
        ]
    return None
