"""One run: who it is, its per-image table, the scores of its images."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mtkd_cd.evaluation import ImageTable, image_scores
from mtkd_cd.reporting.identity import RunIdentity


@dataclass(eq=False)
class Run:
    """One run: who it is, and the scores of its images.

    Attributes:
        identity: Model, strategy and seed.
        path: File of the table.
        table: The table.
    """

    identity: RunIdentity
    path: Path
    table: ImageTable

    def __str__(self) -> str:
        return f'{self.identity} ({self.path})'

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """(N,) of each score, in percent, by name."""
        return image_scores(self.table.counts, self.table.zero_division)
