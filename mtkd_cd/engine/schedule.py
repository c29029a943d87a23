"""Options that change how long a config trains and how often it validates; the schedule of its
learning rate follows."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict

from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.config import is_type


def set_iters(cfg: Config, iters: int, val_interval: int | None = None) -> None:
    """Shorten or lengthen the schedule: warm-up over at most a tenth of it, at most ten validations
    unless said otherwise.

    A schedule in epochs becomes one in iterations, its warm-up a tenth. The parts of a schedule
    after its warm-up, and steps of ``MultiStepLR`` and ``StepLR``, keep their places in it.
    """
    before = cfg.train_cfg.get('max_iters') or cfg.train_cfg.pop('max_epochs')
    if _counts_epochs_alone(cfg):
        cfg.train_cfg.pop('by_epoch', None)
        cfg.train_cfg.type = 'IterBasedTrainLoop'
    found = schedulers_of(cfg)
    warmed_up = next((one['end'] for one in found if _is_warmup(one, before)), 0)
    longest_warmup = warmed_up if 'max_iters' in cfg.train_cfg else iters
    warmup = min(longest_warmup, iters // 10) if warmed_up else 0
    cfg.train_cfg.max_iters = iters

    def moved(time: int) -> int:
        if time <= warmed_up:
            return round(time * warmup / warmed_up) if warmed_up else 0
        return warmup + round((time - warmed_up) * (iters - warmup) / (before - warmed_up))

    schedulers = []
    for scheduler in found:
        begin = moved(scheduler.get('begin', 0))
        end = moved(min(scheduler.get('end', before), before))
        if end - begin > 1:  # mmengine's schedulers divide by end - begin - 1
            period = _rescaled(scheduler, iters, before)
            kept = {
                key: value for key, value in scheduler.items() if key != 'convert_to_iter_based'
            }
            schedulers.append(dict(kept, begin=begin, end=end, by_epoch=False, **period))
    cfg.param_scheduler = schedulers
    set_val_interval(cfg, val_interval or max(1, -(-iters // 10)))
    logger = _default_hook(cfg, 'logger', 'LoggerHook')
    logger['interval'] = max(1, min(logger.get('interval', 10), iters // 20))


def schedulers_of(cfg: Config) -> list[Any]:
    """The schedulers of a config's learning rate, of which it may have one, several or none."""
    found = cfg.get('param_scheduler') or []
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _is_warmup(scheduler: Mapping[str, Any], length: int) -> bool:
    """Whether a scheduler raises the rate at the beginning of a schedule and no longer."""
    if scheduler.get('begin') or not scheduler.get('end', length) < length:
        return False
    if is_type(scheduler, 'QuadraticWarmupLR'):
        return True
    start = scheduler.get('start_factor', scheduler.get('factor', 1 / 3))
    return is_type(scheduler, 'LinearLR', 'ConstantLR') and start < scheduler.get('end_factor', 1)


def _rescaled(scheduler: Mapping[str, Any], iters: int, before: int) -> dict[str, Any]:
    """Times within a scheduler, of a schedule of ``before`` that becomes one of ``iters``."""
    found: dict[str, Any] = {}
    if 'T_max' in scheduler:
        found['T_max'] = max(1, round(scheduler['T_max'] * iters / before))
    if 'milestones' in scheduler:
        found['milestones'] = [max(1, step * iters // before) for step in scheduler['milestones']]
    if 'step_size' in scheduler:
        found['step_size'] = max(1, scheduler['step_size'] * iters // before)
    return found


def set_val_interval(cfg: Config, interval: int) -> None:
    """Validate, and write a checkpoint to resume from, every ``interval`` iterations.

    Raises:
        UserError: The config trains in mmengine's loop by epochs, which knows no iterations.
    """
    if _counts_epochs_alone(cfg):
        raise UserError(
            f'{cfg.filename}: its loop validates by epochs alone; give the length in iterations '
            'too (--iters), or set train_cfg.val_interval, in epochs, or train_cfg.type to '
            "'ReplayableIterLoop', which takes max_epochs too"
        )
    cfg.train_cfg.val_interval = interval
    if 'max_epochs' in cfg.train_cfg:
        cfg.train_cfg.val_by_epoch = False
    _default_hook(cfg, 'checkpoint', 'CheckpointHook').update(by_epoch=False, interval=interval)


def _counts_epochs_alone(cfg: Config) -> bool:
    """Whether the training loop is mmengine's by epochs."""
    return is_type(cfg.train_cfg, 'EpochBasedTrainLoop') or bool(cfg.train_cfg.get('by_epoch'))


def _default_hook(cfg: Config, name: str, kind: str) -> Any:
    """The config of one of the runner's default hooks, put there where a config leaves it to
    mmengine."""
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    if hooks.get(name) is None:
        hooks[name] = ConfigDict(type=kind)
    return hooks[name]
