"""Pixel grids on the ground: whether two are the same, how large their pixels are, how a raster is
brought from one to another. The result does not depend on how much is read at a time."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.inference.windows import BLOCK, Window

RESAMPLING = ('nearest', 'bilinear', 'cubic', 'average')
# Of a pixel: corners that are nearer to each other are one.
_SAME = 1e-3
_REGISTRATION_WINDOWS = 8  # along either side
_REGISTRATION_SIZE = 256
_LEAST_SIZE = 32
_LEAST_VALID = 0.9
# Peak of the correlation, times the window's side: pairs of unrelated noise reach 15.5.
_LEAST_PEAK = 25.0
# A single window may follow what changed in it: several that are not neighbours must say the same.
_LEAST_AGREEING = 3
_AGREEMENT = 1.0  # pixels
_WGS84 = 'EPSG:4326'
_PLANE = 3857  # EPSG code of a CRS in which pixels without a CRS are warped


@dataclass(frozen=True)
class Grid:
    """Where a raster's pixels lie.

    Attributes:
        crs: rasterio's CRS; ``None`` where the file has none.
        transform: Pixel to CRS coordinates; the identity where the file has none.
        width: Pixels.
        height: Pixels.
    """

    crs: Any
    transform: Any
    width: int
    height: int

    @classmethod
    def of(cls, dataset: Any) -> 'Grid':
        """The grid of an open rasterio dataset."""
        return cls(dataset.crs, dataset.transform, dataset.width, dataset.height)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in CRS coordinates."""
        xs, ys = zip(self.transform * (0, 0), self.transform * (self.width, self.height))
        return min(xs), min(ys), max(xs), max(ys)

    def same_as(self, other: 'Grid') -> bool:
        """Whether every pixel of one is a pixel of the other."""
        if (self.width, self.height) != (other.width, other.height) or self.crs != other.crs:
            return False
        inverse = ~self.transform
        return all(
            math.dist(corner, inverse * (other.transform * corner)) < _SAME
            for corner in ((0, 0), (self.width, 0), (0, self.height), (self.width, self.height))
        )

    def crop(self, window: Window) -> 'Grid':
        """The grid of a window of this one."""
        affine = require('affine', 'geo', 'a raster').Affine
        moved = self.transform * affine.translation(window.col, window.row)
        return Grid(self.crs, moved, window.width, window.height)

    def scaled(self, across: float, down: float) -> 'Grid':
        """The same ground in pixels that are ``1 / across`` as wide and ``1 / down`` as high."""
        affine = require('affine', 'geo', 'a raster').Affine
        width, height = max(1, round(self.width * across)), max(1, round(self.height * down))
        scale = affine.scale(self.width / width, self.height / height)
        return Grid(self.crs, self.transform * scale, width, height)

    def gsd(self) -> tuple[float, float] | None:
        """Width and height of a pixel in metres, geodesic, at the centre; ``None`` without a
        CRS that lies on the earth."""
        if not is_on_earth(self.crs):
            return None
        col, row = self.width / 2, self.height / 2
        lon, lat = self._lon_lat([col - 0.5, col + 0.5, col, col], [row, row, row - 0.5, row + 0.5])
        geod = _geod()
        across = geod.inv(lon[0], lat[0], lon[1], lat[1])[2]
        down = geod.inv(lon[2], lat[2], lon[3], lat[3])[2]
        return float(across), float(down)

    def pixel_areas(self, nodes: int = 65) -> np.ndarray | None:
        """(height,) square metres of a pixel of each row, geodesic; ``None`` without a CRS that
        lies on the earth."""
        if not is_on_earth(self.crs):
            return None
        rows = np.unique(np.linspace(0, self.height - 1, min(nodes, self.height)).astype(int))
        geod, col = _geod(), self.width / 2 - 0.5
        areas = []
        for row in rows:
            lon, lat = self._lon_lat([col, col + 1, col + 1, col], [row, row, row + 1, row + 1])
            areas.append(abs(geod.polygon_area_perimeter(lon, lat)[0]))
        return np.interp(np.arange(self.height), rows, areas)

    def _lon_lat(
        self, cols: Sequence[float], rows: Sequence[float]
    ) -> tuple[list[float], list[float]]:
        xs, ys = zip(*(self.transform * point for point in zip(cols, rows)))
        warp = require('rasterio.warp', 'geo', 'a raster')
        return warp.transform(self.crs, _WGS84, xs, ys)


def is_on_earth(crs: Any) -> bool:
    """Whether the coordinates of rasterio's ``crs`` have a longitude and a latitude. Those of a
    mosaic that was made without ground control, in a local CRS, have none."""
    if crs is None:
        return False
    pyproj = require('pyproj', 'geo', 'a raster')
    return not pyproj.CRS.from_wkt(crs.to_wkt()).is_engineering


def transformer_between(source: Any, target: Any, what: str) -> Any | None:
    """What brings coordinates from one CRS to another, x first; ``None`` where both are one.

    Args:
        source: A CRS as pyproj takes it, or rasterio's.
        target: Likewise.
        what: Is to be brought, for the error.

    Raises:
        UserError: There is no way, as from a local CRS to one on the earth.
    """
    pyproj = require('pyproj', 'geo', 'a raster')
    one, other = (
        pyproj.CRS(crs.to_wkt() if hasattr(crs, 'to_wkt') else crs) for crs in (source, target)
    )
    if one == other:
        return None
    try:
        return pyproj.Transformer.from_crs(one, other, always_xy=True)
    except pyproj.exceptions.ProjError:
        raise UserError(
            f'{what} is in {one.name}, from which nothing leads to {other.name}: give both a CRS '
            'that lies on the earth, with gdal_edit.py -a_srs or ogr2ogr -a_srs'
        ) from None


def _geod() -> Any:
    return require('pyproj', 'geo', 'a raster').Geod(ellps='WGS84')


def check_overlap(a: Grid, b: Grid, names: Sequence[str]) -> None:
    """Refuse rasters of different places.

    Raises:
        UserError: Shows both bounds in both CRSs.
    """
    transform_bounds = require('rasterio.warp', 'geo', 'a raster').transform_bounds
    if is_on_earth(a.crs) != is_on_earth(b.crs):
        local, other = (names[0], b.crs) if is_on_earth(b.crs) else (names[1], a.crs)
        raise UserError(
            f'{local} has a local CRS, which lies nowhere on the earth, and the other date has '
            f'{other}: set the CRS of both with gdal_edit.py -a_srs, or, if their pixels are the '
            'same, say --assume-aligned'
        )
    rasterio = require('rasterio', 'geo', 'a raster')
    try:
        moved = transform_bounds(b.crs, a.crs, *b.bounds)
    except rasterio.errors.RasterioError:
        moved = (math.inf,) * 4
    left, bottom, right, top = a.bounds
    if moved[0] < right and moved[2] > left and moved[1] < top and moved[3] > bottom:
        return

    def shown(bounds: Sequence[float], crs: Any) -> str:
        return f'{", ".join(f"{value:.6g}" for value in bounds)} in {crs}'

    def elsewhere(grid: Grid, crs: Any) -> str:
        try:
            return shown(transform_bounds(grid.crs, crs, *grid.bounds), crs)
        except rasterio.errors.RasterioError:
            return f'nowhere in {crs}'

    lines = [f'{names[0]} covers {shown(a.bounds, a.crs)}', f'{names[1]} {shown(b.bounds, b.crs)}']
    if a.crs != b.crs:
        lines[0] += f' ({elsewhere(a, b.crs)})'
        lines[1] += f' ({elsewhere(b, a.crs)})'
    raise UserError(
        f'the rasters do not overlap: {"; ".join(lines)} (left, bottom, right, top). Give two '
        'rasters of one place, or mend the CRS of the wrong one with gdal_edit.py -a_srs'
    )


@dataclass(frozen=True)
class Warp:
    """How a raster is brought to a grid.

    Attributes:
        grid: The grid that it is brought to.
        resampling: rasterio's name of the rule.
        scale: Pixels of the grid per pixel of the raster, across and down; fixed for the scene, so
            that a pixel does not depend on the window it is read in.
        nodata: Value of the pixels that nothing covers; ``None``: an alpha band tells.
        shift: Pixels of the grid by which the raster's content lies right and below.
        source: Where the raster's pixels are taken to lie, instead of where it says.
        alpha: Band of the raster that says where it is valid.
    """

    grid: Grid
    resampling: str
    scale: tuple[float, float]
    nodata: float | None
    shift: tuple[float, float] = (0.0, 0.0)
    source: Grid | None = None
    alpha: int | None = None

    def alpha_of(self, warped: Any) -> int | None:
        """The band of what :meth:`open` gives that says where it is valid, if there is one."""
        if self.nodata is not None:
            return None
        return warped.count if self.alpha is None else self.alpha

    @contextmanager
    def open(self, dataset: Any) -> Iterator[Any]:
        """A rasterio dataset on the grid, with an alpha band if ``nodata`` is ``None``."""
        vrt = require('rasterio.vrt', 'geo', 'a raster')
        enums = require('rasterio.enums', 'geo', 'a raster')
        source = self.source or Grid.of(dataset)
        if source.crs is None and self.grid.crs is None:
            # GDAL warps from a CRS to a CRS: any will do, if it is one.
            anywhere = require('rasterio.crs', 'geo', 'a raster').CRS.from_epsg(_PLANE)
            source, crs = replace(source, crs=anywhere), anywhere
        else:
            crs = self.grid.crs
        options: dict[str, Any] = dict(
            crs=crs,
            transform=self.grid.transform,
            width=self.grid.width,
            height=self.grid.height,
            resampling=enums.Resampling[self.resampling],
            tolerance=1e-6,
            XSCALE=f'{self.scale[0]:.17g}',
            YSCALE=f'{self.scale[1]:.17g}',
        )
        if source.crs != dataset.crs:
            options.update(src_crs=source.crs)
        if self.source is not None or self.shift != (0.0, 0.0):
            options.update(src_transform=self._shifted(source, crs))
        if self.nodata is None:
            options.update(add_alpha=self.alpha is None)
        else:
            options.update(src_nodata=self.nodata, nodata=self.nodata, UNIFIED_SRC_NODATA='NO')
        with vrt.WarpedVRT(dataset, **options) as warped:
            yield warped

    def _shifted(self, source: Grid, crs: Any) -> Any:
        """The source's transform, moved so that its content falls on the grid's, which is in
        ``crs``."""
        affine = require('affine', 'geo', 'a raster').Affine
        centre = self.grid.width / 2, self.grid.height / 2
        xs, ys = zip(
            self.grid.transform * centre,
            self.grid.transform * (centre[0] - self.shift[0], centre[1] - self.shift[1]),
        )
        warp = require('rasterio.warp', 'geo', 'a raster')
        if source.crs != crs:
            xs, ys = warp.transform(crs, source.crs, xs, ys)
        return affine.translation(xs[1] - xs[0], ys[1] - ys[0]) * source.transform


def pixel_ratio(source: Grid, target: Grid) -> tuple[float, float]:
    """Pixels of ``target`` per pixel of ``source``, across and down, at the target's centre."""
    warp = require('rasterio.warp', 'geo', 'a raster')
    col, row = target.width / 2, target.height / 2
    points = [(col - 0.5, row), (col + 0.5, row), (col, row - 0.5), (col, row + 0.5)]
    xs, ys = zip(*(target.transform * point for point in points))
    if source.crs != target.crs and source.crs is not None and target.crs is not None:
        xs, ys = warp.transform(target.crs, source.crs, xs, ys)
    inverse = ~source.transform
    west, east, north, south = (inverse * point for point in zip(xs, ys))
    return 1 / max(math.dist(west, east), 1e-9), 1 / max(math.dist(north, south), 1e-9)


@contextmanager
def reading(dataset: Any) -> Iterator[None]:
    """Say which raster cannot be read to its end, around calls of ``read`` and ``read_masks``.

    Raises:
        UserError: GDAL opened the file, but its pixels are cut off or damaged.
    """
    errors = require('rasterio.errors', 'geo', 'a raster')
    try:
        yield
    except errors.RasterioError as error:
        path = str(dataset.name)
        if path.startswith('WarpedVRT('):
            path = path.removeprefix('WarpedVRT(').removesuffix(')')
        reason = ' '.join(str(error.__cause__ or error).split())
        raise UserError(
            f'{path} cannot be read to its end, it is truncated or damaged ({reason}): restore the '
            'file'
        ) from error


def white_is_zero(dataset: Any) -> bool:
    """Whether a TIFF stores white as 0 (``MINISWHITE``), as fax compression and scanners do. GDAL
    gives its values as they are stored; whoever shows the image turns them round."""
    return dataset.tags(ns='IMAGE_STRUCTURE').get('MINISWHITE') == 'YES'


def warp_to_file(dataset: Any, warp: Warp, bands: Sequence[int], path: str | os.PathLike) -> None:
    """Warp once, in fixed blocks, to a temporary tiled file.

    Args:
        dataset: The open raster.
        warp: How.
        bands: Which of its bands, from 1.
        path: The file to write; its bands are ``bands`` and, without nodata, alpha as the last.
    """
    rasterio = require('rasterio', 'geo', 'a raster')
    grid = warp.grid
    alpha = warp.nodata is None
    profile = dict(
        driver='GTiff',
        width=grid.width,
        height=grid.height,
        count=len(bands) + alpha,
        dtype=dataset.dtypes[bands[0] - 1],
        crs=grid.crs,
        transform=grid.transform,
        nodata=warp.nodata,
        tiled=True,
        blockxsize=BLOCK,
        blockysize=BLOCK,
        BIGTIFF='IF_SAFER',
    )
    with warp.open(dataset) as warped, rasterio.open(path, 'w', **profile) as file:
        if alpha:
            colors = rasterio.enums.ColorInterp
            file.colorinterp = [colors.undefined] * len(bands) + [colors.alpha]
        indexes = [*bands, *([warp.alpha_of(warped)] if alpha else [])]
        for row in range(0, grid.height, BLOCK):
            for col in range(0, grid.width, BLOCK):
                block = rasterio.windows.Window(
                    col, row, min(BLOCK, grid.width - col), min(BLOCK, grid.height - row)
                )
                with reading(warped):
                    values = warped.read(indexes, window=block)
                file.write(values, window=block)


@dataclass(frozen=True)
class Shift:
    """How far date B's content lies from date A's.

    Attributes:
        right: Pixels of A's grid.
        down: Pixels of A's grid.
        spread: Median distance of the windows' shifts from this one, in pixels.
        windows: Number of windows in which a shift could be measured.
        agreeing: Number of these whose shift is within a pixel of this one.
    """

    right: float
    down: float
    spread: float
    windows: int
    agreeing: int

    @property
    def pixels(self) -> float:
        """Length of the shift."""
        return math.hypot(self.right, self.down)

    @property
    def is_reliable(self) -> bool:
        """Whether enough windows say the same: three, and more than half of those measured."""
        return self.agreeing >= _LEAST_AGREEING and 2 * self.agreeing > self.windows


def measure_shift(read: Any, width: int, height: int) -> Shift | None:
    """Shift between two dates by phase correlation on up to 64 windows.

    The windows have 256 pixels a side, or half the raster's shorter side where that is less, and do
    not overlap: so that there are at least four to agree.

    Args:
        read: Function of a :class:`Window` that gives (h, w) float arrays of A and of B and the
            valid pixels.
        width: Width of the grid in pixels.
        height: Height of the grid in pixels.

    Returns:
        The median of the windows' shifts; ``None`` where no window has enough valid pixels and
        structure.
    """
    size = min(_REGISTRATION_SIZE, min(width, height) // 2)
    if size < _LEAST_SIZE:
        return None
    hanning = cv2.createHanningWindow((size, size), cv2.CV_64F)
    shifts = []
    for row in _spread(height, size):
        for col in _spread(width, size):
            a, b, valid = read(Window(row, col, size, size))
            if valid.mean() < _LEAST_VALID or a[valid].std() == 0 or b[valid].std() == 0:
                continue
            a, b = (_standardised(image, valid) for image in (a, b))
            (right, down), response = cv2.phaseCorrelate(a, b, hanning)
            if response * size >= _LEAST_PEAK:
                shifts.append((right, down))
    if not shifts:
        return None
    middle = np.median(shifts, axis=0)
    distances = np.array([math.dist(shift, middle) for shift in shifts])
    agreeing = int((distances <= _AGREEMENT).sum())
    return Shift(
        float(middle[0]), float(middle[1]), float(np.median(distances)), len(shifts), agreeing
    )


def _spread(length: int, size: int) -> list[int]:
    count = min(_REGISTRATION_WINDOWS, max(1, length // size))
    return sorted(set(np.linspace(0, length - size, count).astype(int).tolist()))


def _standardised(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    values = image.astype(np.float64)
    mean, std = values[valid].mean(), values[valid].std()
    return np.where(valid, (values - mean) / std, 0)
