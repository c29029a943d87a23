"""One file of a pair: read as a picture or by GDAL, refused where its pixels have no plain grid or
meaning, its bands chosen."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.inference.grid import white_is_zero
from mtkd_cd.inference.outputs import RASTERS
from mtkd_cd.inference.raster.request import PairOptions

PICTURES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp')
_PICTURE_BITS = 8  # of a value, at most, that is read without GDAL
_OPAQUE = 255
_WORLD_FILES = ('.pgw', '.pngw', '.jgw', '.jpgw', '.jpegw', '.wld', '.bpw')


def is_picture(path: str | os.PathLike) -> bool:
    """Whether a file is read as a picture, without GDAL: PNG, JPEG and the like without a world
    file beside it."""
    path = Path(path)
    if path.suffix.lower() not in PICTURES:
        return False
    sidecars = [path.with_suffix(suffix) for suffix in _WORLD_FILES]
    return not any(file.is_file() for file in (*sidecars, Path(f'{path}.aux.xml')))


def needs_gdal(path: str | os.PathLike) -> bool:
    """Whether an upright picture is read by GDAL: it holds values of other types than bytes, or
    transparent areas."""
    from mtkd_cd.data.images import read_header

    try:
        with open(path, 'rb') as file:
            header = read_header(file)
        if header.bits > _PICTURE_BITS or header.sample != 'uint':
            return header.orientation == 1
        if not header.alpha or header.orientation != 1 or header.bands != len('RGBA'):
            return False
        with Image.open(path) as image:
            return image.mode == 'RGBA' and image.getchannel('A').getextrema()[0] < _OPAQUE
    except (OSError, ValueError):  # whoever reads it says what is wrong
        return False


def open_raster(path: str | os.PathLike) -> Any:
    """Open a raster as a dataset of rasterio.

    Raises:
        UserError: It is missing, or GDAL cannot read it.
    """
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


def check_orientation(paths: Sequence[str | os.PathLike], datasets: Sequence[Any]) -> None:
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


def check_georeference(path: str | os.PathLike, dataset: Any) -> None:
    """Refuse a file whose pixels do not lie on a north-up grid, with the gdalwarp that brings them
    to one."""
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


def alpha_band(dataset: Any) -> int | None:
    """The band of a file that says where the others are valid."""
    alpha = require('rasterio.enums', 'geo', 'a raster').ColorInterp.alpha
    found = [index for index, color in zip(dataset.indexes, dataset.colorinterp) if color == alpha]
    return found[0] if found else None


def choose_bands(path: str | os.PathLike, dataset: Any, options: PairOptions) -> tuple[int, ...]:
    """Numbers of the bands that are read: those asked for, those of the training, or all.

    Raises:
        UserError: The file lacks them, has more, or holds values that are no measurements.
    """
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
    refuse_white_as_zero(path, dataset)
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


def refuse_white_as_zero(path: str | os.PathLike, dataset: Any) -> None:
    """Refuse a file whose low values are bright, with the command that turns them round."""
    if not white_is_zero(dataset):
        return
    top = '1 1 0' if dataset.tags(1, ns='IMAGE_STRUCTURE').get('NBITS') == '1' else '255 255 0'
    raise UserError(
        f'{path} stores white as 0 (MINISWHITE), so that its values say the reverse of what it '
        f'shows: turn them round, with gdal_translate -co PHOTOMETRIC=MINISBLACK -scale 0 {top} '
        f'{path} turned.tif'
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
    with open_raster(path) as dataset:
        return date_tag(dataset)


def date_tag(dataset: Any) -> str | None:
    """When the image was taken, as far as the file says: ``2018-03-01`` or longer."""
    tags = dataset.tags()
    for key in ('ACQUISITIONDATETIME', 'ACQUISITION_DATE', 'DATE_ACQUIRED', 'TIFFTAG_DATETIME'):
        value = tags.get(key) or dataset.tags(ns='IMAGERY').get(key)
        if value:
            day, _, rest = str(value).strip().partition(' ')
            return f'{day.replace(":", "-")}{"T" + rest if rest else ""}'
    return None
