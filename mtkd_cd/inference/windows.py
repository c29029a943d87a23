"""Windows over a raster: where they lie, what each weighs where they overlap, and how their
predictions become one map without the map being held."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mtkd_cd.core.errors import UserError

# Blocks of the written files; strips and bands of rows end at their edges.
BLOCK = 512
# Columns of a raster that are predicted at a time.
STRIP = 32 * BLOCK
NO_DETECTOR = 255
# Of a window. A step is then an eighth of it, and a pixel is predicted 64 times.
MAX_OVERLAP = 7 / 8


@dataclass(frozen=True)
class Axis:
    """The windows along one side of a raster.

    Attributes:
        length: Pixels of the raster's side.
        window: Pixels of the window that was asked for; a shorter raster has one window, itself.
        overlap: Pixels that neighbouring windows share at least.

    Raises:
        UserError: An overlap that is negative or not smaller than the window.
    """

    length: int
    window: int
    overlap: int

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UserError(f'window={self.window}: at least one pixel is needed')
        if not 0 <= self.overlap < self.window:
            raise UserError(
                f'overlap={self.overlap} pixels: windows of {self.window} pixels can overlap by 0 '
                f'to {self.window - 1}'
            )

    @property
    def size(self) -> int:
        """Pixels of each window."""
        return min(self.window, self.length)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First pixel of each window; the last one is shifted inside."""
        last = self.length - self.size
        return (*range(0, last, self.window - self.overlap), last)

    @cached_property
    def weights(self) -> np.ndarray:
        """(windows, size) float32: a trapezoid over the overlap, flat at the raster's edges; the
        weights of all windows at a pixel add up to 1."""
        raw = np.ones((len(self.starts), self.size))
        if self.overlap:
            ramp = np.minimum((np.arange(self.size) + 0.5) / self.overlap, 1)
            raw[1:] *= ramp
            raw[:-1] *= ramp[::-1]
        total = np.zeros(self.length)
        for start, weight in zip(self.starts, raw):
            total[start : start + self.size] += weight
        for start, weight in zip(self.starts, raw):
            weight /= total[start : start + self.size]
        return raw.astype(np.float32)


def overlap_pixels(overlap: float, window: int) -> int:
    """An overlap given as a fraction below 1 or in pixels, in pixels.

    Raises:
        UserError: No finite number, a negative one, or more than :data:`MAX_OVERLAP` of the window.
    """
    pixels = -1
    if math.isfinite(overlap):
        pixels = min(round(overlap * window), window - 1) if overlap < 1 else int(overlap)
    most = min(round(MAX_OVERLAP * window), window - 1)
    if not 0 <= pixels <= most:
        times = (window / (window - pixels)) ** 2 if most < pixels < window else 0
        raise UserError(
            f'overlap={overlap:g}: a fraction from 0 to {MAX_OVERLAP:g}, or 0 to {most} of the '
            f"window's {window} pixels, is needed"
            + (f'; this one predicts each pixel {times:.0f} times' if times else '')
        )
    return pixels


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels."""

    row: int
    col: int
    height: int
    width: int


@dataclass
class WindowPrediction:
    """What was predicted in a window: (h, w) float32 probabilities, (h, w) valid pixels, and the
    index of the detector. ``probability`` is ``None`` where no pixel is valid."""

    probability: np.ndarray | None
    valid: np.ndarray
    detector: int = 0


@dataclass
class Rows:
    """Finished pixels: rows from ``row`` and columns from ``col`` on.

    ``detector`` is the index of the detector that weighs most, ``None`` unless asked for.
    """

    row: int
    col: int
    probability: np.ndarray
    valid: np.ndarray
    detector: np.ndarray | None


def stitch(
    rows: Axis,
    cols: Axis,
    predict: Callable[[Sequence[Window]], Sequence[WindowPrediction]],
    *,
    batch_size: int = 8,
    strip: int = STRIP,
    with_detector: bool = False,
) -> Iterator[Rows]:
    """Predict all windows and blend them.

    Only the rows of one window in one strip of columns are held. The result does not depend on the
    width of the strips.

    Args:
        rows: The windows down the raster.
        cols: The windows across it.
        predict: Gives the predictions of up to ``batch_size`` windows of one row.
        batch_size: Windows that are predicted together.
        strip: Columns at a time.
        with_detector: Whether to tell which detector weighs most at each pixel.

    Yields:
        Each pixel once: by strips, in each from top to bottom. The arrays are overwritten when the
        next rows are asked for.
    """
    for left in range(0, cols.length, strip):
        right = min(left + strip, cols.length)
        members = [
            index
            for index, start in enumerate(cols.starts)
            if start < right and start + cols.size > left
        ]
        blend = _Blend(rows.size, right - left, with_detector)
        for row_index, top in enumerate(rows.starts):
            if top > blend.top:
                count = top - blend.top
                yield blend.finished(count, left)
                blend.advance(count)
            for first in range(0, len(members), batch_size):
                batch = members[first : first + batch_size]
                windows = [Window(top, cols.starts[i], rows.size, cols.size) for i in batch]
                for index, window, prediction in zip(batch, windows, predict(windows)):
                    begin, end = max(window.col, left), min(window.col + cols.size, right)
                    inside = slice(begin - window.col, end - window.col)
                    blend.add(
                        slice(begin - left, end - left),
                        prediction,
                        inside,
                        rows.weights[row_index],
                        cols.weights[index][inside],
                    )
        yield blend.finished(rows.size, left)


class _Blend:
    """Weighted sums over the rows of one window."""

    def __init__(self, height: int, width: int, with_detector: bool) -> None:
        self.top = 0
        self.probability = np.zeros((height, width), np.float32)
        self.valid = np.zeros((height, width), bool)
        self.detector = np.full((height, width), NO_DETECTOR, np.uint8) if with_detector else None
        self.weight = np.zeros((height, width), np.float32) if with_detector else None

    def add(
        self,
        columns: slice,
        prediction: WindowPrediction,
        inside: slice,
        row_weights: np.ndarray,
        col_weights: np.ndarray,
    ) -> None:
        self.valid[:, columns] |= prediction.valid[:, inside]
        if prediction.probability is None:
            return
        weights = row_weights[:, None] * col_weights
        self.probability[:, columns] += weights * prediction.probability[:, inside]
        if self.detector is not None and self.weight is not None:
            heavier = weights > self.weight[:, columns]
            self.detector[:, columns][heavier] = prediction.detector
            self.weight[:, columns][heavier] = weights[heavier]

    def finished(self, count: int, left: int) -> Rows:
        """The first ``count`` rows, not copied."""
        detector = None if self.detector is None else self.detector[:count]
        return Rows(self.top, left, self.probability[:count], self.valid[:count], detector)

    def advance(self, count: int) -> None:
        """Forget the first ``count`` rows; the others move up, zeros follow."""
        for array, empty in (
            (self.probability, 0),
            (self.valid, False),
            (self.detector, NO_DETECTOR),
            (self.weight, 0),
        ):
            if array is not None:
                kept = len(array) - count
                array[:kept] = array[count:]
                array[kept:] = empty
        self.top += count
