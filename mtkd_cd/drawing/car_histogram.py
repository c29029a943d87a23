"""The CAR histogram that every figure draws: bars over the logarithm of the CAR."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.text import percent_text

if TYPE_CHECKING:  # matplotlib is imported by whoever makes the axes
    from matplotlib.axes import Axes

SMALLEST_DRAWN_CAR = 1e-4
_THRESHOLD = '#000000'


def draw_car_histogram(
    axis: 'Axes', sets: Mapping[str, tuple[np.ndarray, str]], partition: CARPartition
) -> None:
    """Draw histograms of one or two sets of CARs, and the thresholds.

    CAR = 0, which has no logarithm, has a bar of its own on the left.

    Args:
        axis: Where to.
        sets: (N,) CARs and the colour, by name. The first is drawn as bars, the others as steps.
        partition: Its thresholds are dashed.
    """
    edges = np.linspace(np.log10(SMALLEST_DRAWN_CAR), 0, 33)
    width = edges[1] - edges[0]
    none_at = edges[0] - 4 * width
    for place, (name, (cars, colour)) in enumerate(sets.items()):
        counts, _ = np.histogram(np.log10(np.clip(cars[cars > 0], SMALLEST_DRAWN_CAR, 1)), edges)
        unchanged = np.count_nonzero(cars == 0)
        if place == 0:
            filled = counts > 0  # the others have nothing to see, and take as long to draw
            axis.bar(
                edges[:-1][filled],
                counts[filled],
                width,
                align='edge',
                color=colour,
                alpha=0.85,
                edgecolor='white',
                linewidth=0.5,
                label=name,
            )
            axis.bar(
                none_at,
                unchanged,
                width,
                color=colour,
                alpha=0.85,
                hatch='////',
                edgecolor='white',
                linewidth=0.5,
            )
        else:
            axis.stairs(counts, edges, color=colour, linewidth=1.6, label=name)
            axis.plot(
                [none_at - 0.7 * width, none_at + 0.7 * width],
                [unchanged] * 2,
                color=colour,
                linewidth=1.6,
            )
    for threshold in partition.thresholds:
        axis.axvline(np.log10(threshold), color=_THRESHOLD, linestyle='--', linewidth=1)
    ticks, labels = car_ticks(partition)
    axis.set_xticks([none_at, *np.log10(ticks)], ['0', *labels])
    axis.set_xlim(none_at - 1.5 * width, 0)


def car_ticks(partition: CARPartition) -> tuple[list[float], list[str]]:
    """Powers of ten, but for those beside a threshold, and the thresholds."""
    decades = [
        tick
        for tick in (1e-4, 1e-3, 0.01, 0.1, 1)
        if all(abs(np.log10(tick / edge)) > 0.34 for edge in partition.thresholds)
    ]
    ticks = sorted([*decades, *partition.thresholds])
    return ticks, [percent_text(tick).replace(' ', '\u2009') for tick in ticks]
