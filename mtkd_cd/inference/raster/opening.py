"""Two rasters, or two pictures, opened as a pair on date A's grid: their grids brought together,
the area and the mask that bound it, what is to be said of it."""

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from PIL import Image

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.inference.grid import Grid, check_overlap, transformer_between
from mtkd_cd.inference.raster.files import (
    alpha_band,
    check_georeference,
    check_orientation,
    choose_bands,
    date_tag,
    is_picture,
    needs_gdal,
    open_raster,
    refuse_white_as_zero,
)
from mtkd_cd.inference.raster.pair import Date, RasterPair
from mtkd_cd.inference.raster.request import PairOptions
from mtkd_cd.inference.vector import read_polygons
from mtkd_cd.inference.windows import Window


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


def _are_plain_pictures(a: str | os.PathLike, b: str | os.PathLike) -> bool:
    """Whether both dates are pictures of 8-bit values without transparent areas.

    Others are read by GDAL: it takes values of any type, and alpha says where there are no data.
    """
    return is_picture(a) and is_picture(b) and not any(map(needs_gdal, (a, b)))


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
    datasets = [stack.enter_context(open_raster(path)) for path in (a, b)]
    grids = [Grid.of(dataset) for dataset in datasets]
    check_orientation((a, b), datasets)
    for path, dataset in zip((a, b), datasets):
        check_georeference(path, dataset)
    bands = [choose_bands(path, dataset, options) for path, dataset in zip((a, b), datasets)]
    full = grids[0]
    same = _are_one_grid(grids, (a, b), options)
    window, shapes = _area(full, a, options)
    dates = [
        Date(dataset, band, alpha_band(dataset), offset=offset, nodata=options.nodata)
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
        warp = dates[1].warp_to(grid, options.resampling)
    tags = [date_tag(dataset) for dataset in datasets]
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
    dataset = stack.enter_context(open_raster(path))
    refuse_white_as_zero(path, dataset)
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
