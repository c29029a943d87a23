"""What mmengine's checkpoints lack for a resumed run to go on exactly, and a digest of them."""

from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor

from mtkd_cd.core.checkpoint import add_digest
from mtkd_cd.registry import HOOKS

_GRADIENTS = 'accumulated_gradients'


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Keeps what mmengine leaves out of a checkpoint. A checkpoint that is written between two
    steps of the optimiser gets the gradients accumulated so far; every checkpoint gets its digest.
    A run that is resumed from one takes the gradients back.

    The training tools add this hook to every run.
    """

    priority = 'LOWEST'  # the digest is of what every other hook has put in

    def __init__(self) -> None:
        self._gradients: dict[str, Tensor] | None = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add gradients and digest."""
        steps = checkpoint['meta'].get('iter', 0)
        if 'optimizer' in checkpoint and inside_cycle(runner.optim_wrapper, steps):
            checkpoint[_GRADIENTS] = {
                name: parameter.grad.cpu()
                for name, parameter in runner.model.named_parameters()
                if parameter.grad is not None
            }
        add_digest(checkpoint)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the gradients of a checkpoint that a run is resumed from."""
        if runner.cfg.get('resume'):
            self._gradients = checkpoint.get(_GRADIENTS)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Put them in their places before the first step."""
        if self._gradients is None:
            return
        for name, parameter in runner.model.named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients[name].to(parameter)
        self._gradients = None


def inside_cycle(wrapper: Any, steps: int) -> bool:
    """Whether gradients of earlier steps wait for the optimiser's next after so many steps."""
    return isinstance(wrapper, OptimWrapper) and steps % wrapper._accumulative_counts != 0


def inexact_because(runner: Runner, steps: int) -> list[str]:
    """What keeps a run resumed after so many steps from being exactly the uninterrupted one."""
    from mtkd_cd.engine.optim import BFloat16OptimWrapper
    from mtkd_cd.engine.replay import ReplayableIterLoop

    reasons = []
    loop, wrapper = type(runner.train_loop), runner.optim_wrapper
    if not issubclass(loop, ReplayableIterLoop):
        reasons.append(
            f'{loop.__name__} draws augmentation and dropout anew after a resume '
            "(train_cfg.type='ReplayableIterLoop', by max_iters or max_epochs, does not)"
        )
    known = isinstance(wrapper, OptimWrapper) and (
        type(wrapper).__module__.startswith('mmengine.') or type(wrapper) is BFloat16OptimWrapper
    )
    if not known and type(wrapper).state_dict in (OptimWrapper.state_dict, None):
        reasons.append(
            f'{type(wrapper).__name__} has no state_dict of its own: whatever it keeps beside the '
            "optimiser's state starts anew"
        )
    if any(isinstance(hook, EarlyStoppingHook) for hook in runner.hooks):
        reasons.append('EarlyStoppingHook keeps nothing in a checkpoint: its patience starts anew')
    if get_world_size() > 1 and inside_cycle(wrapper, steps):
        reasons.append(
            f'iteration {steps} is between two steps of the optimiser '
            f'(accumulative_counts={wrapper._accumulative_counts}): of the gradients accumulated '
            'since the last, those of the first process alone are in the checkpoint'
        )
    return reasons
