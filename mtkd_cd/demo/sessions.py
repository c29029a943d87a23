"""The predictions that the page keeps, one for each visitor, and their folders."""

import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from mtkd_cd.core.errors import UserError
from mtkd_cd.demo.prediction import Prediction

KEPT_SECONDS = 3600  # that what a visitor has left lying is kept
SWEEP_SECONDS = 300


class Sessions:
    """The latest prediction of each visitor. What is given up is removed from the disk.

    Args:
        folder: Where the predictions' folders are made.
        capacity: Visitors whose predictions are kept; the one who was away longest goes first.
    """

    def __init__(self, folder: Path, capacity: int = 4) -> None:
        self.folder = folder
        self.capacity = capacity
        self._kept: OrderedDict[str, Prediction] = OrderedDict()
        self._used: dict[str, float] = {}
        self._lock = threading.Lock()

    def new_folder(self) -> Path:
        """An empty folder for a prediction."""
        return Path(tempfile.mkdtemp(prefix='prediction-', dir=self.folder))

    def keep(self, visitor: str, prediction: Prediction) -> None:
        """Keep a visitor's prediction instead of the last one."""
        with self._lock:
            given_up = [self._kept.pop(visitor, None)]
            self._kept[visitor] = prediction
            self._used[visitor] = time.monotonic()
            while len(self._kept) > self.capacity:
                given_up.append(self._kept.popitem(last=False)[1])
        _remove(given_up)

    def get(self, visitor: str) -> Prediction:
        """The visitor's prediction.

        Raises:
            UserError: It has been given up.
        """
        with self._lock:
            if visitor not in self._kept:
                raise UserError(
                    'this prediction is no longer kept, since others have come after it: press '
                    'Predict again'
                )
            self._kept.move_to_end(visitor)
            self._used[visitor] = time.monotonic()
            return self._kept[visitor]

    def close(self, visitor: str) -> None:
        """Give up what a visitor who has left had."""
        with self._lock:
            given_up = self._kept.pop(visitor, None)
        _remove([given_up])

    def sweep(self, seconds: float) -> None:
        """Give up the predictions of visitors who were away for longer than that."""
        latest = time.monotonic() - seconds
        with self._lock:
            away = [visitor for visitor in self._kept if self._used[visitor] < latest]
            given_up = [self._kept.pop(visitor) for visitor in away]
            self._used = {visitor: self._used[visitor] for visitor in self._kept}
        _remove(given_up)

    def __len__(self) -> int:
        return len(self._kept)


def _remove(given_up: Sequence[Prediction | None]) -> None:
    """Outside of the lock: a prediction may be writing its files still."""
    for prediction in given_up:
        if prediction is not None:
            prediction.remove()
