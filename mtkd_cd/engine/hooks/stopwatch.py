"""How long a run has trained, interruptions included."""

import time

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtkd_cd.registry import HOOKS


@HOOKS.register_module()
class StopwatchHook(Hook):
    """Counts the seconds of a training run, validation included, across interruptions.

    The count travels in the checkpoints: after a resume it goes on from the time that the
    checkpoint had cost. ``seconds`` is the count.
    """

    def __init__(self) -> None:
        self._before = 0.0
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds trained so far."""
        return self._before + time.monotonic() - self._start

    def before_run(self, runner: Runner) -> None:
        """Start, before a checkpoint to resume from is loaded."""
        self._start = time.monotonic()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note the count in the checkpoint."""
        checkpoint['meta']['train_seconds'] = self.seconds

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on from the count of the checkpoint when a run is resumed."""
        if runner.cfg.get('resume'):
            self._before = checkpoint['meta'].get('train_seconds', 0.0)
