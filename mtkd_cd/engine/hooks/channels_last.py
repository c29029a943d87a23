"""Convolutions in the memory order that is fast on a GPU and with low precision."""

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
    for GPUs; ``--amp`` turns it on for the CPU too.

    Args:
        on_cpu: Whether to do so where the model is on the CPU. There it is not faster for every
            model in float32.
    """

    def __init__(self, on_cpu: bool = True) -> None:
        self.on_cpu = on_cpu

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Before a resumed run validates."""
        self._reorder(runner.model)

    def before_train(self, runner: Runner) -> None:
        """After the weights have been initialised and teachers loaded."""
        self._reorder(runner.model)
        for optimizer in _optimizers(runner.optim_wrapper):
            reorder_state(optimizer)

    def _reorder(self, model: nn.Module) -> None:
        if self.on_cpu or next(model.parameters()).device.type != 'cpu':
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


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
