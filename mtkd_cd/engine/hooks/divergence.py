"""Ends a training that has diverged, before anything of it is saved or scored."""

import math
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mtkd_cd.core.checkpoint import non_finite
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.text import some
from mtkd_cd.engine.config import is_type
from mtkd_cd.registry import HOOKS

_SHOWN = 3


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Stops at the first loss that is not a finite number. Weights that are not finite are neither
    validated nor saved.

    The loss is the number that mmengine has already fetched for its log, so that the device is not
    asked twice. The training tools add this hook to every run.
    """

    priority = 'LOW'  # after the loss is logged and averaged weights are swapped in, before a save

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Look at the loss. Raises a UserError when it is not finite."""
        loss = _logged_loss(runner, outputs)
        if loss is None:
            return
        if not math.isfinite(loss):
            self._stop(runner, runner.iter + 1, f'the loss is {loss}')
        self._last = (runner.iter + 1, loss)

    def before_val_epoch(self, runner: Runner) -> None:
        """Look at the weights that are going to be validated."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._check(runner, runner.iter, model.state_dict())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look at the weights that are going to be saved."""
        self._check(runner, checkpoint.get('meta', {}).get('iter', 0), checkpoint['state_dict'])

    def _check(self, runner: Runner, iteration: int, weights: dict) -> None:
        names = non_finite(weights)
        if names:
            self._stop(
                runner,
                iteration,
                f'weights are no finite numbers ({some(names, _SHOWN)})',
            )

    def _stop(self, runner: Runner, iteration: int, what: str) -> None:
        before = (
            f'the last finite loss was {self._last[1]:.6g} at iteration {self._last[0]}'
            if self._last
            else 'no loss before it was finite'
        )
        raise UserError(
            f'training diverged at iteration {iteration}: {what}; {before}. {_advice(runner)}. '
            f'Nothing of it was saved; what {runner.work_dir} held before is as it was'
        )


def _logged_loss(runner: Runner, outputs: Any) -> float | None:
    """The loss of this step as the message hub has it, a Python number; else from the step."""
    scalars = runner.message_hub.log_scalars
    if 'train/loss' in scalars:
        return float(scalars['train/loss'].current())
    if isinstance(outputs, dict) and 'loss' in outputs:
        return float(outputs['loss'])
    return None


def _advice(runner: Runner) -> str:
    wrapper = runner.cfg.get('optim_wrapper') or {}
    lr = (wrapper.get('optimizer') or {}).get('lr')
    advice = f'Lower the learning rate (optim_wrapper.optimizer.lr is {lr})'
    model = runner.cfg.get('model') or {}
    if 'distill_loss' in model:
        weight = model['distill_loss'].get('loss_weight')
        advice += (
            f', or the weight of the distillation (model.distill_loss.loss_weight is {weight})'
        )
    if wrapper.get('type') and not is_type(wrapper, 'OptimWrapper'):
        advice += ', or train without --amp'
    if 'clip_grad' not in wrapper:
        advice += ', or clip gradients (optim_wrapper.clip_grad.max_norm=1)'
    return advice
