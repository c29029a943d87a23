"""What may be put into the page: checked before anything is decoded."""

import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require

KINDS = 'a PNG, a JPEG or a GeoTIFF'
# First bytes of each kind. GDAL is given nothing else: some of its formats name further files.
_SIGNATURES = {
    b'\x89PNG\r\n\x1a\n': '.png',
    b'\xff\xd8\xff': '.jpg',
    b'II*\x00': '.tif',
    b'MM\x00*': '.tif',
    b'II+\x00': '.tif',  # BigTIFF
    b'MM\x00+': '.tif',
}
_MEGA = 1e6
_ADVICE = 'cut it, or run `mtkd-cd predict`, which takes rasters of any size'


@dataclass(frozen=True)
class Limits:
    """What the page takes.

    Attributes:
        file_bytes: Of one upload.
        pixels: Of one image.
    """

    file_bytes: int = 100_000_000
    pixels: int = 16_000_000


def take_upload(
    path: str | os.PathLike | None, date: str, folder: Path, limits: Limits
) -> tuple[Path, str]:
    """Check an upload and copy it to where the prediction reads it, alone and under a plain name.

    Args:
        path: What the browser sent; ``None`` if nothing.
        date: ``'A'`` or ``'B'``.
        folder: Of the prediction.
        limits: What is too large.

    Returns:
        The copy, ``folder/A.tif`` for instance, and what to call it in messages.

    Raises:
        UserError: See :func:`check_upload`.
    """
    suffix, name = check_upload(path, date, limits)
    copy = folder / f'{date}{suffix}'
    shutil.copyfile(str(path), copy)
    return copy, name


def check_upload(path: str | os.PathLike | None, date: str, limits: Limits) -> tuple[str, str]:
    """Check an upload by its header.

    Returns:
        The suffix of its kind, and what to call it in messages.

    Raises:
        UserError: No file, no image, a damaged one, or one that is too large.
    """
    if path is None:
        raise UserError(f'image {date} is missing: give {KINDS}')
    path = Path(path)
    name = f'image {date} ({path.name})'
    size = path.stat().st_size
    if size > limits.file_bytes:
        raise UserError(
            f'{name} has {size / _MEGA:.4g} MB, and this page takes at most '
            f'{limits.file_bytes / _MEGA:.4g} MB: {_ADVICE}'
        )
    with open(path, 'rb') as file:
        start = file.read(16)
    suffix = next((found for key, found in _SIGNATURES.items() if start.startswith(key)), None)
    if suffix is None:
        raise UserError(f'{name} is no image that this page reads: give {KINDS}')
    width, height = _size(path, suffix, name)
    if width * height > limits.pixels:
        raise UserError(
            f'{name} has {width} x {height} pixels, {width * height / _MEGA:.4g} million, and this '
            f'page takes at most {limits.pixels / _MEGA:.4g} million: {_ADVICE}'
        )
    return suffix, name


def _size(path: Path, suffix: str, name: str) -> tuple[int, int]:
    """Width and height, of the header alone."""
    try:
        if suffix == '.tif':
            rasterio = require('rasterio', 'geo', 'a GeoTIFF')
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
                try:
                    with rasterio.open(path, driver='GTiff') as dataset:
                        return dataset.width, dataset.height
                except rasterio.errors.RasterioError as error:
                    raise ValueError(error) from None
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.size
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UserError(f'{name} is damaged: save it again as {KINDS}') from None
