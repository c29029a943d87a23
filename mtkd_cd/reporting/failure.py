"""When O-P fails: where the cascade sent the images, and what that gained or lost
(arXiv:2502.13407, Appendix F and Figure 10)."""

from dataclasses import dataclass

import numpy as np

from mtkd_cd.core.car import CARPartition
from mtkd_cd.reporting.comparison import Comparison, Entry, mean_over_runs
from mtkd_cd.reporting.identity import base_strategy
from mtkd_cd.reporting.scored_run import Run


@dataclass(frozen=True)
class CascadeAnalysis:
    """A cascade's choices on M images, those of all its seeds together.

    Attributes:
        entry: The cascade.
        origin: What its gains are relative to; ``None`` where no such run was given.
        partition: Ranges of the true CAR.
        true_cars: (M,) of the labels.
        coarse_cars: (M,) that the cascade's origin predicted.
        chosen: Names of the ranges, or other detectors, that images were sent to: the columns of
            the matrices.
        counts: (ranges, chosen) images.
        gains: (ranges, chosen) sum over the cell's images of the mIoU gained against the origin, in
            percentage points; ``None`` without.
        follows: Share of the images that were sent where the thresholds send their coarse CAR;
            below 1 for another routing.
    """

    entry: Entry
    origin: Entry | None
    partition: CARPartition
    true_cars: np.ndarray
    coarse_cars: np.ndarray
    chosen: tuple[str, ...]
    counts: np.ndarray
    gains: np.ndarray | None
    follows: float

    @property
    def mean_gains(self) -> np.ndarray | None:
        """(ranges, chosen) mean mIoU gained by the images of a cell; NaN in an empty cell."""
        if self.gains is None:
            return None
        return np.divide(
            self.gains, self.counts, out=np.full(self.gains.shape, np.nan), where=self.counts > 0
        )


def analyse_cascades(comparison: Comparison) -> list[CascadeAnalysis]:
    """One analysis for each entry whose tables hold ``coarse_car`` and ``coarse_range`` of every
    image."""
    return [
        _analyse(entry, comparison)
        for entry in comparison.entries
        if all(map(_is_cascade, entry.runs))
    ]


def _is_cascade(run: Run) -> bool:
    return None not in run.table.coarse_cars and None not in run.table.coarse_ranges


def _analyse(entry: Entry, comparison: Comparison) -> CascadeAnalysis:
    partition = entry.runs[0].table.partition
    # float32, which the cascade compares with the thresholds.
    coarse = np.concatenate([np.array(run.table.coarse_cars, np.float32) for run in entry.runs])
    ranges = [name for run in entry.runs for name in run.table.coarse_ranges if name is not None]
    true_cars = np.tile(comparison.cars, len(entry.runs))
    chosen = (*partition.names, *sorted(set(ranges) - set(partition.names)))
    cells = partition.range_of(true_cars), np.array([chosen.index(name) for name in ranges])
    shape = len(partition), len(chosen)
    counts = np.zeros(shape, np.int64)
    np.add.at(counts, cells, 1)
    origin = _origin_of(entry, comparison)
    gains = None
    if origin is not None:
        gains = np.zeros(shape)
        np.add.at(gains, cells, np.concatenate([_gain(run, origin) for run in entry.runs]))
    return CascadeAnalysis(
        entry=entry,
        origin=origin,
        partition=partition,
        true_cars=true_cars,
        coarse_cars=coarse.astype(np.float64),
        chosen=chosen,
        counts=counts,
        gains=gains,
        follows=float(
            np.mean(
                [
                    partition.names[index] == name
                    for index, name in zip(partition.range_of(coarse), ranges)
                ]
            )
        ),
    )


def _origin_of(entry: Entry, comparison: Comparison) -> Entry | None:
    label = entry.strategy.removesuffix(base_strategy(entry.strategy))
    difference = comparison.references[0].differences.get(entry)
    return comparison.find(entry.model, f'{label}origin') or (
        difference.reference if difference else None
    )


def _gain(run: Run, origin: Entry) -> np.ndarray:
    """(N,) mIoU of a run less that of the origin of the same seed, or of the origin's mean where it
    lacks the seed."""
    same = [
        other for other in origin.runs if other.identity.seed == run.identity.seed
    ] or origin.runs
    return run.scores['mIoU'] - mean_over_runs(same)['mIoU']
