"""Two dates on one grid, read window by window."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtkd_cd.core.extras import require
from mtkd_cd.data.radiometry import thinned, thinning_step
from mtkd_cd.inference.grid import (
    Grid,
    Shift,
    Warp,
    measure_shift,
    pixel_ratio,
    reading,
    warp_to_file,
)
from mtkd_cd.inference.outputs import PART
from mtkd_cd.inference.windows import Window

_TWICE_AS_FINE = 0.5
_SAMPLE_SIDE = 1024  # of a scene's longer side, at most so many pixels are looked at


@dataclass
class Date:
    """One date on the pair's grid.

    Attributes:
        dataset: Open rasterio dataset, or a (C, H, W) array.
        bands: Which of its bands, from 1.
        alpha: Band that says where the date is valid.
        row: Row of the dataset where the pair's grid begins.
        col: Column, likewise.
        offset: Added to the values.
        nodata: Value of invalid pixels beside what the file declares.
        source: Where the dataset's pixels are taken to lie, instead of where it says.
    """

    dataset: Any
    bands: tuple[int, ...]
    alpha: int | None = None
    row: int = 0
    col: int = 0
    offset: float = 0.0
    nodata: float | None = None
    source: Grid | None = None

    @property
    def dtype(self) -> np.dtype:
        """Of the values as the radiometry gets them."""
        dataset = self.dataset
        stored = np.dtype(
            dataset.dtype if isinstance(dataset, np.ndarray) else dataset.dtypes[self.bands[0] - 1]
        )
        return np.dtype(np.float32) if self.offset else stored

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """(C, h, w) values and (h, w) valid pixels; an invalid band makes the pixel invalid."""
        if isinstance(self.dataset, np.ndarray):
            rows = slice(window.row, window.row + window.height)
            cols = slice(window.col, window.col + window.width)
            values = self.dataset[:, rows, cols]
            return self._with_offset(values), self._valid(values, None)
        windows = require('rasterio.windows', 'geo', 'a raster')
        place = windows.Window(
            self.col + window.col, self.row + window.row, window.width, window.height
        )
        with reading(self.dataset):
            values = self.dataset.read(list(self.bands), window=place)
            valid = self._valid(values, lambda: self._masks(window=place))
        return self._with_offset(values), valid

    def sample(self, side: int = _SAMPLE_SIDE) -> np.ndarray:
        """Masked (C, h, w) of every n-th pixel of the whole date."""
        if isinstance(self.dataset, np.ndarray):
            values = thinned(self.dataset, side)
            invalid = ~self._valid(values, None)
            return np.ma.masked_array(
                self._with_offset(values), np.broadcast_to(invalid, values.shape)
            )
        if any(self.dataset.overviews(band) for band in self.bands):
            # The sample must not depend on whether somebody has added overviews.
            rasterio = require('rasterio', 'geo', 'a raster')
            with rasterio.open(self.dataset.name, OVERVIEW_LEVEL='NONE') as dataset:
                return replace(self, dataset=dataset)._sample(side)
        return self._sample(side)

    def warp_to(
        self,
        grid: Grid,
        resampling: str | None,
        shift: tuple[float, float] = (0.0, 0.0),
    ) -> Warp:
        """How this date is brought to a grid; ``None`` as the rule: bilinear, or average if it is
        more than twice as fine."""
        dataset = self.dataset
        scale = pixel_ratio(self.source or Grid.of(dataset), grid)
        dtype = np.dtype(dataset.dtypes[self.bands[0] - 1])
        nodata = self.nodata if dataset.nodata is None else dataset.nodata
        if nodata is not None and not _holds(dtype, nodata):
            nodata = None  # no pixel has it, and GDAL could not write it
        if nodata is None and dtype.kind == 'f':
            nodata = math.nan
        rule = resampling or ('average' if max(scale) < _TWICE_AS_FINE else 'bilinear')
        return Warp(grid, rule, scale, nodata, shift, self.source, self.alpha)

    def _sample(self, side: int) -> np.ndarray:
        dataset = self.dataset
        step = thinning_step(dataset.height, dataset.width, side)
        shape = math.ceil(dataset.height / step), math.ceil(dataset.width / step)
        with reading(dataset):
            values = dataset.read(list(self.bands), out_shape=(len(self.bands), *shape))
            valid = self._valid(values, lambda: self._masks(out_shape=shape))
        values = self._with_offset(values)
        return np.ma.masked_array(values, np.broadcast_to(~valid, values.shape))

    def _masks(self, window: Any = None, out_shape: tuple[int, int] | None = None) -> np.ndarray:
        """(M, h, w), above 0 where all are valid: of alpha, and of each band."""
        found = []
        if self.alpha is not None:
            found.append(self.dataset.read(self.alpha, window=window, out_shape=out_shape)[None])
        if self.alpha is None or self.dataset.nodata is not None:  # GDAL's masks know one of both
            shape = None if out_shape is None else (len(self.bands), *out_shape)
            found.append(self.dataset.read_masks(list(self.bands), window=window, out_shape=shape))
        return np.concatenate(found)

    def _valid(self, values: np.ndarray, masks: Any) -> np.ndarray:
        valid = np.ones(values.shape[1:], bool)
        if masks is not None and (self.alpha is not None or _has_mask(self.dataset, self.bands)):
            valid &= (masks() > 0).all(0)
        if values.dtype.kind == 'f':
            valid &= np.isfinite(values).all(0)
        if self.nodata is not None and not math.isnan(self.nodata):
            valid &= (values != self.nodata).all(0)
        return valid

    def _with_offset(self, values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32) + np.float32(self.offset) if self.offset else values


@dataclass
class Nearest:
    """A date on a grid of other pixels over the same ground, by nearest neighbour.

    Attributes:
        date: On the first grid.
        shape: (H, W) of that grid.
        grid: The other one.
    """

    date: 'Date | Nearest'
    shape: tuple[int, int]
    grid: Grid

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`Date.read`."""
        rows = _nearest(window.row, window.height, self.shape[0], self.grid.height)
        cols = _nearest(window.col, window.width, self.shape[1], self.grid.width)
        top, left = int(rows[0]), int(cols[0])
        source = Window(top, left, int(rows[-1]) - top + 1, int(cols[-1]) - left + 1)
        values, valid = self.date.read(source)
        place = np.ix_(rows - top, cols - left)
        return values[:, place[0], place[1]], valid[place]


def _nearest(start: int, count: int, length: int, scaled: int) -> np.ndarray:
    return ((np.arange(start, start + count) + 0.5) * length / scaled).astype(int)


def _has_mask(dataset: Any, bands: Sequence[int]) -> bool:
    all_valid = require('rasterio.enums', 'geo', 'a raster').MaskFlags.all_valid
    return any(all_valid not in dataset.mask_flag_enums[band - 1] for band in bands)


@dataclass
class RasterPair:
    """Two dates on one grid.

    Attributes:
        grid: Grid of both, cropped to what is predicted.
        a: Date A.
        b: Date B.
        warp: How B is brought to the grid, where it has another one.
        mask: The mask, read as a date is.
        mask_values: Values that are left out; ``None``: all but 0.
        shapes: Polygons outside of which nothing is valid, in the grid's CRS.
        edge_buffer: See :class:`~mtkd_cd.inference.raster.request.PairOptions`.
        names: Names of the files.
        notes: Warnings.
        dates: What the files' tags say of their dates.
    """

    grid: Grid
    a: Date
    b: Date
    warp: Warp | None = None
    mask: 'Date | Nearest | None' = None
    mask_values: tuple[int, ...] | None = None
    shapes: list[Any] | None = None
    edge_buffer: int = 0
    names: tuple[str, str] = ('A', 'B')
    notes: list[str] = field(default_factory=list)
    dates: tuple[str | None, str | None] = (None, None)
    closing: ExitStack = field(default_factory=ExitStack)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What a window holds.

        Returns:
            (C, h, w) values of A and of B; (h, w) pixels that are valid in both files; and those of
            them that the map keeps, further from an invalid pixel than the edge buffer.
        """
        if not self.edge_buffer:
            a, b, valid = self._read(window)
            return a, b, valid, valid
        n = self.edge_buffer
        top, left = max(window.row - n, 0), max(window.col - n, 0)
        bottom = min(window.row + window.height + n, self.grid.height)
        right = min(window.col + window.width + n, self.grid.width)
        a, b, valid = self._read(Window(top, left, bottom - top, right - left))
        kernel = np.ones((2 * n + 1, 2 * n + 1), np.uint8)
        kept = cv2.erode(
            valid.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1
        )
        rows = slice(window.row - top, window.row - top + window.height)
        cols = slice(window.col - left, window.col - left + window.width)
        return a[:, rows, cols], b[:, rows, cols], valid[rows, cols], kept[rows, cols].astype(bool)

    def _read(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        a, valid_a = self.a.read(window)
        b, valid_b = self.b.read(window)
        valid = valid_a & valid_b
        if self.mask is not None:
            values = self.mask.read(window)[0][0]
            left_out = (
                values != 0 if self.mask_values is None else np.isin(values, self.mask_values)
            )
            valid &= ~left_out
        if self.shapes is not None:
            features = require('rasterio.features', 'geo', 'a raster')
            valid &= features.geometry_mask(
                self.shapes,
                (window.height, window.width),
                self.grid.crop(window).transform,
                invert=True,
            )
        return a, b, valid

    def shift(self) -> Shift | None:
        """How far B's content lies from A's, by phase correlation."""
        if self.warp is None:
            return measure_shift(
                lambda window: _gray(self.a, self.b, window), self.grid.width, self.grid.height
            )
        with self.warp.open(self.b.dataset) as warped:
            alpha = self.warp.alpha_of(warped)
            b = Date(warped, self.b.bands, alpha, nodata=self.b.nodata)
            return measure_shift(
                lambda window: _gray(self.a, b, window), self.grid.width, self.grid.height
            )

    def coregister(self, shift: Shift, resampling: str | None = None) -> None:
        """Have B warped so that its content falls on A's, also where B is on A's grid already."""
        moved = shift.right, shift.down
        if self.warp is None:
            self.warp = self.b.warp_to(self.grid, resampling or 'bilinear', moved)
        else:
            self.warp = replace(self.warp, shift=moved)

    def bring_to_grid(self, path: Path) -> None:
        """Warp B to a file on the grid, once; nothing to do where it is there already."""
        if self.warp is None:
            return
        rasterio = require('rasterio', 'geo', 'a raster')
        warp_to_file(self.b.dataset, self.warp, self.b.bands, path)
        dataset = self.closing.enter_context(rasterio.open(path))
        count = len(self.b.bands)
        self.b = Date(
            dataset,
            tuple(range(1, count + 1)),
            count + 1 if self.warp.nodata is None else None,
            offset=self.b.offset,
            nodata=self.b.nodata,
        )
        self.warp = None

    def resampled(self, factors: tuple[float, float], folder: Path, stem: str) -> 'RasterPair':
        """Resample both dates, and what is left out of them, to pixels that are finer by
        ``factors``, across and down, in files in ``folder``. The result has no edge buffer."""
        rasterio = require('rasterio', 'geo', 'a raster')
        grid = self.grid.scaled(*factors)
        dates = []
        for name, date in (('a', self.a), ('b', self.b)):
            path = folder / f'{stem}.{name}{PART}.tif'
            resampling = 'average' if max(factors) < _TWICE_AS_FINE else 'bilinear'
            warp = date.warp_to(grid, resampling)
            warp_to_file(date.dataset, warp, date.bands, path)
            self.closing.callback(path.unlink, missing_ok=True)
            dataset = self.closing.enter_context(rasterio.open(path))
            count = len(date.bands)
            alpha = count + 1 if warp.nodata is None else None
            bands = tuple(range(1, count + 1))
            dates.append(Date(dataset, bands, alpha, offset=date.offset, nodata=date.nodata))
        mask = None
        if self.mask is not None:
            mask = Nearest(self.mask, (self.grid.height, self.grid.width), grid)
        return RasterPair(
            grid,
            dates[0],
            dates[1],
            mask=mask,
            mask_values=self.mask_values,
            shapes=self.shapes,
            closing=self.closing,
        )


def _gray(a: Date, b: Date, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    (values_a, valid_a), (values_b, valid_b) = a.read(window), b.read(window)
    return values_a.mean(0), values_b.mean(0), valid_a & valid_b


def _holds(dtype: np.dtype, value: float) -> bool:
    """Whether a pixel of this type can have that value."""
    if dtype.kind == 'f':
        return not math.isfinite(value) or abs(value) <= np.finfo(dtype).max
    limits = np.iinfo(dtype)
    return math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max
