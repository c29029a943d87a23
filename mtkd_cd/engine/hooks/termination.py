"""An orderly end when the machine is wanted back: SIGTERM, as Slurm and docker send it."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mtkd_cd.registry import HOOKS

EXIT_TERMINATED = 143  # 128 + SIGTERM, as shells report it
# Processes agree to end together, which costs a message each time: so many iterations apart at
# most, and so many seconds.
_ASK_ITERATIONS = 10
_ASK_SECONDS = 5.0
_GRACE = 25  # seconds: a loader's worker lives on for the step and the save; Slurm kills after 30


class Terminated(SystemExit):
    """The process was asked to end, and has saved what there was to save."""

    def __init__(self, message: str) -> None:
        super().__init__(EXIT_TERMINATED)
        self.message = message
        if is_main_process():
            print(message, file=sys.stderr, flush=True)


@HOOKS.register_module()
class TerminationHook(Hook):
    """After SIGTERM: finishes the step, saves a checkpoint, says so, and ends with exit code 143.

    Inside a validation, and in a loop by epochs, whose checkpoints are exact at the end of an epoch
    only, it ends at once and says where the run will go on. A second SIGTERM does not wait for
    anything. The training tools add this hook to every run and listen to the signal meanwhile
    (:meth:`listening`).
    """

    priority = 'LOWEST'  # after the checkpoint that the step may bring itself

    def __init__(self) -> None:
        self._asked = False
        self._training = False
        self._next = 0  # iteration of the next agreement
        self._apart = 1  # iterations since the last one
        self._since = time.monotonic()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signal while the block runs; in the main thread, elsewhere Python can't."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)

    def _on_signal(self, *_: Any) -> None:
        if self._asked or not self._training:
            raise Terminated('stopped by SIGTERM')
        self._asked = True

    def before_train(self, runner: Runner) -> None:
        """From now on there is something to save."""
        self._training = True

    def after_train(self, runner: Runner) -> None:
        """From now on there is nothing to save."""
        self._training = False

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save and end, if the process has been asked to."""
        if get_world_size() > 1 and not self._agree(runner.iter):
            return
        if self._asked:
            self._end(runner, runner.iter + 1)

    def _agree(self, iteration: int) -> bool:
        """Whether this is an iteration at which the processes tell each other."""
        if iteration < self._next:
            return False
        now = time.monotonic()
        told = torch.tensor([float(self._asked), (now - self._since) / self._apart])
        all_reduce(told, 'max')
        self._asked, seconds = bool(told[0]), float(told[1])
        fitting = int(_ASK_SECONDS / max(seconds, 1e-3))
        self._apart = min(_ASK_ITERATIONS, max(1, fitting))
        self._next, self._since = iteration + self._apart, now
        return True

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """End, if the process has been asked to."""
        if self._asked:
            raise Terminated(_without_save(runner, 'in the validation', runner.iter))

    def _end(self, runner: Runner, iteration: int) -> None:
        saving = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        if saving is None or saving.by_epoch or isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise Terminated(_without_save(runner, 'between two checkpoints', iteration))
        path = saving.file_backend.join_path(saving.out_dir, saving.filename_tmpl.format(iteration))
        if not saving.file_backend.isfile(path):
            saving._save_checkpoint(runner)
        barrier()  # one process saves, the others wait for it
        raise Terminated(
            f'stopped by SIGTERM at iteration {iteration}: saved {path}. Go on with the same '
            'command and --resume'
        )


def _without_save(runner: Runner, where: str, iteration: int) -> str:
    last = Path(runner.work_dir) / 'last_checkpoint'
    goes_on = (
        f'from {last.read_text().strip()}' if last.is_file() else 'from the start: none is there'
    )
    return (
        f'stopped by SIGTERM {where}, at iteration {iteration}: the same command with --resume '
        f'goes on {goes_on}'
    )


class PatientWorker:
    """Starts a loader's worker as the loader's own function does. After SIGTERM, which Slurm sends
    to every process, the worker serves for :data:`_GRACE` more seconds, since the step that is
    being finished may need it."""

    def __init__(self, init: Callable[[int], Any] | None) -> None:
        self.init = init

    def __call__(self, worker: int) -> None:
        """In the worker's process, when it starts."""
        if self.init is not None:
            self.init(worker)
        if hasattr(signal, 'setitimer'):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, lambda *_: signal.setitimer(signal.ITIMER_REAL, _GRACE))
