"""What the processes of a run validate, made the same network in all of them."""

from mmengine.dist import broadcast, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mtkd_cd.registry import HOOKS


@HOOKS.register_module()
class SharedBuffersHook(Hook):
    """Gives every process the buffers of the first before a validation.

    Parameters are equal in all processes, running statistics are not where batch norm is not
    synchronised, as on the CPU: each process has seen other images. Every image is so scored by the
    network that ``best.pth`` and checkpoints hold, and a resumed run validates as an uninterrupted
    one does. The training tools add this hook to every run.
    """

    priority = 'LOWEST'  # after averaged weights are swapped in

    def before_val_epoch(self, runner: Runner) -> None:
        """Send them, where there are several processes."""
        if get_world_size() == 1:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for buffer in model.buffers():
            sent = buffer.contiguous()
            broadcast(sent)
            buffer.copy_(sent)
