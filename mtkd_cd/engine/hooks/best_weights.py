"""Keeps the best weights of a run in one fixed place, where the next step of the recipe looks for
them."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu

from mtkd_cd.core.checkpoint import read_checkpoint, save_checkpoint
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import BEST
from mtkd_cd.registry import HOOKS

RULES = ('greater', 'less', 'auto')


@HOOKS.register_module()
class BestWeightsHook(Hook):
    """Writes ``<work_dir>/best.pth`` after each validation that improves on all before it.

    The file holds the weights that were validated, which are not the model's own where another
    hook (mmengine's ``EMAHook``) swaps others in meanwhile: this hook saves before they are swapped
    back. It holds nothing but them and plain values about them, so it loads with
    ``weights_only=True``: ``dict(state_dict=..., meta=dict(iter, metric, score, config, digest))``.
    It is replaced atomically. A resumed run goes on from the score in the file. A run that ends
    without any validation leaves its last weights, those that its checkpoints hold, with a score
    of ``None``.

    Args:
        metric: Key of the validation metric that decides; ``'auto'``: ``mIoU`` where it is
            reported, else the first that is.
        rule: Whether ``'greater'`` or ``'less'`` is better; ``'auto'``: less for a loss or an
            error, by the metric's name, else greater.
        filename: Name of the file in the work dir.
    """

    priority = 'HIGHEST'

    def __init__(self, metric: str = 'mIoU', rule: str = 'greater', filename: str = BEST) -> None:
        if rule not in RULES:
            raise UserError(f"rule={rule!r}: choose 'greater', 'less' or 'auto'")
        self.metric = metric
        self.rule = rule
        self.filename = filename
        self._best: float | None = None
        self._written = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on from the score on disk when a run is resumed."""
        path = self._path(runner)
        if runner.cfg.get('resume') and path.is_file():
            score = read_checkpoint(path).get('meta', {}).get('score')
            if score is not None:
                self._best = score
                self._written = True

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Save the weights if they are the best so far."""
        metrics = metrics or {}
        if self.metric == 'auto' and metrics:
            self.metric = choose_metric(metrics)
        if self.metric not in metrics:
            raise UserError(
                f'BestWeightsHook(metric={self.metric!r}): the validation reports '
                f'{", ".join(metrics) or "nothing"}'
            )
        score = float(metrics[self.metric])
        if self._is_better(score):
            self._best = score
            self._written = True
            self._save(runner, _weights(runner), score)
            runner.logger.info(
                f'Best {self.metric} so far: {score:.2f} at iteration {runner.iter}, saved to '
                f'{self._path(runner)}'
            )

    def _is_better(self, score: float) -> bool:
        if math.isnan(score):
            return False
        if self._best is None:
            return True
        return score < self._best if is_less_better(self.metric, self.rule) else score > self._best

    def after_train(self, runner: Runner) -> None:
        """Leave the last weights where nothing was ever validated."""
        if not self._written:
            # Hooks that average weights put theirs into checkpoints.
            checkpoint: dict[str, Any] = dict(state_dict=_weights(runner), meta={})
            runner.call_hook('before_save_checkpoint', checkpoint=checkpoint)
            self._save(runner, checkpoint['state_dict'], None)
            runner.logger.info(
                f'No validation took place: the last weights are in {self._path(runner)}'
            )

    def _path(self, runner: Runner) -> Path:
        return Path(runner.work_dir) / self.filename

    @master_only
    def _save(self, runner: Runner, weights: dict, score: float | None) -> None:
        config = '/'.join(Path(runner.cfg.filename or '').parts[-2:])
        meta: dict[str, Any] = dict(
            iter=runner.iter, metric=self.metric, score=score, config=config
        )
        save_checkpoint(dict(state_dict=weights, meta=meta), self._path(runner))


def _weights(runner: Runner) -> dict:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return weights_to_cpu(model.state_dict())


def choose_metric(reported: Iterable[str]) -> str:
    """The metric that decides where none is named."""
    names = list(reported)
    return next((name for name in names if name.rpartition('/')[2] == 'mIoU'), names[0])


def is_less_better(metric: str, rule: str) -> bool:
    """Whether smaller scores of a metric are better."""
    if rule == 'auto':
        return any(word in metric.lower() for word in ('loss', 'error', 'mae', 'mse'))
    return rule == 'less'
