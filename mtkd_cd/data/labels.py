"""Reading a change label from a file: the one place that knows how labels are coded, and that
refuses a coding it doesn't know."""

import io
import os
from collections.abc import Sequence
from functools import cache
from typing import NoReturn

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from mtkd_cd.core.car import IGNORE_INDEX
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.storage import read_bytes
from mtkd_cd.data.images import (
    ImageHeader,
    decode_with_gdal,
    nodata_of,
    read_header,
    turn,
)
from mtkd_cd.data.png import decode_plain_png

LABEL_FORMATS = (None, 'to_binary', 'with_ignored')
# Gray values that far from black and white are compression noise; those between come from blurred
# edges, or from another coding.
_NOISE = 32
# Edges are lines: of an image's pixels they are not most, and they leave no flat areas, as the
# classes of another coding do.
_MAX_EDGE_SHARE = 0.25
_MAX_FLAT_SHARE = 0.005
_SQUARE = np.ones((3, 3), np.uint8)
_SUBFILE_TYPE = 254  # tag of TIFF
_IS_MASK = 4  # bit of its value


def read_label(
    path: str | os.PathLike,
    *,
    format_seg_map: str | None = None,
    reduce_zero_label: bool = False,
    label_map: dict[int, int] | None = None,
    ignored_value: int | None = None,
    backend_args: dict | None = None,
    imdecode_backend: str = 'pillow',
) -> np.ndarray:
    """Read a label file as 0 unchanged, 1 changed, 255 ignored.

    Args:
        path: PNG, TIFF, JPEG or BMP with one value per pixel. Colour files with equal channels are
            gray; 1-bit files hold 0 and 1.
        format_seg_map: ``'to_binary'``: the file holds 0 and 1, or gray levels 0..255 of which 128
            and more mean change (blurred edges and compression noise are fine, ignored pixels need
            ``ignored_value``). ``None`` or ``'with_ignored'``: the file holds 0, 1 and 255 =
            ignored, whether or not there is change; palette files are read by index. The coding is
            a property of a data set, so {0, 255} follows the setting here; data sets under ``None``
            refuse labels that are all without change and hold 255
            (:func:`check_not_black_and_white`), those under ``'with_ignored'`` don't.
        reduce_zero_label: Whether stored 0 means ignored, 1 unchanged and 2 changed. Not together
            with ``'to_binary'``.
        label_map: New value of each stored value, applied last (mmseg's way to choose classes).
        ignored_value: Stored value of ignored pixels, with ``'to_binary'``; what is left must have
            a coding that this stands for.
        backend_args: mmengine's file backend; local files by default.
        imdecode_backend: A decoder of ``mmcv.imfrombytes``.

    Pixels that a TIFF marks as having no data, by its nodata value or a mask, are ignored whatever
    the coding. A nodata value of 0 is not taken: it is what unchanged pixels hold.

    Returns:
        (H, W) uint8 of 0, 1 and 255, writable.

    Raises:
        UserError: The file is missing, cannot be decoded, or holds values of another coding; lists
            the values found.
    """
    if format_seg_map not in LABEL_FORMATS:
        raise UserError(
            f"format_seg_map={format_seg_map!r}: must be None or 'with_ignored' (labels stored "
            "as 0, 1, 255 = ignored) or 'to_binary' (0 / 1 or 0 / 255)"
        )
    if format_seg_map == 'to_binary' and reduce_zero_label:
        raise UserError(
            "reduce_zero_label=True turns stored 0 into ignored, which format_seg_map='to_binary' "
            'cannot keep: set one of them'
        )
    stored, valid, palette, lossy = _decode(path, backend_args, imdecode_backend)
    if format_seg_map == 'to_binary':
        table = (
            _binary_table(path, stored, palette, lossy)
            if ignored_value is None
            else _ignoring_table(path, stored, lossy, ignored_value)
        )
    else:
        table = _index_table(path, stored, reduce_zero_label, label_map)
    if label_map is not None:
        table = _map_table(table, label_map)
    label = cv2.LUT(stored, table)
    if valid is not None:
        label[~valid] = IGNORE_INDEX
    return label


def label_coding(path: str | os.PathLike) -> str:
    """Which coding the values of a label file follow, for comparing the files of a data set.

    Returns:
        ``'all 0'`` (fits each coding), ``'0/1'``, ``'0/255'``, ``'0/1/255'``, or ``'gray'`` for
        anything else.

    Raises:
        UserError: The file is missing or cannot be decoded.
    """
    stored, _, palette, lossy = _decode(path, None, 'pillow')
    if palette is not None and not np.ptp(palette[np.unique(stored)], axis=1).any():
        stored = cv2.LUT(stored, palette[:, 0])
    values = set(_values(stored).tolist())
    codings = {'all 0': {0}, '0/1': {0, 1}, '0/255': {0, 255}, '0/1/255': {0, 1, 255}}
    return next(
        (
            name
            for name, known in codings.items()
            if values <= known and not (lossy and 1 in values)
        ),
        'gray',
    )


def check_not_black_and_white(paths: Sequence[str | os.PathLike]) -> None:
    """Refuse a data set whose labels, read as 0, 1 and 255 = ignored, have no change but hold 255:
    255 may mean change there.

    Args:
        paths: All labels of a data set, none of which has a changed pixel under
            ``format_seg_map=None``.

    Raises:
        UserError: One holds 255; names the two settings.
    """
    for path in paths:
        if label_coding(path) == '0/255':
            raise UserError(
                f'none of the {len(paths)} labels has a pixel of value 1, but {path} holds 255: '
                "set format_seg_map='to_binary' in the data set if 255 means change, or "
                "format_seg_map='with_ignored' if 255 means ignored and nothing changed"
            )


def check_change_is_not_nodata(paths: Sequence[str | os.PathLike]) -> None:
    """Refuse a data set whose labels, read as black and white, have no change, but are TIFFs in
    which a nodata value of 1, 128 or more occurs: that may be what means change there.

    Args:
        paths: All labels of a data set, none of which has a changed pixel under
            ``format_seg_map='to_binary'``.

    Raises:
        UserError: Names the first such file and its nodata value.
    """
    for path in paths:
        with open(path, 'rb') as file:
            header = read_header(file)
        nodata = nodata_of(header)
        if nodata is None or not (nodata == 1 or nodata >= 128):  # which never mean change
            continue
        if (read_label(path, format_seg_map='to_binary') == IGNORE_INDEX).any():
            raise UserError(
                f'none of the {len(paths)} labels has a changed pixel, and {path} says that its '
                f'value {nodata:g} means no data, so that it is ignored: if it means change, take '
                f'that away with gdal_edit.py -unsetnodata; if nothing changed in this data set, '
                "set format_seg_map='with_ignored'"
            )


def _decode(
    path: str | os.PathLike, backend_args: dict | None, imdecode_backend: str
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, bool]:
    """((H, W) uint8 as stored, 0 where there are no data; (H, W) valid pixels or None; (256, 3)
    palette or None; whether the format compresses with loss)."""
    try:
        content = read_bytes(path, backend_args=backend_args)
    except FileNotFoundError:
        raise UserError(f'label {path} does not exist') from None
    except OSError as error:
        raise UserError(f'label {path} cannot be read: {error}') from error
    palette = valid = None
    lossy = content[:2] == b'\xff\xd8' or content[8:12] == b'WEBP'
    try:
        header = read_header(io.BytesIO(content))
        if imdecode_backend == 'pillow':
            array, palette, valid = _decode_with_pillow(content, header)
        else:
            import mmcv  # needs torch

            array = mmcv.imfrombytes(content, flag='unchanged', backend=imdecode_backend)
    except Exception as error:  # decoders raise all sorts of errors on broken files
        raise UserError(
            f'label {path} is not a readable image, perhaps truncated: {error}. Restore the file'
        ) from error
    if array is None:
        raise UserError(
            f'label {path} is not a readable image, perhaps truncated. Restore the file'
        )
    # Pillow turns TIFFs by itself, and OpenCV those that it reads.
    turned = array if header.kind == 'tiff' else turn(array, header.orientation)
    gray = _one_channel(path, turned)
    nodata = nodata_of(header) if header.kind == 'tiff' else None
    if nodata == 0:
        _say_once(os.path.dirname(path))
    elif nodata is not None:
        known = ~np.isnan(gray) if np.isnan(nodata) else gray != nodata
        valid = known if valid is None else valid & known
    if valid is not None:
        if valid.all():
            valid = None
        else:
            gray = np.where(valid, gray, gray.dtype.type(0))
    return _to_uint8(path, gray), valid, palette, lossy


@cache
def _say_once(folder: str) -> None:
    from mmengine.logging import print_log  # imports torch

    print_log(
        f'labels in {folder} have the nodata value 0: it is read as unchanged. gdal_edit.py '
        '-unsetnodata takes it away',
        logger='current',
    )


def _decode_with_pillow(
    content: bytes, header: ImageHeader
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """(pixels, palette or None, (H, W) valid by a mask or None)."""
    plain = decode_plain_png(content) if header.kind == 'png' else None
    if plain is not None:
        return plain, None, None
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        if header.kind != 'tiff':
            raise
        image = None
    # GDAL keeps a mask as a second image, which Pillow tells nothing of.
    if image is None or (header.kind == 'tiff' and _is_masked(image)):
        array, valid = decode_with_gdal(content)
        if nodata_of(header) is not None:
            valid = None  # which the caller looks at
        return array, None, valid
    array = np.array(image)
    return array, _palette_colours(image) if image.mode == 'P' else None, None


def _is_masked(image: Image.Image) -> bool:
    try:
        if getattr(image, 'n_frames', 1) < 2:
            return False
        image.seek(1)
    except (OSError, SyntaxError):  # Pillow does not know the one bit of a mask
        return True
    kind = image.tag_v2.get(_SUBFILE_TYPE, 0)  # type: ignore[attr-defined]
    image.seek(0)
    return bool(kind & _IS_MASK)


def _palette_colours(image: Image.Image) -> np.ndarray:
    colours = np.array(image.getpalette('RGB'), np.uint8).reshape(-1, 3)
    return np.pad(colours, ((0, 256 - len(colours)), (0, 0)))


def _one_channel(path: str | os.PathLike, array: np.ndarray) -> np.ndarray:
    array = array.squeeze(-1) if array.ndim == 3 and array.shape[-1] == 1 else array
    if array.ndim == 2:
        return array
    if array.ndim != 3 or array.shape[-1] > 4:
        raise UserError(
            f'label {path} has shape {array.shape}: a label is one image with one value per pixel'
        )
    channels = array.shape[-1]
    if channels in (2, 4):  # the last one is alpha
        if np.ptp(array[..., -1]):
            raise UserError(
                f'label {path} has transparent areas, which have no meaning here: save it without '
                'alpha channel'
            )
        array = array[..., :-1]
    gray = array[..., 0]
    same = all(np.array_equal(gray, array[..., channel]) for channel in range(1, array.shape[-1]))
    # Compression with loss moves the channels of a gray picture apart a little.
    if not same and np.ptp(array, axis=-1).max() >= _NOISE:
        colours = np.unique(array.reshape(-1, array.shape[-1]), axis=0)
        shown = ', '.join(str(tuple(colour)) for colour in colours[:6].tolist())
        raise UserError(
            f'label {path} is in colour ({len(colours)} colours: '
            f'{shown}{", ..." if len(colours) > 6 else ""}): convert it to one channel '
            'with 0 unchanged and 255 changed'
        )
    return np.ascontiguousarray(gray)


def _to_uint8(path: str | os.PathLike, array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8)
    values = np.unique(array)
    if (
        array.dtype == np.uint16 and np.isin(values, (0, 65535)).all()
    ):  # black and white of a 16-bit image
        return (array >> 8).astype(np.uint8)
    if not np.isin(values, np.arange(256)).all():
        _refuse(path, values, 'this is no label, or one with another coding')
    return array.astype(np.uint8)


def _values(gray: np.ndarray) -> np.ndarray:
    """The values that occur in uint8, in increasing order."""
    zeros = gray.size - np.count_nonzero(gray)
    for one in (255, 1):  # what most labels hold: two counts take a tenth of a histogram's time
        ones = np.count_nonzero(gray == one)
        if zeros + ones == gray.size:
            return np.array([value for value, count in ((0, zeros), (one, ones)) if count], int)
    return np.flatnonzero(cv2.calcHist([gray], [0], None, [256], [0, 256]).ravel())


def _binary_table(
    path: str | os.PathLike, stored: np.ndarray, palette: np.ndarray | None, lossy: bool
) -> np.ndarray:
    """(256,) uint8 that turns stored values into 0 and 1, after a check that they are a 0 / 1 or a
    black-and-white coding."""
    threshold = (np.arange(256) >= 128).astype(np.uint8)
    values = _values(stored)
    binary = values.max(initial=0) <= 1
    if palette is not None:
        if not np.ptp(palette[values], axis=1).any():
            levels = palette[:, 0]
            return _binary_table(path, cv2.LUT(stored, levels), None, lossy)[levels]
        if not binary:
            _refuse(path, values, 'the file has a colour palette, so its values are class numbers')
    # A file compressed with loss cannot hold 0 / 1: its low values are noise on black.
    if binary and not lossy:
        return np.arange(256, dtype=np.uint8)
    _check_black_and_white(path, stored, values, lossy)
    return threshold


def _ignoring_table(
    path: str | os.PathLike, stored: np.ndarray, lossy: bool, ignored_value: int
) -> np.ndarray:
    others = np.arange(256, dtype=np.uint8)
    others[ignored_value] = 0
    table = _binary_table(path, cv2.LUT(stored, others), None, lossy)
    table[ignored_value] = IGNORE_INDEX
    return table


def _check_black_and_white(
    path: str | os.PathLike, gray: np.ndarray, values: np.ndarray, lossy: bool
) -> None:
    if np.isin(values, (0, 255)).all():
        return
    between = (values >= _NOISE) & (values < 256 - _NOISE)
    if not between.any():
        # Noise near white without noise near black, or the reverse, is fine; class numbers with or
        # without 255 for ignored are not.
        class_numbers = ((values > 0) & (values < _NOISE)).any() and not (
            (values >= 256 - _NOISE) & (values < 255)
        ).any()
        if class_numbers and not lossy:
            reason = 'these look like class numbers'
            if values.tolist() == [0, 1, 255]:
                reason += (
                    ', with 255 for ignored, which data sets read with format_seg_map=None and '
                    'scores with --ignore-index 255'
                )
            elif 255 in values:
                reason += ', with 255 for ignored'
            _refuse(path, values, reason)
        return
    edges = cv2.inRange(gray, _NOISE, 255 - _NOISE)
    flat = (cv2.erode(gray, _SQUARE) == cv2.dilate(gray, _SQUARE)) & (edges > 0)
    if (
        np.count_nonzero(edges) > _MAX_EDGE_SHARE * gray.size
        or np.count_nonzero(flat) > _MAX_FLAT_SHARE * gray.size
    ):
        _refuse(path, values, 'there are areas between black and white that are no blurred edges')


def _index_table(
    path: str | os.PathLike,
    stored: np.ndarray,
    reduce_zero_label: bool,
    label_map: dict[int, int] | None,
) -> np.ndarray:
    """(256,) uint8 that turns stored class numbers into ours, after a check that only known ones
    are there."""
    table = np.arange(256, dtype=np.uint8)
    if reduce_zero_label:
        table = np.concatenate([[IGNORE_INDEX], table[:-2], [IGNORE_INDEX]]).astype(np.uint8)
    classes = set(label_map) if label_map is not None else {0, 1}
    values = _values(stored)
    if not set(table[values].tolist()) <= {*classes, IGNORE_INDEX}:
        hint = (
            "; if 255 and its neighbours mean change, set format_seg_map='to_binary'"
            if values.max() > 127
            else ''
        )
        _refuse(
            path,
            values,
            f'with format_seg_map=None a label holds class numbers {sorted(classes)} and 255 for '
            f'ignored{hint}',
        )
    return table


def _map_table(table: np.ndarray, label_map: dict[int, int]) -> np.ndarray:
    mapped = table.copy()
    for old, new in label_map.items():
        mapped[table == old] = new
    return mapped


def _refuse(path: str | os.PathLike, values: np.ndarray, reason: str) -> NoReturn:
    shown = ', '.join(f'{value:g}' for value in values[:8].tolist()) + (
        f', ... {values[-1]:g}' if len(values) > 8 else ''
    )
    raise UserError(
        f'label {path} holds the values {{{shown}}}: {reason}. Convert it to a coding we know: '
        '0 / 1, 0 / 255, gray with >= 128 for change'
    )
