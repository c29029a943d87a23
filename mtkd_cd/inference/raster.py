"""Pairs of rasters or pictures as windows of values and valid pixels, and the files that a
prediction leaves."""

import contextlib
import glob
import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.data.radiometry import thinned, thinning_step
from mtkd_cd.inference.grid import (
    Grid,
    Shift,
    Warp,
    check_overlap,
    measure_shift,
    pixel_ratio,
    reading,
    transformer_between,
    warp_to_file,
    white_is_zero,
)
from mtkd_cd.inference.vector import read_polygons
from mtkd_cd.inference.windows import BLOCK, NO_DETECTOR, Rows, Window

NODATA = 255
_PICTURE_BITS = 8  # of a value, at most, that is read without GDAL
# Of a probability in the written bytes.
PROBABILITY_STEP = 1 / 250
PICTURES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp')
RASTERS = ('.tif', '.tiff')
_WORLD_FILES = ('.pgw', '.pngw', '.jgw', '.jpgw', '.jpegw', '.wld', '.bpw')
_PART = '.part'
_TWICE_AS_FINE = 0.5
_SAMPLE_SIDE = 1024  # of a scene's longer side, at most so many pixels are looked at
_COLUMNS = 2048  # that are rounded at a time
RESAMPLING = ('nearest', 'bilinear', 'cubic', 'average')


@dataclass(frozen=True)
class PairOptions:
    """How two rasters become a pair.

    Attributes:
        bands: Band numbers of the files, from 1, in the order of the card's ``band_order``.
        trained_bands: Numbers of the bands that the model learned from, which are read where
            ``bands`` is ``None`` and a file has other bands than red, green and blue.
        band_names: What the model calls these bands.
        mask: Raster on A's grid whose pixels are left out where it is not 0.
        mask_values: Leave out the pixels where it has one of these values instead.
        nodata: Value of invalid pixels in files that declare none.
        bbox: (left, bottom, right, top) in A's CRS. Only that window is predicted.
        aoi: File of polygons; only their bounds are predicted, and nothing outside of them.
        assume_aligned: Whether rasters of equal size lie on one grid, whatever they say.
        resampling: Rule by which B is brought to A's grid; ``None``: bilinear, or average if B is
            more than twice as fine.
        edge_buffer: Valid pixels within that many pixels of an invalid one are left out too.
        offset_a: Added to the values of A.
        offset_b: Added to the values of B.
    """

    bands: tuple[int, ...] | None = None
    trained_bands: tuple[int, ...] | None = None
    band_names: tuple[str, ...] = ('red', 'green', 'blue')
    mask: str | os.PathLike | None = None
    mask_values: tuple[int, ...] | None = None
    nodata: float | None = None
    bbox: tuple[float, float, float, float] | None = None
    aoi: str | os.PathLike | None = None
    assume_aligned: bool = False
    resampling: str | None = None
    edge_buffer: int = 0
    offset_a: float = 0.0
    offset_b: float = 0.0


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
        edge_buffer: See :class:`PairOptions`.
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
            self.warp = _warp(self.b, self.grid, resampling or 'bilinear', moved)
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
            path = folder / f'{stem}.{name}{_PART}.tif'
            resampling = 'average' if max(factors) < _TWICE_AS_FINE else 'bilinear'
            warp = _warp(date, grid, resampling)
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


def _warp(
    date: Date,
    grid: Grid,
    resampling: str | None,
    shift: tuple[float, float] = (0.0, 0.0),
) -> Warp:
    dataset = date.dataset
    scale = pixel_ratio(date.source or Grid.of(dataset), grid)
    dtype = np.dtype(dataset.dtypes[date.bands[0] - 1])
    nodata = date.nodata if dataset.nodata is None else dataset.nodata
    if nodata is not None and not _holds(dtype, nodata):
        nodata = None  # no pixel has it, and GDAL could not write it
    if nodata is None and dtype.kind == 'f':
        nodata = math.nan
    rule = resampling or ('average' if max(scale) < _TWICE_AS_FINE else 'bilinear')
    return Warp(grid, rule, scale, nodata, shift, date.source, date.alpha)


def _holds(dtype: np.dtype, value: float) -> bool:
    """Whether a pixel of this type can have that value."""
    if dtype.kind == 'f':
        return not math.isfinite(value) or abs(value) <= np.finfo(dtype).max
    limits = np.iinfo(dtype)
    return math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max


@contextmanager
def open_pair(
    a: str | os.PathLike, b: str | os.PathLike, options: PairOptions | None = None
) -> Iterator[RasterPair]:
    """Open two rasters, or two pictures, as a pair on A's grid.

    Raises:
        UserError: A file that is missing or no raster; grids that cannot be brought together; bands
            that are not there; a mask of another size.
    """
    options = options or PairOptions()
    with ExitStack() as stack:
        if _are_plain_pictures(a, b):
            yield _pictures(a, b, options, stack)
            return
        rasterio = require('rasterio', 'geo', 'a raster')
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        yield _rasters(a, b, options, stack)


def is_picture(path: str | os.PathLike) -> bool:
    """Whether a file is read as a picture, without GDAL: PNG, JPEG and the like without a world
    file beside it."""
    path = Path(path)
    if path.suffix.lower() not in PICTURES:
        return False
    sidecars = [path.with_suffix(suffix) for suffix in _WORLD_FILES]
    return not any(file.is_file() for file in (*sidecars, Path(f'{path}.aux.xml')))


def _are_plain_pictures(a: str | os.PathLike, b: str | os.PathLike) -> bool:
    """Whether both dates are pictures of 8-bit values without transparent areas.

    Others are read by GDAL: it takes values of any type, and alpha says where there are no data.
    """
    return is_picture(a) and is_picture(b) and not any(map(_needs_gdal, (a, b)))


def _needs_gdal(path: str | os.PathLike) -> bool:
    from mtkd_cd.data.images import read_header

    try:
        with open(path, 'rb') as file:
            header = read_header(file)
        if header.bits > _PICTURE_BITS or header.sample != 'uint':
            return header.orientation == 1
        if not header.alpha or header.orientation != 1 or header.bands != len('RGBA'):
            return False
        with Image.open(path) as image:
            return image.mode == 'RGBA' and image.getchannel('A').getextrema()[0] < NODATA
    except (OSError, ValueError):  # whoever reads it says what is wrong
        return False


def _pictures(
    a: str | os.PathLike, b: str | os.PathLike, options: PairOptions, stack: ExitStack
) -> RasterPair:
    from mtkd_cd.data.transforms.loading import MultiImgLoadImageFromFile

    images = MultiImgLoadImageFromFile()({'img_path': [os.fspath(a), os.fspath(b)]})['img']
    for name in ('bbox', 'aoi'):
        if getattr(options, name) is not None:
            raise UserError(f'{name}: {a} has no georeference')
    if options.bands is not None and sorted(options.bands) != [1, 2, 3]:
        raise UserError(f'bands={list(options.bands)}: {a} has red, green and blue, bands 1, 2, 3')
    order = [index - 1 for index in options.bands or (1, 2, 3)]
    dates = [
        Date(
            np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)[order]),
            (1, 2, 3),
            offset=offset,
            nodata=options.nodata,
        )
        for image, offset in zip(images, (options.offset_a, options.offset_b))
    ]
    height, width = images[0].shape[:2]
    pair = RasterPair(
        Grid(None, None, width, height),
        dates[0],
        dates[1],
        mask_values=options.mask_values,
        edge_buffer=options.edge_buffer,
        names=(os.fspath(a), os.fspath(b)),
        closing=stack,
    )
    if options.mask is not None:
        if is_picture(options.mask):
            values = _mask_values(options.mask)
            _check_mask_size(options.mask, values.shape[::-1], (width, height), a)
            pair.mask = Date(values[None], (1,))
        else:
            pair.mask = _open_mask(options.mask, Grid(None, None, width, height), a, stack)
    return pair


def _mask_values(path: str | os.PathLike) -> np.ndarray:
    """(H, W) values of a mask that is a picture: gray levels, or the numbers of a palette."""
    if not os.path.exists(path):
        raise UserError(f'mask {path} does not exist')
    try:
        with Image.open(path) as image:
            stored = image.convert('L') if image.mode == '1' else image
            values = np.asarray(stored.convert('RGB') if image.mode == 'RGBA' else stored)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f'mask {path} is no image that can be read: {error}') from None
    return values if values.ndim == 2 else values.max(2)


def _rasters(
    a: str | os.PathLike, b: str | os.PathLike, options: PairOptions, stack: ExitStack
) -> RasterPair:
    datasets = [stack.enter_context(_open(path)) for path in (a, b)]
    grids = [Grid.of(dataset) for dataset in datasets]
    _check_orientation((a, b), datasets)
    for path, dataset in zip((a, b), datasets):
        _check_georeference(path, dataset)
    bands = [_bands(path, dataset, options) for path, dataset in zip((a, b), datasets)]
    full = grids[0]
    same = _are_one_grid(grids, (a, b), options)
    window, shapes = _area(full, a, options)
    dates = [
        Date(dataset, band, _alpha_band(dataset), offset=offset, nodata=options.nodata)
        for dataset, band, offset in zip(datasets, bands, (options.offset_a, options.offset_b))
    ]
    if options.assume_aligned:
        dates[1].source = full
    dates[0].row, dates[0].col = window.row, window.col
    grid = full.crop(window) if window != Window(0, 0, full.height, full.width) else full
    warp = None
    if same:
        dates[1].row, dates[1].col = window.row, window.col
    else:
        warp = _warp(dates[1], grid, options.resampling)
    tags = [_date_tag(dataset) for dataset in datasets]
    pair = RasterPair(
        grid,
        dates[0],
        dates[1],
        warp=warp,
        mask_values=options.mask_values,
        shapes=shapes,
        edge_buffer=options.edge_buffer,
        names=(os.fspath(a), os.fspath(b)),
        notes=_scale_notes(dates, (a, b)) + _band_notes(dates, options),
        dates=(tags[0], tags[1]),
        closing=stack,
    )
    if options.mask is not None:
        pair.mask = _open_mask(options.mask, full, a, stack)
        pair.mask.row, pair.mask.col = window.row, window.col
    return pair


def _open(path: str | os.PathLike) -> Any:
    rasterio = require('rasterio', 'geo', 'a raster')
    text = os.fspath(path)
    is_file = not text.startswith('/vsi') and '://' not in text
    try:
        return rasterio.open(text)
    except rasterio.errors.RasterioIOError as error:
        if is_file and not os.path.exists(text):
            raise UserError(f'{text} does not exist') from None
        raise UserError(
            f'{text} is not a raster that GDAL can read ({error}): give a GeoTIFF, PNG or JPEG'
        ) from None


def _check_orientation(paths: Sequence[str | os.PathLike], datasets: Sequence[Any]) -> None:
    """Refuse a file that is to be turned beside one that is not: GDAL turns neither. Where a
    georeferenced one lies, its georeference says."""
    from mtkd_cd.data.images import check_one_orientation, read_header

    found = []
    for path, dataset in zip(paths, datasets):
        orientation = 1
        is_placed = dataset.crs is not None or not dataset.transform.is_identity
        if is_picture(path) or (Path(path).suffix.lower() in RASTERS and not is_placed):
            # Whoever reads it says what is wrong.
            with contextlib.suppress(OSError, ValueError), open(path, 'rb') as file:
                orientation = read_header(file).orientation
        found.append(orientation)
    check_one_orientation(found, [os.fspath(path) for path in paths])


def _check_georeference(path: str | os.PathLike, dataset: Any) -> None:
    transform = dataset.transform
    if transform.b or transform.d:
        raise UserError(
            f'{path} is on a rotated grid ({transform.b:g} and {transform.d:g} in its transform): '
            f'bring it to north-up first, for instance gdalwarp {path} north_up.tif'
        )
    if not transform.is_identity or dataset.crs is not None:
        return
    for what, found, option in (
        ('ground control points', dataset.gcps[0], '-tps '),
        ('rational polynomial coefficients (RPCs)', dataset.rpcs, '-rpc '),
    ):
        if found:
            raise UserError(
                f'{path} is located by {what}, not by a grid: bring it to one first, for instance '
                f'gdalwarp {option}-t_srs EPSG:4326 {path} on_a_grid.tif'
            )


def _are_one_grid(
    grids: Sequence[Grid], names: Sequence[str | os.PathLike], options: PairOptions
) -> bool:
    """Whether both are one grid; B is warped if they are not.

    Raises:
        UserError: B cannot be brought to A's grid.
    """
    a, b = grids
    if options.assume_aligned:
        if (a.width, a.height) != (b.width, b.height):
            raise UserError(
                f'--assume-aligned: {names[1]} is {b.width} x {b.height} pixels, but {names[0]} '
                f'{a.width} x {a.height}: only rasters of equal size can be taken as aligned'
            )
        return True
    if a.same_as(b):
        return True
    if (a.crs is None) != (b.crs is None):
        without, other = (names[0], names[1]) if a.crs is None else (names[1], names[0])
        raise UserError(
            f'{without} has no CRS, but {other} has {a.crs or b.crs}: set it with gdal_edit.py '
            f'-a_srs, or say that their pixels are the same with --assume-aligned'
        )
    if a.crs is None:
        georeferenced = [not grid.transform.is_identity for grid in grids]
        if not any(georeferenced):
            raise UserError(
                f'{names[1]} is {b.width} x {b.height} pixels, but {names[0]} {a.width} x '
                f'{a.height}, and neither has a georeference: give images of equal size, or '
                'georeferenced ones'
            )
        raise UserError(
            f'{names[0]} and {names[1]} lie on different grids and have no CRS: set it with '
            'gdal_edit.py -a_srs, or, if their pixels are the same, say --assume-aligned'
        )
    check_overlap(a, b, [os.fspath(name) for name in names])
    return False


def _area(
    grid: Grid, name: str | os.PathLike, options: PairOptions
) -> tuple[Window, list[Any] | None]:
    """The window to predict and the polygons outside of which nothing is valid."""
    if options.bbox is not None and options.aoi is not None:
        raise UserError('bbox and aoi exclude each other')
    if options.aoi is not None:
        shapes = _polygons(options.aoi, grid)
        lefts, bottoms, rights, tops = zip(*(shape.bounds for shape in shapes))
        box = (min(lefts), min(bottoms), max(rights), max(tops))
    elif options.bbox is not None:
        shapes, box = None, options.bbox
        if not (box[0] < box[2] and box[1] < box[3]):
            raise UserError(f'bbox={list(box)}: left, bottom, right, top are needed, in this order')
    else:
        return Window(0, 0, grid.height, grid.width), None
    inverse = ~grid.transform
    cols, rows = zip(*(inverse * point for point in ((box[0], box[3]), (box[2], box[1]))))
    slack = 1e-6
    left, top = max(math.floor(min(cols) + slack), 0), max(math.floor(min(rows) + slack), 0)
    right = min(math.ceil(max(cols) - slack), grid.width)
    bottom = min(math.ceil(max(rows) - slack), grid.height)
    if left >= right or top >= bottom:
        what = f'aoi {options.aoi}' if options.aoi is not None else f'bbox {list(box)}'
        found = ', '.join(f'{value:.6g}' for value in grid.bounds)
        raise UserError(
            f'{what} lies outside of {name}, which covers {found} (left, bottom, right, top) in '
            f'{grid.crs}'
        )
    return Window(top, left, bottom - top, right - left), shapes


def _polygons(path: str | os.PathLike, grid: Grid) -> list[Any]:
    shapely = require('shapely', 'geo', 'an area of interest')
    if not os.path.exists(path):
        raise UserError(f'aoi {path} does not exist')
    crs, shapes = read_polygons(path, 'aoi')
    if not shapes:
        raise UserError(f'aoi {path} holds no polygon')
    transformer = None
    if crs and grid.crs is not None:
        transformer = transformer_between(crs, grid.crs, f'aoi {path}')
    if transformer is not None:
        shapes = [
            shapely.transform(shape, transformer.transform, interleaved=False) for shape in shapes
        ]
    return shapes


def _alpha_band(dataset: Any) -> int | None:
    """The band of a file that says where the others are valid."""
    alpha = require('rasterio.enums', 'geo', 'a raster').ColorInterp.alpha
    found = [index for index, color in zip(dataset.indexes, dataset.colorinterp) if color == alpha]
    return found[0] if found else None


def _bands(path: str | os.PathLike, dataset: Any, options: PairOptions) -> tuple[int, ...]:
    needed = len(options.band_names)
    meanings = require('rasterio.enums', 'geo', 'a raster').ColorInterp
    usable = [
        index
        for index, color in zip(dataset.indexes, dataset.colorinterp)
        if color != meanings.alpha
    ]
    listed = ', '.join(
        f'{index} {dataset.descriptions[index - 1] or dataset.colorinterp[index - 1].name}'
        for index in usable
    )
    if any(str(dtype).startswith('complex') for dtype in dataset.dtypes):
        raise UserError(
            f'{path} holds {dataset.dtypes[0]} values: real numbers are needed, for instance the '
            'magnitudes of complex ones'
        )
    for index in set(options.bands or usable).intersection(usable):
        if dataset.colorinterp[index - 1] == meanings.palette:
            raise UserError(
                f'{path} has a colour palette: its band {index} holds the numbers of colours. '
                f'Write the colours themselves: gdal_translate -expand rgb {path} rgb.tif'
            )
    _refuse_white_as_zero(path, dataset)
    if options.bands is None:
        trained = options.trained_bands or ()
        colours = [meanings.red, meanings.green, meanings.blue]
        is_rgb = [dataset.colorinterp[index - 1] for index in usable] == colours
        if len(trained) == needed and set(trained) <= set(usable) and not is_rgb:
            return trained
        if len(usable) != needed:
            found = f'{len(usable)} band{"" if len(usable) == 1 else "s"}'
            example = range(needed, 0, -1) if len(usable) >= needed else [1] * needed
            advice = (
                f'Say which with --bands, for instance --bands {",".join(map(str, example))}'
                if len(usable) == 1 or len(usable) > needed
                else 'Give a raster that has them'
            )
            raise UserError(
                f'{path} has {found} ({listed}), but the model takes {needed}: '
                f'{", ".join(options.band_names)}. {advice}'
            )
        return tuple(usable)
    if len(options.bands) != needed:
        raise UserError(
            f'--bands {",".join(map(str, options.bands))}: the model takes {needed}: '
            f'{", ".join(options.band_names)}'
        )
    for index in options.bands:
        if index not in dataset.indexes:
            raise UserError(f'--bands: {path} has no band {index}; it has {listed}')
    return tuple(options.bands)


def _refuse_white_as_zero(path: str | os.PathLike, dataset: Any) -> None:
    if not white_is_zero(dataset):
        return
    top = '1 1 0' if dataset.tags(1, ns='IMAGE_STRUCTURE').get('NBITS') == '1' else '255 255 0'
    raise UserError(
        f'{path} stores white as 0 (MINISWHITE), so that its values say the reverse of what it '
        f'shows: turn them round, with gdal_translate -co PHOTOMETRIC=MINISBLACK -scale 0 {top} '
        f'{path} turned.tif'
    )


def _scale_notes(dates: Sequence[Date], names: Sequence[str | os.PathLike]) -> list[str]:
    """A warning if the files give their stored values two scales, as far as no offset answers
    that."""
    scale_a, scale_b, offset_a, offset_b = (
        np.array([getattr(date.dataset, key)[band - 1] for band in date.bands], float)
        for key in ('scales', 'offsets')
        for date in dates
    )
    if (scale_a == scale_b).all() and (offset_a == offset_b).all():
        return []
    # In stored values: by how much those of B lie above those of A of the same place.
    with np.errstate(divide='ignore', invalid='ignore'):
        apart = (offset_a - offset_b) / scale_b + dates[1].offset - dates[0].offset
    if (scale_a == scale_b).all() and np.allclose(apart, 0):
        return []
    shown = ' and '.join(
        f'{name} says value = stored * {scale[0]:g} {offset[0]:+g}'
        for name, scale, offset in zip(names, (scale_a, scale_b), (offset_a, offset_b))
    )
    advice = 'bring them to one scale with gdal_translate -unscale -ot Float32'
    if (scale_a == scale_b).all() and np.allclose(apart, apart[0]):
        advice = f'--offset-b {dates[1].offset - apart[0]:g} brings them to one'
    return [f'{shown}, and stored values are compared: {advice}']


def _band_notes(dates: Sequence[Date], options: PairOptions) -> list[str]:
    """Which bands are read where nobody has said it and they are not the first ones."""
    found = list(dict.fromkeys(date.bands for date in dates))
    usual = tuple(range(1, len(found[0]) + 1))
    if options.bands is not None or not options.trained_bands or found == [usual]:
        return []
    shown = ' and '.join(','.join(map(str, bands)) for bands in found)
    return [f'bands {shown} of the files are read, as in the training; --bands reads others']


def _open_mask(
    path: str | os.PathLike, grid: Grid, name: str | os.PathLike, stack: ExitStack
) -> Date:
    dataset = stack.enter_context(_open(path))
    _refuse_white_as_zero(path, dataset)
    found = Grid.of(dataset)
    _check_mask_size(path, (found.width, found.height), (grid.width, grid.height), name)
    if found.crs is not None and grid.crs is not None and not found.same_as(grid):
        raise UserError(
            f'mask {path} lies elsewhere than {name}: bring it to that grid first, for instance '
            f'with gdalwarp -te {" ".join(f"{value:.10g}" for value in grid.bounds)} -ts '
            f'{grid.width} {grid.height} -r near'
        )
    return Date(dataset, (1,))


def _check_mask_size(
    path: str | os.PathLike,
    found: Sequence[int],
    wanted: Sequence[int],
    name: str | os.PathLike,
) -> None:
    if tuple(found) != tuple(wanted):
        raise UserError(
            f'mask {path} is {found[0]} x {found[1]} pixels, but {name} is {wanted[0]} x '
            f'{wanted[1]}: make it on that grid, for instance with gdalwarp -ts {wanted[0]} '
            f'{wanted[1]} -r near'
        )


def order_notes(names: Sequence[str | os.PathLike], dates: Sequence[str | None]) -> list[str]:
    """A warning if date A is the later one, as far as both say: ``2018`` or ``2018-03-01T10``."""
    a, b = dates
    if not a or not b:
        return []
    shared = min(len(a), len(b))
    if a[:shared] <= b[:shared]:
        return []
    return [
        f'date A ({names[0]}) is of {a} and date B ({names[1]}) of {b}: are the dates the '
        'wrong way round?'
    ]


def date_of(path: str | os.PathLike) -> str | None:
    """What a raster's tags say of its date."""
    if is_picture(path):
        return None
    with _open(path) as dataset:
        return _date_tag(dataset)


def _date_tag(dataset: Any) -> str | None:
    """When the image was taken, as far as the file says: ``2018-03-01`` or longer."""
    tags = dataset.tags()
    for key in ('ACQUISITIONDATETIME', 'ACQUISITION_DATE', 'DATE_ACQUIRED', 'TIFFTAG_DATETIME'):
        value = tags.get(key) or dataset.tags(ns='IMAGERY').get(key)
        if value:
            day, _, rest = str(value).strip().partition(' ')
            return f'{day.replace(":", "-")}{"T" + rest if rest else ""}'
    return None


class Staged:
    """Files that are written under temporary names in their own folders, and renamed when all are
    complete.

    Args:
        targets: {what a file is: its final path}.

    It leaves nothing behind after an error, and first removes files that a killed run left.
    """

    def __init__(self, targets: Mapping[str, Path]) -> None:
        self.targets = dict(targets)
        self.paths = {
            key: path.with_name(f'.{path.stem}.{os.getpid()}{_PART}{path.suffix}')
            for key, path in self.targets.items()
        }

    def __enter__(self) -> 'Staged':
        for path in self.targets.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path)
        return self

    def temporary(self, name: str) -> Path:
        """A path beside the first target for a file that is removed at the end."""
        first = next(iter(self.targets.values()))
        path = first.with_name(f'.{first.stem}.{os.getpid()}.{name}{_PART}.tif')
        self.paths[f'temporary {name}'] = path
        return path

    def commit(self) -> None:
        """Rename every file to its own name, the first target last: where that one is, the others
        are too."""
        for key, target in reversed(self.targets.items()):
            os.replace(self.paths[key], target)

    def __exit__(self, *_: object) -> None:
        for path in self.paths.values():
            for file in (path, *map(Path, glob.glob(f'{glob.escape(str(path))}*'))):
                file.unlink(missing_ok=True)


def remove_leftovers(target: Path) -> None:
    """Remove what runs that were killed left beside ``target``; those of living processes stay."""
    for path in target.parent.glob(f'.{glob.escape(target.stem)}.*{_PART}*'):
        process = path.name[len(target.stem) + 2 :].partition('.')[0]
        if process.isdigit() and not _is_alive(int(process)):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def check_outputs(
    targets: Mapping[str, Path], inputs: Sequence[str | os.PathLike], overwrite: bool
) -> None:
    """Refuse outputs that would harm something, before anything is done.

    Raises:
        UserError: An output is an input, exists without ``overwrite``, is named twice, has an
            unknown extension, or has no folder that can be written to.
    """
    known = {'change': (*RASTERS, '.png'), 'probability': RASTERS}
    places: dict[Path, str] = {}
    for key, path in targets.items():
        if key in known and path.suffix.lower() not in known[key]:
            raise UserError(
                f'{key} {path}: unknown extension {path.suffix!r}; use {", ".join(known[key])}'
            )
        place = path.resolve()
        if place in places:
            raise UserError(f'{key} and {places[place]} are both {path}: give two names')
        places[place] = key
        if any(Path(file).exists() and place == Path(file).resolve() for file in inputs):
            raise UserError(f'{key} {path} is an input: give another name')
        if path.is_dir():
            raise UserError(f'{key} {path} is a folder: give the name of a file')
        check_folder(f'{key} {path}', path.parent)
        if path.exists() and not overwrite:
            raise UserError(f'{key} {path} exists: give another name or --overwrite')


def check_folder(what: str, folder: Path) -> None:
    """Refuse a folder in which nothing can be written, also one that is still to be made.

    Raises:
        UserError: ``what`` for, the folder, and why.
    """
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f'{what}: {folder} is a file, not a folder: choose another place')
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f'{what}: folder {folder} cannot be written to: choose another place, or '
            'change its mode'
        )


def check_space(folder: Path, needed: int) -> None:
    """Refuse to start where the disk has too little room.

    Raises:
        UserError: Shows the estimate and what is free.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f'{folder} has {_size(free)} free, but about {_size(needed)} are needed for '
            'the outputs and the warped date B: free space, or write to another disk'
        )


def _size(count: int) -> str:
    """Bytes, in a unit that shows them."""
    for unit, name in ((1e9, 'GB'), (1e6, 'MB')):
        if count >= unit / 10:
            return f'{count / unit:.2f} {name}'
    return f'{count / 1e3:.0f} kB'


class MapWriter:
    """The change map and the probability, written by rows as they are finished.

    Args:
        grid: Grid of both.
        change: File of the change map: 0, 1, and 255 where nothing is known.
        probability: File of the probability.
        probability_dtype: ``'uint8'``, in steps of 1/250, 255 where nothing is known; or
            ``'float32'`` with NaN there.
        threshold: A pixel has changed if its probability is above it.
        detectors: Names of the detectors, for a second band of the change map that numbers the one
            that predicted each pixel.
        traced: The change map once more, as a GeoTIFF, beside one that is a PNG; else ``change``
            itself.
    """

    def __init__(
        self,
        grid: Grid,
        change: Path | None,
        probability: Path | None,
        probability_dtype: str,
        threshold: float,
        detectors: Sequence[str] | None = None,
        traced: Path | None = None,
    ) -> None:
        self.grid = grid
        self.threshold = threshold
        self.changed_by_row = np.zeros(grid.height, np.int64)
        self.valid_pixels = 0
        self.probability_dtype = probability_dtype
        self.detectors = detectors
        self._buffers: dict[str, np.ndarray] = {}
        self._row = self._col = self._filled = 0
        self._stack = ExitStack()
        self._picture: tuple[Path, np.ndarray] | None = None
        self._text: dict[str, str] = {}
        self._files: dict[str, Any] = {}
        try:
            if change is not None and change.suffix.lower() == '.png':
                self._picture = change, np.zeros((grid.height, grid.width), np.uint8)
                change = None if traced == change else traced
            if change is not None:
                self._files['change'] = self._create(change, 'uint8', NODATA, 2 if detectors else 1)
            if probability is not None:
                nodata = NODATA if probability_dtype == 'uint8' else math.nan
                file = self._create(probability, probability_dtype, nodata, 1)
                if probability_dtype == 'uint8':
                    file.scales = (PROBABILITY_STEP,)
                file.set_band_description(1, 'probability of change')
                self._files['probability'] = file
            if 'change' in self._files:
                self._files['change'].set_band_description(1, 'change')
                if detectors:
                    self._files['change'].set_band_description(2, 'detector')
        except BaseException:
            self._stack.close()
            raise

    def _create(self, path: Path, dtype: str, nodata: float, count: int) -> Any:
        rasterio = require('rasterio', 'geo', 'writing a raster')
        place = {} if self.grid.transform is None else dict(transform=self.grid.transform)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
            return self._stack.enter_context(
                rasterio.open(
                    path,
                    'w',
                    driver='GTiff',
                    width=self.grid.width,
                    height=self.grid.height,
                    count=count,
                    dtype=dtype,
                    nodata=nodata,
                    crs=self.grid.crs,
                    tiled=True,
                    blockxsize=BLOCK,
                    blockysize=BLOCK,
                    compress='deflate',
                    interleave='band',
                    BIGTIFF='IF_SAFER',
                    **place,
                )
            )

    def write(self, rows: Rows) -> None:
        """Take finished rows; they are written when a row of blocks is complete."""
        height, width = rows.valid.shape
        if rows.col != self._col:
            self._col, self._row, self._filled = rows.col, 0, 0
        done = 0
        while done < height:
            count = min(BLOCK - self._filled, height - done)
            for left in range(0, width, _COLUMNS):
                self._take(rows, slice(done, done + count), slice(left, left + _COLUMNS))
            self._filled += count
            done += count
            if self._filled == BLOCK or self._row + self._filled == self.grid.height:
                self._flush(width)

    def _take(self, rows: Rows, part: slice, columns: slice) -> None:
        """Put some pixels into the buffers, few enough for temporaries to be small."""
        probability, valid = rows.probability[part, columns], rows.valid[part, columns]
        changed = (probability > self.threshold) & valid
        top = rows.row + part.start
        self.valid_pixels += int(valid.sum())
        self.changed_by_row[top : top + len(changed)] += changed.sum(1)
        if self._picture is not None:
            left = rows.col + columns.start
            place = np.s_[top : top + len(changed), left : left + changed.shape[1]]
            self._picture[1][place] = changed * np.uint8(255)
        bands = {}
        if 'change' in self._files:
            bands['change'] = [np.where(valid, changed, NODATA)]
            if rows.detector is not None:
                bands['change'].append(np.where(valid, rows.detector[part, columns], NO_DETECTOR))
        if 'probability' in self._files:
            bands['probability'] = [self._stored(probability, valid)]
        for key, arrays in bands.items():
            for band, array in enumerate(arrays):
                buffer = self._buffer(key, len(arrays), rows.valid.shape[1])
                buffer[band, self._filled : self._filled + len(array), columns] = array

    def _buffer(self, key: str, bands: int, width: int) -> np.ndarray:
        found = self._buffers.get(key)
        if found is None or found.shape != (bands, BLOCK, width):
            dtype = self._files[key].dtypes[0]
            found = self._buffers[key] = np.empty((bands, BLOCK, width), dtype)
        return found

    def _flush(self, width: int) -> None:
        if self._files:
            windows = require('rasterio.windows', 'geo', 'writing a raster')
            window = windows.Window(self._col, self._row, width, self._filled)
            for key, file in self._files.items():
                file.write(self._buffers[key][:, : self._filled], window=window)
        self._row += self._filled
        self._filled = 0

    def _stored(self, probability: np.ndarray, valid: np.ndarray) -> np.ndarray:
        if self.probability_dtype != 'uint8':
            return np.where(valid, probability, np.float32(math.nan))
        steps = np.clip(np.rint(probability / np.float32(PROBABILITY_STEP)), 0, 250)
        return np.where(valid, steps, NODATA)

    def tag(self, tags: Mapping[str, Any]) -> None:
        """Write what is known of the run into every file."""
        text = {
            f'MTKD_CD_{key.upper()}': value if isinstance(value, str) else json.dumps(value)
            for key, value in tags.items()
            if value is not None
        }
        self._text = text
        for file in self._files.values():
            file.update_tags(**text)

    def close(self) -> None:
        """Finish the files."""
        self._stack.close()
        if self._picture is not None:
            path, array = self._picture
            info = PngInfo()
            for key, value in self._text.items():
                info.add_text(key, value)
            Image.fromarray(array).save(path, pnginfo=info)

    def abandon(self) -> None:
        """Close the files as they are, unfinished."""
        with contextlib.suppress(Exception):
            self._stack.close()


def read_map(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8 of 0 and 1, and the (H, W) pixels that are known, of a written change map."""
    if path.suffix.lower() == '.png':
        change = np.asarray(Image.open(path)) > 0
        return change.astype(np.uint8), np.ones(change.shape, bool)
    values = _first_band(path)
    return (values == 1).astype(np.uint8), values != NODATA


def read_probability(path: Path) -> np.ndarray:
    """(H, W) float32 of a written probability, NaN where it is not known."""
    values = _first_band(path)
    if values.dtype != np.uint8:
        return values
    scaled = values.astype(np.float32) * np.float32(PROBABILITY_STEP)
    return np.where(values == NODATA, np.float32(math.nan), scaled)


def _first_band(path: Path) -> np.ndarray:
    rasterio = require('rasterio', 'geo', 'a raster')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as file, reading(file):
            return file.read(1)


def to_cog(path: Path, resampling: str) -> None:
    """Make a tiled GeoTIFF a cloud-optimised one with overviews, in its place."""
    shutil_ = require('rasterio.shutil', 'geo', 'writing a raster')
    copy = path.with_name(f'{path.stem}.cog{path.suffix}')
    try:
        shutil_.copy(
            path,
            copy,
            driver='COG',
            compress='deflate',
            blocksize=BLOCK,
            overview_resampling=resampling,
            overviews='IGNORE_EXISTING',
            bigtiff='IF_SAFER',
        )
        os.replace(copy, path)
    finally:
        copy.unlink(missing_ok=True)
