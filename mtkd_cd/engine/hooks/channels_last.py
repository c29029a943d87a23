"""Convolutions in the memory order that is fast on a GPU, with low precision and with AVX-512."""

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from mtkd_cd.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keeps 4-d weights as (out, height, width, in) in memory during training; a distiller's
    teachers too.

    Convolutions then give activations in the same order, whatever order the images come in. Shapes,
    names and values stay as they are, and so do results up to rounding. Our configs have this hook
    with ``on_cpu=None``; ``--amp`` turns it on for every CPU.

    Args:
        on_cpu: Whether to do so where the model is on the CPU; ``None``: where it is faster in
            float32, see :func:`is_faster_on_cpu`.
    """

    def __init__(self, on_cpu: bool | None = True) -> None:
        self.on_cpu = on_cpu

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Before a resumed run validates."""
        reorder_weights(runner.model, self.on_cpu)

    def before_train(self, runner: Runner) -> None:
        """After the weights have been initialised and teachers loaded."""
        reorder_weights(runner.model, self.on_cpu)
        for optimizer in _optimizers(runner.optim_wrapper):
            reorder_state(optimizer)


def reorder_weights(model: nn.Module, on_cpu: bool | None = None) -> None:
    """Keep the 4-d weights of a model in channels-last order.

    Args:
        model: The model, on the device that it is to run on.
        on_cpu: See :class:`ChannelsLastHook`.
    """
    if next(model.parameters()).device.type == 'cpu':
        wanted = is_faster_on_cpu(model) if on_cpu is None else on_cpu
    else:
        wanted = True
    if wanted:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def is_faster_on_cpu(model: nn.Module) -> bool:
    """Whether channels-last order makes float32 training faster on this CPU: where it has AVX-512
    and no convolution of the model is grouped. Measured, docs/measurements.md."""
    has_avx512 = torch.backends.cpu.get_cpu_capability() == 'AVX512'
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    return has_avx512 and all(one.groups == 1 for one in convolutions)


def reorder_state(optimizer: Optimizer) -> None:
    """Keep what an optimiser knows of each parameter in the parameter's memory order.

    A run that is resumed brings the order that it was saved in. On another machine the parameters
    may have another one, for which torch's fused optimisers fail on a GPU, and take the wrong
    numbers on the CPU.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            has_order = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if has_order and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _optimizers(wrapper: OptimWrapper | OptimWrapperDict) -> list[Optimizer]:
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [one.optimizer for one in wrappers]
