"""Keeps the best weights of a run in one fixed place, where the next stage of the recipe looks for
them."""

import math
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu

from mtkd_cd.core.checkpoint import read_checkpoint, save_checkpoint
from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import HOOKS


@HOOKS.register_module()
class BestWeightsHook(Hook):
    """Writes ``<work_dir>/best.pth`` after each validation that improves on all before it.

    The file holds the weights alone, no optimiser, and plain values about them, so it loads with
    ``weights_only=True``: ``dict(state_dict=..., meta=dict(iter, metric, score, config))``. It is
        replaced atomically. A resumed run goes on from the score in
    the file. A run that ends without any validation leaves its last weights, with a score of
    ``None``.

    Args:
        metric: Key of the validation metric that decides.
        rule: ``'greater'`` or ``'less'`` is better.
        filename: Name of the file in the work dir.
    """

    priority = 'LOW'

    def __init__(
        self, metric: str = 'mIoU', rule: str = 'greater', filename: str = 'best.pth'
    ) -> None:
        if rule not in ('greater', 'less'):
            raise UserError(f"rule={rule!r}: choose 'greater' or 'less'")
        self.metric = metric
        self.sign = 1 if rule == 'greater' else -1
        self.filename = filename
        self._best = -math.inf  # times sign
        self._written = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on from the score on disk when a run is resumed."""
        path = self._path(runner)
        if runner.cfg.get('resume') and path.is_file():
            score = read_checkpoint(path).get('meta', {}).get('score')
            if score is not None:
                self._best = self.sign * score
                self._written = True

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Save the weights if they are the best so far."""
        if metrics is None or self.metric not in metrics:
            raise UserError(
                f'BestWeightsHook(metric={self.metric!r}): the validation reports '
                f'{", ".join(metrics or {}) or "nothing"}'
            )
        score = float(metrics[self.metric])
        # NaN (a diverged run) compares as no improvement.
        if self.sign * score > self._best:
            self._best = self.sign * score
            self._written = True
            self._save(runner, score)
            runner.logger.info(
                f'Best {self.metric} so far: {score:.2f} at iteration {runner.iter}, saved to '
                f'{self._path(runner)}'
            )

    def after_train(self, runner: Runner) -> None:
        """Leave the last weights where nothing was ever validated."""
        if not self._written:
            self._save(runner, None)
            runner.logger.info(
                f'No validation took place: the last weights are in {self._path(runner)}'
            )

    def _path(self, runner: Runner) -> Path:
        return Path(runner.work_dir) / self.filename

    @master_only
    def _save(self, runner: Runner, score: float | None) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        config = '/'.join(Path(runner.cfg.filename or '').parts[-2:])
        meta: dict[str, Any] = dict(
            iter=runner.iter, metric=self.metric, score=score, config=config
        )
        save_checkpoint(
            dict(state_dict=weights_to_cpu(model.state_dict()), meta=meta), self._path(runner)
        )
