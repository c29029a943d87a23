"""The Change Area Ratio (CAR) of a label and the partition of [0, 1] into named CAR ranges: the
only place where a threshold is compared.

Paper: arXiv:2502.13407, section 4.1.
"""

import itertools
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar, overload

import numpy as np

from mtkd_cd.core.errors import UserError

if TYPE_CHECKING:  # importing torch takes seconds, and the tools for tables do without it
    from torch import Tensor
    from typing_extensions import TypeIs

ArrayOrTensor = TypeVar('ArrayOrTensor', np.ndarray, 'Tensor')

IGNORE_INDEX = 255  # of a loaded label: pixels that count nowhere
DEFAULT_THRESHOLDS = (0.05, 0.2)
ThresholdRule = Literal['images', 'pixels', 'log']
THRESHOLD_RULES: dict[ThresholdRule, str] = {
    'images': 'equally many images',
    'pixels': 'equally many changed pixels',
    'log': 'equal steps in log CAR',
}
_DEFAULT_NAMES: dict[int, tuple[str, ...]] = {
    2: ('small', 'large'),
    3: ('small', 'medium', 'large'),
}


def is_tensor(value: object) -> 'TypeIs[Tensor]':
    """Whether ``value`` is a torch tensor, found out without importing torch."""
    torch = sys.modules.get('torch')
    return torch is not None and isinstance(value, torch.Tensor)


def change_area_ratio(label: ArrayOrTensor, ignore_index: int = IGNORE_INDEX) -> ArrayOrTensor:
    """Fraction of valid pixels that changed, per image (the paper's CAR, arXiv:2502.13407, section
    4.1).

    Args:
        label: (..., H, W) integers, array or tensor: 0 unchanged, 1 changed, ``ignore_index`` not
            counted.

    Returns:
        (...) in [0, 1], of the kind that came in: float64 array or float32 tensor. 0 for an image
        without a valid pixel.
    """
    changed = label == 1
    valid = label != ignore_index
    if isinstance(label, np.ndarray) and label.ndim == 2:  # counted four times as fast as summed
        return np.float64(np.count_nonzero(changed)) / max(np.count_nonzero(valid), 1)
    if isinstance(label, np.ndarray):
        return changed.sum((-2, -1)) / np.maximum(valid.sum((-2, -1)), 1)
    return changed.sum((-2, -1)) / valid.sum((-2, -1)).clamp(min=1)


class CARPartition:
    """Increasing thresholds that cut [0, 1] into named ranges of CAR.

    A CAR that equals a threshold belongs to the range below it, as in the paper's split. With the
    default ``(0.05, 0.2)``, ``small`` is CAR <= 0.05, ``medium`` is 0.05 < CAR <= 0.2 and ``large``
    is CAR > 0.2.

    Args:
        thresholds: Strictly increasing, inside (0, 1); one fewer than there are ranges.
        names: One per range, from the smallest CAR up. Default: ``small, large`` for two ranges,
            ``small, medium, large`` for three, ``range0, range1, ...`` beyond.

    Raises:
        UserError: Thresholds out of order or outside (0, 1); names that are not unique or of the
            wrong number.
    """

    def __init__(
        self, thresholds: Sequence[float] = DEFAULT_THRESHOLDS, names: Sequence[str] | None = None
    ) -> None:
        self.thresholds = _checked_thresholds(thresholds)
        num_ranges = len(self.thresholds) + 1
        if names is None:
            names = _DEFAULT_NAMES.get(num_ranges, tuple(f'range{i}' for i in range(num_ranges)))
        texts = isinstance(names, Sequence) and not isinstance(names, str)
        if not texts or not all(isinstance(name, str) and name for name in names):
            raise UserError(f'names={names!r}: a list of texts is needed, one for each range')
        self.names = tuple(names)
        if len(self.names) != num_ranges or len(set(self.names)) != num_ranges:
            raise UserError(
                f'names={self.names}: {num_ranges} different names are needed, one for each range '
                f'that thresholds={self.thresholds} make'
            )

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CARPartition) and (self.thresholds, self.names) == (
            other.thresholds,
            other.names,
        )

    def __hash__(self) -> int:
        return hash((self.thresholds, self.names))

    @property
    def tag(self) -> str:
        """``0.1`` or ``0.1_0.3``, the thresholds as folder names hold them.

        Empty for the default thresholds.
        """
        return '_'.join(map(repr, self.thresholds)) if self.thresholds != DEFAULT_THRESHOLDS else ''

    def __repr__(self) -> str:
        return f'CARPartition(thresholds={self.thresholds}, names={self.names})'

    def __str__(self) -> str:
        """``small: CAR <= 0.05, medium: 0.05 < CAR <= 0.2, large: CAR > 0.2``."""
        return ', '.join(f'{name}: {self.bounds_text(name)}' for name in self.names)

    def index_of_name(self, name: str) -> int:
        """Position of the range called ``name``.

        Raises:
            UserError: There is no such range; lists those there are.
        """
        if name not in self.names:
            raise UserError(
                f'unknown CAR range {name!r}: this partition has {", ".join(self.names)} ({self})'
            )
        return self.names.index(name)

    def bounds(self, name: str) -> tuple[float, float]:
        """(low, high) of a range: it holds the CARs with low < CAR <= high, and CAR = 0 if it is
        the first."""
        edges = (0.0, *self.thresholds, 1.0)
        index = self.index_of_name(name)
        return edges[index], edges[index + 1]

    def bounds_text(self, name: str) -> str:
        """The range in words: ``CAR <= 0.05``, ``0.05 < CAR <= 0.2``, ``CAR > 0.2``."""
        low, high = self.bounds(name)
        index = self.index_of_name(name)
        if index == 0:
            return f'CAR <= {high:g}'
        return f'CAR > {low:g}' if index == len(self) - 1 else f'{low:g} < CAR <= {high:g}'

    @overload
    def range_of(self, car: float, right: bool = ...) -> int: ...
    @overload
    def range_of(self, car: ArrayOrTensor, right: bool = ...) -> ArrayOrTensor: ...
    def range_of(self, car, right=True):
        """Index of the range that each CAR lies in; ``names[index]`` is its name.

        The comparison happens in the precision of ``car``, so that a float32 CAR of exactly 1/20
        equals the threshold 0.05.

        Args:
            car: A number, an array or a tensor of any shape, values in [0, 1].
            right: Whether a range contains its upper threshold. ``False`` gives Open-CD's ``<`` and
                is there for comparison only.

        Returns:
            An ``int`` for a Python number, else int64 of the shape and kind of ``car``.

        Raises:
            UserError: A value outside [0, 1] or not a number.
        """
        if is_tensor(car):
            import torch

            thresholds = torch.tensor(self.thresholds, dtype=car.dtype, device=car.device)
            self._check_cars(bool(((car >= 0) & (car <= 1)).all()), car)
            return torch.bucketize(car, thresholds, right=not right)
        array = np.asarray(car)
        if not np.issubdtype(array.dtype, np.floating):
            array = array.astype(np.float64)
        self._check_cars(bool(((array >= 0) & (array <= 1)).all()), car)
        index = np.searchsorted(
            np.asarray(self.thresholds, array.dtype), array, side='left' if right else 'right'
        )
        return index.astype(np.int64) if isinstance(car, np.ndarray) else int(index)

    def counts(self, cars: np.ndarray) -> dict[str, int]:
        """How many of ``cars`` lie in each range."""
        counts = np.bincount(self.range_of(np.asarray(cars)), minlength=len(self))
        return dict(zip(self.names, counts.tolist()))

    @staticmethod
    def _check_cars(valid: bool, car: object) -> None:
        if not valid:
            raise UserError(f'a Change Area Ratio lies in [0, 1], found {car}')


def _checked_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    values = tuple(thresholds) if isinstance(thresholds, Iterable) else (thresholds,)
    numbers = all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in values
    )
    if (
        not values
        or not numbers
        or not all(0 < value < 1 for value in values)
        or any(a >= b for a, b in itertools.pairwise(values))
    ):
        raise UserError(
            f'thresholds={thresholds!r}: CAR thresholds are numbers between 0 and 1 (both '
            'excluded) in increasing order, '
            'for instance (0.05, 0.2)'
        )
    return tuple(float(value) for value in values)


def suggest_thresholds(
    cars: np.ndarray,
    num_ranges: int,
    rule: ThresholdRule = 'images',
    changed_pixels: np.ndarray | None = None,
) -> tuple[float, ...]:
    """Thresholds that cut ``cars`` into ``num_ranges`` ranges, none of them empty.

    Args:
        cars: (N,) CAR of each image of a data set.
        num_ranges: How many ranges are wanted; fewer result where the data set has fewer different
            values.
        rule: What the ranges have equally much of: ``'images'``, ``'pixels'`` (changed pixels), or
            ``'log'``: equal steps in log CAR between the 5 % and the 95 % quantile of the changed
            images, since the extremes are single images.
        changed_pixels: (N,) changed pixels of each image, for ``'pixels'``; without them all images
            count as equally large.

    Returns:
        Strictly increasing thresholds inside (0, 1), rounded as far as that moves at most one image
        in a hundred.

    Raises:
        UserError: An unknown rule.
    """
    cars = np.asarray(cars, np.float64)
    values = np.unique(cars)
    num_cuts = min(num_ranges, len(values)) - 1
    if num_cuts < 1:
        return ()
    if rule == 'log':
        changed = cars[cars > 0]
        low, high = np.log(np.quantile(changed, (0.05, 0.95)))
        wanted = np.exp(np.linspace(low, high, num_cuts + 2)[1:-1])
    elif rule in THRESHOLD_RULES:
        weights = (
            np.ones_like(cars)
            if rule == 'images'
            else np.asarray(cars if changed_pixels is None else changed_pixels, np.float64)
        )
        wanted = _weighted_quantiles(cars, weights, np.arange(1, num_cuts + 1) / (num_cuts + 1))
    else:
        raise UserError(
            f'rule={rule!r}: thresholds are suggested by one of {", ".join(THRESHOLD_RULES)}'
        )
    return _rounded(cars, _cuts_between(values, wanted))


def _weighted_quantiles(cars: np.ndarray, weights: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The smallest CARs up to which the images hold these shares of the whole weight."""
    order = np.argsort(cars)
    held = np.cumsum(weights[order])
    return cars[order][np.searchsorted(held, shares * held[-1] * (1 - 1e-12))]


def _cuts_between(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The ``wanted`` cuts, moved as little as it takes to have a value in each range; ``values``
    ascend and are more than the cuts."""
    number = np.arange(len(wanted))
    below = (
        np.searchsorted(values, wanted, 'right') - 1
    )  # position of the last value below each cut
    kept = np.clip(np.maximum.accumulate(below - number), 0, len(values) - 1 - len(wanted)) + number
    # Zero is no threshold: half of the next value keeps the images without change to themselves.
    ends = np.where(values[kept] > 0, values[kept], values[kept + 1] / 2)
    return np.where((kept == below) & (wanted > 0), wanted, ends)


def _rounded(cars: np.ndarray, cuts: np.ndarray) -> tuple[float, ...]:
    exact = np.searchsorted(np.sort(cars), cuts, 'right')
    for digits in range(1, 7):
        rounded = np.array([float(f'{cut:.{digits}g}') for cut in cuts])
        moved = np.abs(np.searchsorted(np.sort(cars), rounded, 'right') - exact).sum()
        increasing = (np.diff(rounded, prepend=0, append=1) > 0).all()
        if (
            increasing
            and moved <= len(cars) / 100
            and all(CARPartition(rounded.tolist()).counts(cars).values())
        ):
            return tuple(rounded.tolist())
    return tuple(cuts.tolist())


def propose_thresholds(
    cars: np.ndarray, num_ranges: int, changed_pixels: np.ndarray | None = None
) -> dict[str, tuple[float, ...]]:
    """The thresholds that :func:`suggest_thresholds` finds by each rule of :data:`THRESHOLD_RULES`.

    Args:
        cars: (N,) CAR of each image of a data set.
        num_ranges: How many ranges are wanted.
        changed_pixels: (N,) changed pixels of each image; without them all images count as equally
            large.

    Returns:
        ``num_ranges - 1`` thresholds by the rule's name.

    Raises:
        UserError: Fewer than two ranges, or more of them than there are different CARs.
    """
    num_values = len(np.unique(cars))
    if not 2 <= num_ranges <= num_values:
        raise UserError(
            f'{num_ranges} CAR ranges: the {len(cars)} labels have {num_values} different CARs, so '
            'that they can be cut into '
            + (f'2 to {num_values} ranges' if num_values > 1 else 'no ranges')
        )
    return {
        rule: suggest_thresholds(cars, num_ranges, rule, changed_pixels) for rule in THRESHOLD_RULES
    }


def car_histogram(cars: np.ndarray, partition: CARPartition | None = None, width: int = 40) -> str:
    """CAR distribution as text: a line per bin of the benchmark's usual edges with the count, the
    share and a bar; then the ranges.

    Args:
        cars: (N,) CAR of each image.
        partition: Adds a line per range with its count.
        width: Characters of the longest bar.
    """
    cars = np.asarray(cars, np.float64)
    edges = np.array([0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0])
    counts = np.bincount(np.searchsorted(edges, cars, side='left'), minlength=len(edges))
    labels = ['CAR = 0', *(f'{low:g} < CAR <= {high:g}' for low, high in itertools.pairwise(edges))]
    total, largest = max(len(cars), 1), max(counts.max(), 1)
    lines = []
    for label, count in zip(labels, counts):
        bar = '#' * round(width * count / largest)
        lines.append(f'{label:>22} {count:6d} {count / total:6.1%} {bar}'.rstrip())
    if partition is not None:
        in_range = partition.counts(cars)
        lines += [
            f'{name:>22} {count:6d} {count / total:6.1%} ({partition.bounds_text(name)})'
            for name, count in in_range.items()
        ]
    return '\n'.join(lines)
