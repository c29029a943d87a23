"""What is optimised, and in which precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from mtkd_cd.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainableOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with frozen parameters left out; it hands them to the optimiser."""

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimiser of the parameters that require gradients."""
        wrapper = super().__call__(model)
        groups = wrapper.optimizer.param_groups
        for group in groups:
            group['params'] = [
                parameter for parameter in group['params'] if parameter.requires_grad
            ]
        groups[:] = [group for group in groups if group['params']]
        return wrapper


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Training in mixed precision where bfloat16 is the type at hand: on the CPU, which mmengine's
    ``AmpOptimWrapper`` refuses.

    bfloat16 has the range of float32, so that the loss needs no scaling. Weights, gradients and
    optimiser state stay float32.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of a training step's forward pass."""
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16):
            yield
