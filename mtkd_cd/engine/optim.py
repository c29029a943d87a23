"""What is optimised."""

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from mtkd_cd.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainableOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with frozen parameters left out; it hands them to the optimiser."""

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimiser of the parameters that require gradients."""
        wrapper = super().__call__(model)
        groups = wrapper.optimizer.param_groups
        for group in groups:
            group['params'] = [parameter for parameter in group['params'] if parameter.requires_grad]
        groups[:] = [group for group in groups if group['params']]
        return wrapper
