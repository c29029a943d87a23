"""Reading the images of both dates and the change label."""

import io
import os
from collections.abc import Sequence

import cv2
import mmcv
import numpy as np
from mmengine.fileio import FileClient
from mmengine.fileio import get as read_bytes
from PIL import Image, TiffImagePlugin

from mtkd_cd.core.car import change_area_ratio
from mtkd_cd.core.errors import UserError
from mtkd_cd.data.labels import read_label
from mtkd_cd.data.transforms.base import MultiImgTransform
from mtkd_cd.registry import TRANSFORMS

_JPEG_START, _JPEG_END = b'\xff\xd8\xff', b'\xff\xd9'
# Photometric interpretations RGB and YCbCr.
_TIFF_COLOURS = (2, 6)
# Images of 11 to 14 bit sensors in 16-bit files: their high byte would be a nearly black image of a few gray levels.
_MIN_MAX_16_BIT = 2**14
# OpenCV 4 and OpenCV 5; returns the level that was set before.
_set_opencv_log_level = getattr(cv2, 'setLogLevel', None) or cv2.utils.logging.setLogLevel
_SILENT = 0


@TRANSFORMS.register_module()
class MultiImgLoadImageFromFile(MultiImgTransform):
    """Read the images of both dates.

    Reads ``img_path``, the paths of both dates; writes ``img``, a list of (H, W, 3) BGR uint8, and ``img_shape`` and ``ori_shape``, (h, w).
    Gray images get three equal channels. 16-bit images that use their range give their high byte.

    Args:
        to_float32: Whether to cast to float32.
        color_type: A flag of ``mmcv.imfrombytes``. Other than ``'color'``, what the decoder yields is taken as it is.
        imdecode_backend: A decoder of ``mmcv.imfrombytes``.
        file_client_args: The old form of ``backend_args``.
        ignore_empty: Whether to return ``None`` for a pair that cannot be read, so that the data set draws another sample.
        backend_args: mmengine's file backend; local files by default.

    Raises:
        UserError: A file is missing, truncated, no image, has four channels or a depth that 8 bits cannot hold; the dates differ in size.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = 'color',
        imdecode_backend: str = 'cv2',
        file_client_args: dict | None = None,
        ignore_empty: bool = False,
        *,
        backend_args: dict | None = None,
    ) -> None:
        self.to_float32 = to_float32
        self.color_type = color_type
        self.imdecode_backend = imdecode_backend
        self.file_client_args = file_client_args
        self.ignore_empty = ignore_empty
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict | None:
        paths = results['img_path']
        try:
            images = [self._read(path) for path in paths]
            _check_equal_sizes(images, paths)
        except UserError:
            if self.ignore_empty:
                return None
            raise
        return _set_images(results, images, self.to_float32)

    def _read(self, path: str) -> np.ndarray:
        content = self._content(path)
        try:
            _check_end(content)
            image = self._decode(content)
        except Exception as error:  # decoders raise all sorts of errors on broken files
            raise _unreadable(path, f': {error}') from error
        if image is None:
            raise _unreadable(path)
        if self.color_type != 'color':
            return image
        _check_tiff_bands(path, content)
        return _to_bgr(path, image)

    def _content(self, path: str) -> bytes:
        try:
            if self.file_client_args is not None:
                return FileClient.infer_client(self.file_client_args, path).get(path)
            return read_bytes(path, backend_args=self.backend_args)
        except FileNotFoundError:
            raise UserError(
                f'image {path} does not exist: check data_root and the list of files'
            ) from None
        except OSError as error:
            raise UserError(f'image {path} cannot be read: {error}') from error

    def _decode(self, content: bytes) -> np.ndarray | None:
        flag = self.color_type
        # Unchanged, so that a fourth channel or 16 bits show; but the orientation tag that cameras write is obeyed for 'color' only.
        if (
            flag == 'color'
            and self.imdecode_backend == 'cv2'
            and not content.startswith(_JPEG_START)
        ):
            flag = 'unchanged'
        # OpenCV reports every GeoTIFF tag it does not know, and broken files, which get an error of ours.
        level = _set_opencv_log_level(_SILENT)
        try:
            return mmcv.imfrombytes(content, flag=flag, backend=self.imdecode_backend)
        finally:
            _set_opencv_log_level(level)


@TRANSFORMS.register_module()
class MultiImgLoadLoadImageFromNDArray(MultiImgTransform):
    """Take the images of both dates from ``img``, a list of BGR arrays; writes ``img_path`` = None, ``img_shape`` and ``ori_shape``.

    Takes the arguments of :class:`MultiImgLoadImageFromFile`, of which only ``to_float32`` matters.
    """

    def __init__(self, to_float32: bool = False, **_: object) -> None:
        self.to_float32 = to_float32

    def transform(self, results: dict) -> dict:
        images = [np.asarray(image) for image in results['img']]
        _check_equal_sizes(images, [f'the array of date {date}' for date in 'AB'])
        results['img_path'] = None
        return _set_images(results, images, self.to_float32)


@TRANSFORMS.register_module()
class MultiImgLoadInferencerLoader(MultiImgTransform):
    """Load one pair given by a user: two paths, two BGR arrays, or a dict with ``img_path`` or ``img``.

    Args:
        **kwargs: As :class:`MultiImgLoadImageFromFile` takes them.
    """

    def __init__(self, **kwargs: object) -> None:
        self.from_file = MultiImgLoadImageFromFile(**kwargs)  # type: ignore[arg-type]
        self.from_ndarray = MultiImgLoadLoadImageFromNDArray(**kwargs)  # type: ignore[arg-type]

    def transform(self, single_input: dict | Sequence) -> dict | None:
        results = (
            dict(single_input) if isinstance(single_input, dict) else self._results_of(single_input)
        )
        return self.from_ndarray(results) if 'img' in results else self.from_file(results)

    @staticmethod
    def _results_of(pair: Sequence) -> dict:
        if isinstance(pair, (list, tuple)) and len(pair) == 2:
            if all(isinstance(item, (str, os.PathLike)) for item in pair):
                return {'img_path': [os.fspath(item) for item in pair]}
            if all(isinstance(item, (np.ndarray, list)) for item in pair):
                return {'img': pair}
        kinds = (
            [type(item).__name__ for item in pair]
            if isinstance(pair, (list, tuple))
            else type(pair).__name__
        )
        raise UserError(
            f'found {kinds}: a pair is a list of two paths or of two arrays, date A first'
        )


@TRANSFORMS.register_module()
class MultiImgLoadAnnotations(MultiImgTransform):
    """Read the change label and its Change Area Ratio.

    Reads ``seg_map_path`` and, where present, ``format_seg_map``, ``reduce_zero_label`` and ``label_map``; writes ``gt_seg_map``, (H, W)
    uint8 of 0, 1 and 255 (see :func:`~mtkd_cd.data.labels.read_label`), adds it to ``seg_fields``, and writes ``car``, the float CAR of
    the label as stored, which no augmentation changes.

    Args:
        reduce_zero_label: Instead of the sample's own.
        backend_args: mmengine's file backend; local files by default.
        imdecode_backend: A decoder of ``mmcv.imfrombytes``.

    Raises:
        UserError: The file is missing, broken or of another coding, or its size is not that of the images as loaded.
    """

    def __init__(
        self,
        reduce_zero_label: bool | None = None,
        backend_args: dict | None = None,
        imdecode_backend: str = 'pillow',
    ) -> None:
        self.reduce_zero_label = reduce_zero_label
        self.backend_args = backend_args
        self.imdecode_backend = imdecode_backend

    def transform(self, results: dict) -> dict:
        reduce_zero_label = (
            results.get('reduce_zero_label')
            if self.reduce_zero_label is None
            else self.reduce_zero_label
        )
        label = read_label(
            results['seg_map_path'],
            format_seg_map=results.get('format_seg_map'),
            reduce_zero_label=bool(reduce_zero_label),
            label_map=results.get('label_map'),
            backend_args=self.backend_args,
            imdecode_backend=self.imdecode_backend,
        )
        shape = results.get('ori_shape', label.shape)
        if label.shape != tuple(shape[:2]):
            image = (results.get('img_path') or ['the image'])[0]
            raise UserError(
                f'label {results["seg_map_path"]} is {_size(label)} pixels, but {image} is {shape[1]} x {shape[0]}'
            )
        results['gt_seg_map'] = label
        results['car'] = float(change_area_ratio(label))
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results


def _set_images(results: dict, images: list[np.ndarray], to_float32: bool) -> dict:
    results['img'] = [image.astype(np.float32) for image in images] if to_float32 else images
    results['img_shape'] = results['ori_shape'] = images[0].shape[:2]
    return results


def _check_equal_sizes(images: Sequence[np.ndarray], names: Sequence[str]) -> None:
    for image, name in zip(images, names):
        if image.shape[:2] != images[0].shape[:2]:
            raise UserError(
                f'{name} is {_size(image)} pixels, but {names[0]} is {_size(images[0])}: both dates must cover the same pixels'
            )


def _check_end(content: bytes) -> None:
    # OpenCV 4 fills what a truncated JPEG lacks with gray, Pillow raises. Bytes after the end, which some cameras write, are no fault.
    if content.startswith(_JPEG_START) and not content.endswith(_JPEG_END):
        Image.open(io.BytesIO(content)).load()


def _check_tiff_bands(path: str, content: bytes) -> None:
    """Refuse the TIFFs of which OpenCV silently yields the first band, or noise: what GDAL writes unless it is told that bands are RGB."""
    if content[:4] not in TiffImagePlugin.PREFIXES:
        return
    stream = io.BytesIO(content)
    is_big = content[2] == 43 or content[3] == 43
    tags = TiffImagePlugin.ImageFileDirectory_v2(stream.read(16 if is_big else 8))
    stream.seek(tags.next)
    tags.load(stream)
    bands = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    is_rgb = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) in _TIFF_COLOURS
    is_wide_plane = (
        tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
        and max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8
    )
    if bands > 1 and (not is_rgb or is_wide_plane):
        raise UserError(
            f'image {path} is a TIFF of {bands} bands that are {"in separate planes" if is_rgb else "not marked as red, green and blue"}: '
            'convert it, for instance with gdal_translate -b 1 -b 2 -b 3 -co PHOTOMETRIC=RGB -co INTERLEAVE=PIXEL'
        )


def _to_bgr(path: str, image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of what a decoder yields."""
    channels = image.shape[2] if image.ndim == 3 else 1
    if channels not in (1, 3):
        raise UserError(
            f'image {path} has {channels} channels; pairs need RGB or gray images: remove what is not red, green or blue (alpha, infrared)'
        )
    if image.dtype == np.uint16 and image.max() >= _MIN_MAX_16_BIT:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:
        raise UserError(
            f'image {path} holds {image.dtype} values up to {image.max():g}; pairs need 8 bits: multiply all images by the same factor '
            'and save them as 8 bit'
        )
    return image if channels == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)


def _unreadable(path: str, reason: str = '') -> UserError:
    return UserError(
        f'image {path} is not a readable image, perhaps truncated{reason}. Restore the file'
    )


def _size(image: np.ndarray) -> str:
    return f'{image.shape[1]} x {image.shape[0]}'
