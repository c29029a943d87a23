"""Reading the images of a pair: the one reader of training, tests, the checker and prediction.

The type of a file or an array decides how it is read, never its values. 8-bit images are taken as
they are, all others need a radiometry rule. Transparency, more bands than three and files that only
GDAL decodes are refused, or read with a stated rule. Orientation tags are obeyed, in every format.
"""

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.png import PNG_START, decode_plain_png
from mtkd_cd.data.radiometry import Identity, Rule, from_spec, no_rule_error, thinned

# Larger images are whole scenes: they are tiled for training, and predicted window by window.
MAX_PIXELS = 100_000_000
# What pixels without data are filled with: the mean that the benchmark's models subtract (R, G, B),
# and the middle of the range for other bands. `set_bands` normalises by the same.
RGB_MEAN = (123.675, 116.28, 103.53)
RGB_STD = (58.395, 57.12, 57.375)
BAND_MEAN, BAND_STD = 127.5, 57.5
RULE_OPTION = "radiometry='{rule}' in the data set's config (--radiometry '{rule}')"

_JPEG_START, _JPEG_END = b'\xff\xd8\xff', b'\xff\xd9'
_ORIENTATION = 0x0112
_TURNING = (5, 6, 7, 8)  # orientations that swap width and height
# Of TIFFs: photometric interpretations, and the compressions that every build of OpenCV decodes.
_MIN_IS_BLACK, _RGB, _PALETTE, _YCBCR = 1, 2, 3, 6
_PLAIN_COMPRESSIONS = (1, 5, 7, 8, 32773, 32946)
_COMPRESSIONS = {
    34712: 'JPEG 2000',
    34887: 'LERC',
    34925: 'LZMA',
    50000: 'ZSTD',
    50001: 'WebP',
    50002: 'JPEG XL',
}
_NODATA_TAG = 42113
# OpenCV 4 and OpenCV 5; returns the level that was set before.
_set_opencv_log_level = getattr(cv2, 'setLogLevel', None) or cv2.utils.logging.setLogLevel
_SILENT = 0
_INSTALL = "pip install 'mtkd-cd[geo]'"


class Picture(NamedTuple):
    """An image as models take it.

    Attributes:
        pixels: (H, W, C), uint8 or, after a radiometry rule, float32 in [0, 255]. Three channels
            are blue, green, red; any other number is in the order of ``bands``.
        valid: (H, W) bool, ``False`` where the file says that there are no data; ``None`` where
            there are data everywhere.
        orientation: The orientation tag that was obeyed, 1 for none.
    """

    pixels: np.ndarray
    valid: np.ndarray | None = None
    orientation: int = 1


@dataclass(frozen=True)
class ImageHeader:
    """What the beginning of a file tells.

    Attributes:
        kind: ``'png'``, ``'jpeg'``, ``'tiff'``, or Pillow's name of another format.
        width: As stored, before ``orientation``.
        height: As stored.
        orientation: Value of the orientation tag, 1 for none.
        bands: Channels, alpha included.
        bits: Of a value; 8 where the format does not say.
        sample: ``'uint'``, ``'int'``, ``'float'`` or ``'complex'``.
        alpha: Whether the last band is opacity.
        tags: Tags of a TIFF.
    """

    kind: str
    width: int
    height: int
    orientation: int = 1
    bands: int = 3
    bits: int = 8
    sample: str = 'uint'
    alpha: bool = False
    tags: Mapping[int, Any] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the image as it is read, turned."""
        if self.orientation in _TURNING:
            return self.height, self.width
        return self.width, self.height


def read_header(file: IO[bytes]) -> ImageHeader:
    """Read the header of an image file.

    Args:
        file: Open for reading, at its beginning; only its headers are read.

    Raises:
        ValueError: It is no image, or its end is missing as far as headers tell; says so.
    """
    start = file.read(16)
    file.seek(0)
    try:
        if start.startswith(PNG_START):
            return _png_header(file)
        if start[:4] in TiffImagePlugin.PREFIXES:
            return _tiff_header(file)
        with Image.open(file) as image:
            exif = image.getexif() if image.format in ('JPEG', 'WEBP', 'MPO') else {}
            kind = 'jpeg' if start.startswith(_JPEG_START) else str(image.format).lower()
            bands, (width, height) = image.getbands(), image.size
            alpha = bands[-1] == 'A'
            return ImageHeader(kind, width, height, _orientation(exif), len(bands), alpha=alpha)
    except Image.DecompressionBombError as error:
        raise ValueError(f'is too large: {error}. {_TILES}') from None
    except Image.UnidentifiedImageError:
        raise ValueError('is not an image file, or its beginning is lost') from None
    except ValueError as error:
        raise ValueError(str(error) or 'is not a readable image') from None
    except Exception as error:  # headers of broken files raise all sorts of errors
        raise ValueError(f'cannot be opened: {error}') from error


_TILES = (
    'Cut it into tiles for training, for instance with gdal_retile.py -ps 512 512; a whole scene '
    'is predicted with: mtkd-cd predict A.tif B.tif -m MODEL -o change.tif'
)


def header_problem(header: ImageHeader, bands: Sequence[int] | None = None) -> str | None:
    """Why an image with this header can't be read, as far as the header tells."""
    if header.width * header.height > MAX_PIXELS:
        return f'is {header.width} x {header.height} pixels, a whole scene. {_TILES}'
    if header.kind == 'tiff':
        reason = _needs_gdal(header, bands)
        if reason and not _has_rasterio():
            return _missing_rasterio(reason)
        if header.sample == 'complex':
            return 'holds complex values: real numbers are needed'
        if bands is None and header.bands in (2, 4) and not header.alpha:
            return (
                f'has {header.bands} bands, of which none is marked as alpha: name those that the '
                "model takes in the data set's config, bands=(1, 2, 3) for the first three"
            )
    return _bands_problem(header.bands, bands)


def is_suspect(header: ImageHeader, radiometry: Any = None) -> bool:
    """Whether only the pixels tell if the image can be read: it may be transparent, or its values
    need a rule."""
    if header.kind == 'tiff' and header.alpha and _has_rasterio():
        return False
    deep = header.bits > 8 or header.sample != 'uint'
    return header.alpha or (deep and isinstance(_rule(radiometry), Identity))


def read_image(
    path: str | os.PathLike,
    *,
    bands: Sequence[int] | None = None,
    radiometry: Any = None,
    content: bytes | None = None,
    option: str = RULE_OPTION,
) -> Picture:
    """Read one image.

    Gray images get three equal channels. An opaque alpha channel is dropped. Pixels that a TIFF
    marks as having no data (nodata value, mask, alpha 0), or that are NaN, are not valid: any band
    counts.

    Args:
        path: PNG, JPEG, BMP, WebP or TIFF. TIFFs that OpenCV does not decode, or that bands are
            chosen of, need rasterio.
        bands: Numbers of the wanted bands, from 1, in the order in which the model takes them;
            three are red, green, blue. ``None``: the file must have one band or three.
        radiometry: Rule that brings values to 0..255, see
            :func:`~mtkd_cd.data.radiometry.from_spec`. ``None``: the values must be 8-bit.
        content: The file's bytes, where they have been read already.
        option: How the error names the rule's setting, with ``{rule}`` for the rule.

    Raises:
        UserError: The file is missing, truncated or no image; it has other bands than asked for,
            transparent areas, or values that need a rule.
    """
    rule = _rule(radiometry)
    stored, valid, header = read_stored(path, bands, content)
    pixels = _to_levels(stored, f'image {path}', bands, rule, option)
    return Picture(pixels, valid, header.orientation)


def to_picture(
    array: np.ndarray,
    name: str,
    bands: Sequence[int] | None = None,
    radiometry: Any = None,
    *,
    option: str = RULE_OPTION,
) -> Picture:
    """An array as models take it: the rules of :func:`read_image` for what is in memory. Masked
    pixels of a ``numpy.ma`` array are not valid: any band counts.

    Args:
        array: (H, W) gray, (H, W, 3) blue, green, red, (H, W, 4) with opacity, or, with ``bands``,
            any number of bands in the order of the file (three or four: blue first, as OpenCV
            gives them).
        name: For errors.
        bands: As in :func:`read_image`.
        radiometry: As in :func:`read_image`.
        option: As in :func:`read_image`.

    Raises:
        UserError: Another shape or number of bands, transparent areas, values that need a rule.
    """
    rule = _rule(radiometry)
    valid: np.ndarray | None = None
    if isinstance(array, np.ma.MaskedArray):
        masked: np.ndarray = np.ma.getmaskarray(array)
        array, valid = array.data, ~np.any(np.atleast_3d(masked), axis=2)
    stored, valid = _select(array, name, bands, valid)
    return Picture(_to_levels(stored, name, bands, rule, option), valid)


def sample_values(path: str | os.PathLike, bands: Sequence[int] | None = None) -> np.ndarray:
    """(C, H, W) masked float64: a file's values before any rule, thinned, red first.

    It is the sample that percentiles are taken of.

    Raises:
        UserError: As :func:`read_image` does.
    """
    stored, valid, _ = read_stored(path, bands, None)
    values = np.ma.array(_swapped(stored).astype(np.float64))
    if valid is not None:
        values[~valid] = np.ma.masked
    return np.moveaxis(thinned(values, band_axis=-1), -1, 0)


def check_one_orientation(orientations: Sequence[int], names: Sequence[str]) -> None:
    """Refuse a pair of which one date is turned by its orientation tag and the other is not.

    Raises:
        UserError: The tags differ.
    """
    if len(set(orientations)) > 1:
        raise UserError(orientation_problem(orientations, names))


def orientation_problem(orientations: Sequence[int], names: Sequence[str]) -> str:
    """What is wrong with tags that differ between the dates."""
    shown = ', '.join(f'{name} has {value}' for name, value in zip(names, orientations))
    return (
        f'the orientation tags of the dates differ ({shown}; 1 is none), so their pixels do not '
        'cover each other as they are stored. Save both images turned and without the tag, for '
        'instance with ImageMagick: mogrify -auto-orient'
    )


def fill_of(channels: int) -> np.ndarray:
    """(C,) float32 that pixels without data are set to: the mean, blue first for three channels."""
    mean = np.array(normalization_of(channels)[0], np.float32)
    return mean[::-1] if channels == len(RGB_MEAN) else mean


def band_numbers(text: str | Sequence[int]) -> tuple[int, ...]:
    """Numbers of bands from 1, separated by commas, as options give them, or in a list.

    Raises:
        UserError: Anything else.
    """
    try:
        parts = text.split(',') if isinstance(text, str) else text
        bands = tuple(int(part) for part in parts)
    except (ValueError, TypeError):
        bands = ()
    if not bands or min(bands) < 1:
        raise UserError(f'bands {text!r}: numbers from 1 with commas are needed, as 4,3,2')
    return bands


def normalization_of(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) per band that models subtract and divide by: ImageNet's for red,
    green and blue, which come first, the middle of the range for more."""
    if channels < len(RGB_MEAN):
        return (BAND_MEAN,) * channels, (BAND_STD,) * channels
    more = channels - len(RGB_MEAN)
    return RGB_MEAN + (BAND_MEAN,) * more, RGB_STD + (BAND_STD,) * more


def _rule(radiometry: Any) -> Rule:
    return Identity() if radiometry is None else from_spec(radiometry)


def read_stored(
    path: str | os.PathLike, bands: Sequence[int] | None = None, content: bytes | None = None
) -> tuple[np.ndarray, np.ndarray | None, ImageHeader]:
    """Read an image before any rule.

    Args:
        path: The file.
        bands: As in :func:`read_image`.
        content: Its bytes; ``None``: read them.

    Returns:
        (H, W, C) as stored, turned, of the wanted bands, blue first where there are three; (H, W)
        bool of pixels with data, or ``None`` for all; the header.

    Raises:
        UserError: As :func:`read_image` does, but for missing rules.
    """
    content = _content_of(path) if content is None else content
    try:
        header = read_header(io.BytesIO(content))
    except ValueError as error:
        raise _unreadable(path, f': it {error}') from None
    problem = header_problem(header, bands)
    if problem:
        raise UserError(f'image {path} {problem}')
    try:
        _check_end(content)
        array, valid = _decode(content, header, bands)
    except UserError:
        raise
    except Exception as error:  # decoders raise all sorts of errors on broken files
        raise _undecodable(path, header, f': {error}') from error
    if array is None:
        raise _undecodable(path, header)
    stored, valid = _select(array, f'image {path}', bands, valid)
    return stored, valid, header


def _decode(
    content: bytes, header: ImageHeader, bands: Sequence[int] | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(pixels, valid) of a file, turned as its tag says; three or four bands come blue first."""
    if header.kind != 'tiff':
        flag = cv2.IMREAD_UNCHANGED
        plain = decode_plain_png(content) if header.kind == 'png' else None
        if plain is not None:
            blue_first = cv2.cvtColor(plain, cv2.COLOR_RGB2BGR) if plain.ndim == 3 else plain
            return turn(blue_first, header.orientation), None
        if header.kind == 'jpeg':  # also CMYK ones
            flag = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        return turn(_decode_with_opencv(content, flag), header.orientation), None
    if _needs_gdal(header, bands) is None:
        if header.orientation == 1:
            array = _decode_with_opencv(content, cv2.IMREAD_UNCHANGED)
        else:  # which OpenCV turns or refuses by its release; Pillow turns it
            array = np.asarray(Image.open(io.BytesIO(content)).convert('RGB'))[..., ::-1]
        nodata = nodata_of(header)
        if array is None or nodata is None:
            return array, None
        channels = array if array.ndim == 3 else array[..., None]
        return array, (channels != nodata).all(2)
    if not _has_rasterio():
        return _decode_with_opencv(content, cv2.IMREAD_UNCHANGED), None
    array, valid = decode_with_gdal(content)
    return (
        turn(array, header.orientation),
        None if valid is None else turn(valid, header.orientation),
    )


def _decode_with_opencv(content: bytes, flag: int) -> np.ndarray | None:
    # OpenCV reports every GeoTIFF tag it does not know, and broken files, which get an error of
    # ours.
    level = _set_opencv_log_level(_SILENT)
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    finally:
        _set_opencv_log_level(level)


def decode_with_gdal(content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """((H, W, C) of all bands but alpha, three or four of them blue first; (H, W) valid)."""
    import rasterio
    from rasterio.enums import ColorInterp, MaskFlags
    from rasterio.errors import NotGeoreferencedWarning

    # Pairs are matched by their pixels. No catch_warnings, which is not for threads.
    warnings.filterwarnings('ignore', category=NotGeoreferencedWarning)

    with (
        rasterio.Env(GDAL_PAM_ENABLED='NO'),
        rasterio.MemoryFile(content) as file,
        file.open() as source,
    ):
        indexes = [
            index
            for index, meaning in zip(source.indexes, source.colorinterp)
            if meaning != ColorInterp.alpha
        ]
        array = np.moveaxis(source.read(indexes), 0, -1)
        marked = any(MaskFlags.all_valid not in flags for flags in source.mask_flag_enums)
        valid = (source.read_masks(indexes) > 0).all(0) if marked else None
    if array.shape[2] in (3, 4):
        array = array[..., [2, 1, 0, 3][: array.shape[2]]]
    return array, valid


def _select(
    array: np.ndarray, name: str, bands: Sequence[int] | None, valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """((H, W, C) of the wanted bands, blue first where there are three; valid or ``None``)."""
    if array.ndim not in (2, 3) or not array.size:
        raise UserError(
            f'{name} has the shape {array.shape}: (height, width) or (height, width, bands) is '
            'needed'
        )
    if array.dtype == bool or array.dtype.kind not in 'uif':
        raise UserError(f'{name} holds {array.dtype} values: real numbers are needed')
    array = array[..., None] if array.ndim == 2 else array
    channels = array.shape[2]
    if bands is None:
        if channels in (2, 4):
            array = _without_alpha(array, name)
        elif channels not in (1, 3):
            raise UserError(f'{name} {_bands_problem(channels, None)}')
        chosen = array
    else:
        problem = _bands_problem(channels, bands)
        if problem:
            raise UserError(f'{name} {problem}')
        order = [2, 1, 0, 3] if channels in (3, 4) else range(channels)
        chosen = _swapped(array[..., [order[band - 1] for band in bands]])
    if chosen.dtype.kind == 'f':
        finite = np.isfinite(chosen).all(2)
        valid = finite if valid is None else valid & finite
    return chosen, None if valid is None or valid.all() else valid


def _to_levels(
    stored: np.ndarray, name: str, bands: Sequence[int] | None, rule: Rule, option: str
) -> np.ndarray:
    """(H, W, C) in 0..255 of stored values."""
    if isinstance(rule, Identity):
        if stored.dtype != np.uint8:
            raise no_rule_error(name, {'it': thinned(stored, band_axis=-1)}, option)
        levels = stored
    else:
        try:
            levels = np.nan_to_num(_swapped(rule.apply(_swapped(stored), band_axis=-1)))
        except UserError as error:
            raise UserError(f'{name}: {error}') from None
    if bands is None and levels.shape[2] == 1:
        levels = levels.repeat(3, axis=2)
    return np.ascontiguousarray(levels)


def _swapped(array: np.ndarray) -> np.ndarray:
    """Three channels in the reverse order; any other number as it is."""
    return array[..., ::-1] if array.shape[2] == 3 else array


def _without_alpha(array: np.ndarray, name: str) -> np.ndarray:
    opaque = np.iinfo(array.dtype).max if array.dtype.kind in 'ui' else 1
    if (array[..., -1] != opaque).any():
        raise UserError(
            f'{name} has {array.shape[2]} channels, of which the last one is no opaque alpha '
            'channel: remove transparent areas, or choose the bands that the model takes, for '
            f"instance bands=(1, 2, 3) in the data set's config"
        )
    return array[..., :-1]


def _bands_problem(channels: int, bands: Sequence[int] | None) -> str | None:
    """What is wrong with that number of bands."""
    if bands is None:
        if channels in (1, 2, 3, 4):
            return None
        return (
            f'has {channels} bands, of which a pair of RGB or gray images has 3 or 1: name those '
            "that the model takes, red, green and blue first, in the data set's config, for "
            'instance bands=(4, 3, 2), or all of them with --bands'
        )
    if not all(isinstance(band, int) and band >= 1 for band in bands) or not len(bands):
        return f'cannot be read with bands={bands!r}: numbers of bands from 1 are needed'
    if max(bands) > channels:
        return f'has {channels} bands, but bands={tuple(bands)} asks for band {max(bands)}'
    return None


def turn(array: np.ndarray | None, orientation: int) -> Any:
    """The image as it is meant to be seen."""
    if array is None or orientation == 1:
        return array
    if orientation in _TURNING:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def _png_header(file: IO[bytes]) -> ImageHeader:
    """Walks from chunk to chunk, so that a missing end and a late orientation tag are found."""
    file.seek(len(PNG_START))
    fields, orientation = None, 1
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise ValueError('has lost its end')
        length, kind = int.from_bytes(head[:4], 'big'), head[4:]
        if kind == b'IEND':
            break
        if kind == b'IHDR':
            fields = file.read(length)
        elif kind == b'eXIf' and length < 1 << 20:
            exif = Image.Exif()
            exif.load(file.read(length))
            orientation = _orientation(exif)
        else:
            file.seek(length, os.SEEK_CUR)
        file.seek(4, os.SEEK_CUR)  # check sum
    if fields is None or len(fields) < 10:
        raise ValueError('has lost its beginning')
    bands = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(fields[9], 3)
    return ImageHeader(
        'png',
        int.from_bytes(fields[:4], 'big'),
        int.from_bytes(fields[4:8], 'big'),
        orientation,
        bands,
        max(fields[8], 8),
        alpha=fields[9] in (4, 6),
    )


def _tiff_header(file: IO[bytes]) -> ImageHeader:
    start = file.read(8)
    is_big = 43 in (start[2], start[3])
    tags = TiffImagePlugin.ImageFileDirectory_v2(start + (file.read(8) if is_big else b''))
    file.seek(tags.next)
    tags.load(file)
    known = {tag: tags[tag] for tag in list(tags)}
    bits = known.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    samples = known.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    extra = known.get(TiffImagePlugin.EXTRASAMPLES, ())
    bands = int(known.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
    return ImageHeader(
        'tiff',
        int(known[TiffImagePlugin.IMAGEWIDTH]),
        int(known[TiffImagePlugin.IMAGELENGTH]),
        _orientation(known),
        bands,
        max(np.ravel(bits).tolist()),
        {2: 'int', 3: 'float', 5: 'complex', 6: 'complex'}.get(np.ravel(samples)[0], 'uint'),
        bool(np.size(extra)) and np.ravel(extra)[-1] in (1, 2),
        known,
    )


def _orientation(tags: Any) -> int:
    value = tags.get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def nodata_of(header: ImageHeader) -> float | None:
    """The nodata value of a TIFF of GDAL's."""
    try:
        return float(str((header.tags or {})[_NODATA_TAG]).strip(' \0'))
    except (KeyError, ValueError):
        return None


def _needs_gdal(header: ImageHeader, bands: Sequence[int] | None) -> str | None:
    """Why OpenCV does not read this TIFF, or reads it wrongly."""
    tags = header.tags or {}
    colours = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)
    compression = tags.get(TiffImagePlugin.COMPRESSION, 1)
    colour_bands = header.bands - header.alpha
    if compression not in _PLAIN_COMPRESSIONS:
        return f'is compressed with {_COMPRESSIONS.get(compression, f"method {compression}")}'
    planes = header.bands > 1 and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    if planes and (header.bits > 8 or colours != _RGB):
        return f'holds its {header.bands} bands in separate planes'
    if header.bits > 8 or header.sample != 'uint':
        return f'holds {header.sample}{header.bits} values'
    if colour_bands > 1 and (colours not in (_RGB, _YCBCR) or colour_bands != 3):
        return f'has {header.bands} bands that are not marked as red, green and blue'
    if header.alpha and _has_rasterio():  # which tells opacity from data
        return 'has an alpha band'
    if bands is not None and colours == _PALETTE:
        return 'has a colour palette'
    return None


def _missing_rasterio(reason: str) -> str:
    return (
        f'is a TIFF that {reason}, which needs rasterio, and that is not installed: {_INSTALL}, '
        'or save the images as 8-bit RGB TIFF or PNG'
    )


def _has_rasterio() -> bool:
    try:
        import rasterio  # noqa: F401
    except ImportError:
        return False
    return True


def _check_end(content: bytes) -> None:
    # OpenCV 4 fills what a truncated JPEG lacks with gray, Pillow raises. Bytes after the end,
    # which some cameras write, are no fault.
    if content.startswith(_JPEG_START) and not content.endswith(_JPEG_END):
        Image.open(io.BytesIO(content)).load()


def _content_of(path: str | os.PathLike) -> bytes:
    try:
        with open(path, 'rb') as file:
            return file.read()
    except FileNotFoundError:
        raise UserError(
            f'image {path} does not exist: check data_root and the list of files'
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f'image {path} cannot be read: {error}') from error


def _undecodable(path: str | os.PathLike, header: ImageHeader, reason: str = '') -> UserError:
    if header.kind == 'tiff' and 1 < header.bits < 8:
        return UserError(
            f'image {path} holds values of {header.bits} bits. Convert it to 8, for instance with '
            f'gdal_translate -ot Byte -co NBITS=8 -scale 0 {2**header.bits - 1} 0 255'
        )
    return _unreadable(path, reason)


def _unreadable(path: str | os.PathLike, reason: str = '') -> UserError:
    return UserError(
        f'image {path} is not a readable image, perhaps truncated{reason}. Restore the file'
    )
