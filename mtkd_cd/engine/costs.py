"""Options that change what a config costs in time and memory: precision, compiling, kept images,
gradients of several batches, layers computed again."""

from typing import Any

import mmengine.device.utils
from mmengine.config import Config

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.precision import FULL, as_precision
from mtkd_cd.engine.config import DISTILLER, is_cascade, is_type, nodes, own_type

# Arguments of `set_costs`.
COSTS = (
    'amp',
    'compile',
    'cache',
    'accumulate',
    'checkpoint_activations',
    'teacher_precision',
)


def set_costs(
    cfg: Config,
    *,
    amp: bool = False,
    compile: bool = False,
    cache: str = 'none',
    accumulate: int | None = None,
    checkpoint_activations: bool = False,
    teacher_precision: str | None = None,
) -> None:
    """What training costs; call :func:`~mtkd_cd.engine.machine.set_machine` first.

    Args:
        cfg: The config.
        amp: See :func:`set_amp`.
        compile: See :func:`set_compile`.
        cache: ``'none'``, or see :func:`set_cache`.
        accumulate: See :func:`set_accumulation`.
        checkpoint_activations: See :func:`set_checkpointing`.
        teacher_precision: See :func:`set_teacher_precision`; ``None`` leaves the config's own.

    Raises:
        UserError: As :func:`set_amp` and :func:`set_teacher_precision` do.
    """
    if amp:
        set_amp(cfg)
    if compile:
        set_compile(cfg)
    if cache != 'none':
        set_cache(cfg, cache)
    if accumulate is not None:
        set_accumulation(cfg, accumulate)
    if checkpoint_activations:
        set_checkpointing(cfg)
    if teacher_precision is not None:
        set_teacher_precision(cfg, teacher_precision)


def set_amp(cfg: Config) -> None:
    """Train in mixed precision: float16 with a dynamic loss scale on a GPU, bfloat16 on the CPU;
    convolutions in channels-last order.

    Call :func:`~mtkd_cd.engine.machine.set_machine` first. Validation and tests stay float32.

    Raises:
        UserError: An optimiser wrapper that has no mixed precision.
    """
    wrapper = cfg.optim_wrapper
    wrapper.setdefault('type', 'OptimWrapper')
    if not is_type(wrapper, 'OptimWrapper', 'AmpOptimWrapper'):
        raise UserError(
            f'--amp: the config has optim_wrapper.type={wrapper.type!r}; it works with OptimWrapper'
        )
    if is_type(wrapper, 'OptimWrapper'):
        on_cpu = mmengine.device.utils.get_device() == 'cpu'
        wrapper.update(
            dict(type=own_type(cfg, 'BFloat16OptimWrapper'))
            if on_cpu
            else dict(type='AmpOptimWrapper', loss_scale='dynamic')
        )
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in hooks if not is_type(hook, 'ChannelsLastHook')]
    _add_hook(cfg, 'ChannelsLastHook')


def set_compile(cfg: Config) -> None:
    """Compile the detector in training, and a distiller's teachers."""
    _add_hook(cfg, 'CompileHook')
    if is_type(cfg.get('model'), DISTILLER):
        compile_teachers(cfg)


def compile_teachers(cfg: Config) -> None:
    """Compile the teachers of a distiller; those of one architecture share what is compiled."""
    _set_teacher_option(cfg, 'compiled', True)


def set_cache(cfg: Config, kind: str) -> None:
    """Keep decoded images of training (a student's own data too) and validation, which are read
    again and again.

    Args:
        cfg: The config.
        kind: ``'ram'`` or ``'disk'``, see :func:`~mtkd_cd.data.decoded.open_cache`.
    """
    for loader in ('train_dataloader', 'student_train_dataloader', 'val_dataloader'):
        for node in nodes(cfg.get(loader) or {}):
            if is_type(node, 'MultiImgLoadImageFromFile', 'MultiImgLoadAnnotations'):
                node.cache = kind


def set_accumulation(cfg: Config, steps: int) -> None:
    """Add up the gradients of several batches before each step of the optimiser; iterations go on
    to count batches."""
    cfg.optim_wrapper.accumulative_counts = steps


def set_checkpointing(cfg: Config) -> None:
    """Compute transformer layers again in the backward pass."""
    _add_hook(cfg, 'ActivationCheckpointingHook')


def set_teacher_precision(cfg: Config, precision: str) -> None:
    """Let the teachers of a distiller compute in this precision.

    Raises:
        UserError: An unknown precision, or a config without teachers.
    """
    precision = as_precision(precision)
    has_teachers = is_type(cfg.get('model'), DISTILLER)
    if has_teachers and precision != cfg.model.get('teacher_options', {}).get('precision', FULL):
        _set_teacher_option(cfg, 'precision', precision)
    elif not has_teachers and precision != FULL:
        raise UserError(
            f'--teacher-precision {precision}: {cfg.filename} has no teachers, its model is '
            f'{cfg.model.get("type")}; leave it out, or train the config of that name in '
            'configs/mtkd/'
        )


def _set_teacher_option(cfg: Config, name: str, value: Any) -> None:
    cfg.model.teacher_options = {**cfg.model.get('teacher_options', {}), name: value}


def _add_hook(cfg: Config, name: str) -> None:
    hook = dict(type=own_type(cfg, name))
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]


def set_precision(cfg: Config, precision: str) -> None:
    """Let a config's test compute in this precision.

    Raises:
        UserError: There is no such precision.
    """
    cfg.precision = as_precision(precision)
    if is_cascade(cfg):
        cfg.model.precision = precision
