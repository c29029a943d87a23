"""Reading the images of both dates and the change label."""

import os
from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
from mmengine.fileio import FileClient

from mtkd_cd.core.car import change_area_ratio
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.storage import read_bytes
from mtkd_cd.data.decoded import CacheKind, DecodedImages, open_cache
from mtkd_cd.data.images import (
    RULE_OPTION,
    Picture,
    check_one_orientation,
    fill_of,
    read_image,
    to_picture,
)
from mtkd_cd.data.labels import IGNORE_INDEX, read_label
from mtkd_cd.data.radiometry import from_spec
from mtkd_cd.data.transforms.base import MultiImgTransform
from mtkd_cd.registry import TRANSFORMS


@TRANSFORMS.register_module()
class MultiImgLoadImageFromFile(MultiImgTransform):
    """Read the images of both dates.

    Reads ``img_path``, the paths of both dates, and, where present, ``bands`` and ``radiometry`` of
    the data set. Writes ``img``, a list of (H, W, C) arrays as
    :func:`~mtkd_cd.data.images.read_image` gives them: 8-bit BGR, or float32 in [0, 255] after a
    radiometry rule. Writes ``img_shape`` and ``ori_shape``, (h, w). Where a date has pixels without
    data, writes ``valid``, (H, W) bool. Those pixels are the mean on both dates, and ignored in the
    label.

    Args:
        to_float32: Whether to cast to float32.
        color_type: A flag of ``mmcv.imfrombytes``. Other than ``'color'``, what the decoder yields
            is taken as it is.
        imdecode_backend: A decoder of ``mmcv.imfrombytes``, for other colour types.
        file_client_args: The old form of ``backend_args``.
        ignore_empty: Whether to return ``None`` for a pair that cannot be read, so that the data
            set draws another sample.
        backend_args: mmengine's file backend; local files by default.
        bands: Instead of the data set's.
        radiometry: Instead of the data set's.
        cache: Where to keep images decoded, for all processes of the run: ``'ram'``, or ``'disk'``,
            for later runs too. A pair of 512 x 512 pixels takes 1.8 MB with its label. A file with
            another size or time of change is read anew. For local files.
        cache_gib: How much may be kept, see :func:`~mtkd_cd.data.decoded.open_cache`.

    Raises:
        UserError: A file is missing, truncated or no image, has other bands or a depth without a
            rule; the dates differ in size or in their orientation tags.
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
        bands: Sequence[int] | None = None,
        radiometry: Any = None,
        cache: CacheKind | bool | None = None,
        cache_gib: float | None = None,
    ) -> None:
        self.cache = _cache(cache, cache_gib)
        self.to_float32 = to_float32
        self.color_type = color_type
        self.imdecode_backend = imdecode_backend
        self.file_client_args = file_client_args
        self.ignore_empty = ignore_empty
        self.backend_args = backend_args
        self.bands = bands
        self.radiometry = None if radiometry is None else from_spec(radiometry)

    def transform(self, results: dict) -> dict | None:
        paths = results['img_path']
        bands = results.get('bands') if self.bands is None else self.bands
        radiometry = results.get('radiometry') if self.radiometry is None else self.radiometry
        try:
            pictures = [self._picture(path, bands, radiometry) for path in paths]
            _check_equal_sizes([picture.pixels for picture in pictures], paths)
            check_one_orientation([picture.orientation for picture in pictures], paths)
        except UserError:
            if self.ignore_empty:
                return None
            raise
        return _set_images(results, pictures, self.to_float32)

    def _picture(self, path: str, bands: Sequence[int] | None, radiometry: Any) -> Picture:
        stamp = None if self.cache is None else _stamp(path)
        if self.cache is None or stamp is None:
            return self._read(path, bands, radiometry)
        # Not the rule's text: it leaves out the values of percentiles, and digits.
        how = (self.color_type, self.imdecode_backend, bands, repr(radiometry))
        key = f'image {stamp} {how}'
        kept = self.cache.get(key)
        if kept is not None:
            meta, (pixels, *valid) = kept
            return Picture(pixels, valid[0] if valid else None, meta['orientation'])
        picture = self._read(path, bands, radiometry)
        arrays = [array for array in (picture.pixels, picture.valid) if array is not None]
        self.cache.put(key, dict(orientation=picture.orientation), arrays)
        return picture

    def _read(self, path: str, bands: Sequence[int] | None, radiometry: Any) -> Picture:
        content = self._content(path)
        if self.color_type == 'color':
            return read_image(path, bands=bands, radiometry=radiometry, content=content)
        try:
            image = mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend)
        except Exception as error:  # decoders raise all sorts of errors on broken files
            raise UserError(f'image {path} is not a readable image: {error}') from error
        if image is None:
            raise UserError(f'image {path} is not a readable image, perhaps truncated')
        return Picture(image)

    def _content(self, path: str) -> bytes:
        try:
            if self.file_client_args is not None:
                return FileClient.infer_client(self.file_client_args, path).get(path)
            return read_bytes(path, backend_args=self.backend_args)
        except FileNotFoundError:
            raise UserError(
                f'image {path} does not exist: check data_root and the list of files'
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f'image {path} cannot be read: {error}') from error


@TRANSFORMS.register_module()
class MultiImgLoadLoadImageFromNDArray(MultiImgTransform):
    """Take the images of both dates from ``img``, a list of arrays; writes ``img_path`` = None,
    ``img_shape`` and ``ori_shape``.

    The rules are those of files (:func:`~mtkd_cd.data.images.to_picture`): uint8, gray or BGR, as
    it is, an opaque alpha channel dropped, every other type with a radiometry rule. Nested lists
    hold whole numbers in 0..255. Takes the arguments of :class:`MultiImgLoadImageFromFile`.

    Raises:
        UserError: An array of another kind; the dates differ in size.
    """

    def __init__(
        self,
        to_float32: bool = False,
        bands: Sequence[int] | None = None,
        radiometry: Any = None,
        **_: object,
    ) -> None:
        self.to_float32 = to_float32
        self.bands = bands
        self.radiometry = None if radiometry is None else from_spec(radiometry)

    def transform(self, results: dict) -> dict:
        names = [f'the array of date {date}' for date in 'AB']
        bands = results.get('bands') if self.bands is None else self.bands
        radiometry = results.get('radiometry') if self.radiometry is None else self.radiometry
        pictures = [
            to_picture(_array_of(image, name), name, bands, radiometry, option=RULE_OPTION)
            for image, name in zip(results['img'], names)
        ]
        _check_equal_sizes([picture.pixels for picture in pictures], names)
        results['img_path'] = None
        return _set_images(results, pictures, self.to_float32)


@TRANSFORMS.register_module()
class MultiImgLoadInferencerLoader(MultiImgTransform):
    """Load one pair given by a user: two paths, two BGR arrays, or a dict with ``img_path`` or
    ``img``.

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

    Reads ``seg_map_path`` and, where present, ``format_seg_map``, ``reduce_zero_label`` and
    ``label_map``. Writes ``gt_seg_map``, (H, W) uint8 of 0, 1 and 255 (see
    :func:`~mtkd_cd.data.labels.read_label`), and adds it to ``seg_fields``. Writes ``car``, the
    float CAR of the label as stored, which no augmentation changes.

    Args:
        reduce_zero_label: Instead of the sample's own.
        backend_args: mmengine's file backend; local files by default.
        imdecode_backend: A decoder of ``mmcv.imfrombytes``.
        cache: As in :class:`MultiImgLoadImageFromFile`, with ``cache_gib``.

    Raises:
        UserError: The file is missing, broken or of another coding, or its size is not that of the
            images as loaded.
    """

    def __init__(
        self,
        reduce_zero_label: bool | None = None,
        backend_args: dict | None = None,
        imdecode_backend: str = 'pillow',
        cache: CacheKind | bool | None = None,
        cache_gib: float | None = None,
    ) -> None:
        self.cache = _cache(cache, cache_gib)
        self.reduce_zero_label = reduce_zero_label
        self.backend_args = backend_args
        self.imdecode_backend = imdecode_backend

    def transform(self, results: dict) -> dict:
        if not results.get('seg_map_path'):
            return self._without_label(results)
        reduce_zero_label = (
            results.get('reduce_zero_label')
            if self.reduce_zero_label is None
            else self.reduce_zero_label
        )
        label = self._label(
            results['seg_map_path'],
            format_seg_map=results.get('format_seg_map'),
            reduce_zero_label=bool(reduce_zero_label),
            label_map=results.get('label_map'),
        )
        shape = results.get('ori_shape', label.shape)
        if label.shape != tuple(shape[:2]):
            image = (results.get('img_path') or ['the image'])[0]
            raise UserError(
                f'label {results["seg_map_path"]} is {_size(label)} pixels, but {image} is '
                f'{shape[1]} x {shape[0]}'
            )
        # Of the label as stored, by which specialists are partitioned.
        results['car'] = float(change_area_ratio(label))
        if results.get('valid') is not None:
            label = np.where(results['valid'], label, np.uint8(IGNORE_INDEX))
        results['gt_seg_map'] = label
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results

    def _label(self, path: str, **coding: Any) -> np.ndarray:
        coding |= dict(backend_args=self.backend_args, imdecode_backend=self.imdecode_backend)
        stamp = None if self.cache is None else _stamp(path)
        if self.cache is None or stamp is None:
            return read_label(path, **coding)
        key = f'label {stamp} {coding}'
        kept = self.cache.get(key)
        if kept is not None:
            return kept[1][0]
        label = read_label(path, **coding)
        self.cache.put(key, {}, [label])
        return label

    @staticmethod
    def _without_label(results: dict) -> dict:
        if results.get('unlabelled'):
            return results
        image = (results.get('img_path') or ['the pair'])[0]
        raise UserError(
            f'{image} has no label, which training needs: check seg_map_path and the label folder; '
            'pairs without labels can be tested and predicted'
        )


def _cache(kind: CacheKind | bool | None, gib: float | None) -> DecodedImages | None:
    """The store; ``True``, as it was once called, is that in memory."""
    return open_cache('ram' if kind is True else kind, gib) if kind else None


def _stamp(path: str) -> tuple | None:
    """What tells a file from another, or from its own earlier content; ``None`` where there is no
    such file, and reading it says what is wrong."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


def _set_images(results: dict, pictures: Sequence[Picture], to_float32: bool) -> dict:
    images = [picture.pixels for picture in pictures]
    masks = [picture.valid for picture in pictures if picture.valid is not None]
    if masks:
        valid = np.logical_and.reduce(masks)
        images = [_filled(image, valid) for image in images]
        results['valid'] = valid
    results['img'] = [image.astype(np.float32) for image in images] if to_float32 else images
    results['img_shape'] = results['ori_shape'] = images[0].shape[:2]
    return results


def _filled(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """A copy with the mean where nothing is known."""
    fill = fill_of(image.shape[2])
    image = image.copy()
    image[~valid] = fill if image.dtype.kind == 'f' else fill.round()
    return image


def _array_of(image: object, name: str) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    try:
        array = np.asarray(image)
    except ValueError as error:
        raise UserError(f'{name} is no array: {error}') from None
    if array.dtype.kind not in 'iu' or not array.size or not 0 <= array.min() <= array.max() <= 255:
        raise UserError(
            f'{name} is a list that holds other than whole numbers in 0..255: hand over an array'
        )
    return array.astype(np.uint8)


def _check_equal_sizes(images: Sequence[np.ndarray], names: Sequence[str]) -> None:
    for image, name in zip(images, names):
        if image.shape[:2] != images[0].shape[:2]:
            raise UserError(
                f'{name} is {_size(image)} pixels, but {names[0]} is {_size(images[0])}: both '
                'dates must cover the same pixels'
            )


def _size(image: np.ndarray) -> str:
    return f'{image.shape[1]} x {image.shape[0]}'
