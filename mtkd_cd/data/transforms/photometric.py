"""Transforms of colours and gray levels; the labels stay as they are."""

import math
from collections.abc import Callable, Sequence

import cv2
import mmcv
import numpy as np

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.transforms.base import MultiImgTransform, map_images, to_pair
from mtkd_cd.registry import TRANSFORMS

_LEVELS = np.arange(256, dtype=np.uint8)


@TRANSFORMS.register_module()
class MultiImgPhotoMetricDistortion(MultiImgTransform):
    """Change brightness, contrast, saturation and hue of each date on its own, each of them with
    probability 1/2.

    Contrast comes second or last, with equal chance. Values are truncated to whole numbers in
    0..255 after every step; float images come back as floats.

    Args:
        brightness_delta: Brightness shifts lie in (-delta, delta).
        contrast_range: (lowest, highest) factor.
        saturation_range: (lowest, highest) factor.
        hue_delta: Hue shifts are integers in [-delta, delta), in units of 2 degrees.
        consistent_contrast_mode: Whether contrast takes the same place in both dates.
    """

    def __init__(
        self,
        brightness_delta: float = 32,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: int = 18,
        consistent_contrast_mode: bool = False,
    ) -> None:
        self.brightness_delta = brightness_delta
        self.contrast_range = to_pair('contrast_range', contrast_range)
        self.saturation_range = to_pair('saturation_range', saturation_range)
        self.hue_delta = hue_delta
        self.consistent_contrast_mode = consistent_contrast_mode

    def transform(self, results: dict) -> dict:
        contrast_early = _coin() if self.consistent_contrast_mode else None
        map_images(results, lambda image: self._distort(image, contrast_early))
        return results

    def _distort(self, image: np.ndarray, contrast_early: bool | None) -> np.ndarray:
        dtype = image.dtype
        if dtype != np.uint8:
            image = _scale(image)
        if _coin():
            image = _shift(image, np.random.uniform(-self.brightness_delta, self.brightness_delta))
        if contrast_early is None:
            contrast_early = _coin()
        if contrast_early:
            image = self._change_contrast(image)
        # Other than red, green and blue have neither saturation nor hue.
        is_rgb = image.shape[2] == 3
        if is_rgb and _coin():
            factor = np.random.uniform(*self.saturation_range)
            table = _scale(_LEVELS, factor)
            image = _map_hsv_channel(image, 1, lambda saturation: cv2.LUT(saturation, table))
        if is_rgb and _coin():
            shift = np.random.randint(-self.hue_delta, self.hue_delta) if self.hue_delta else 0
            hues = ((np.arange(256) + shift) % 180).astype(np.uint8)
            image = _map_hsv_channel(image, 0, lambda hue: cv2.LUT(hue, hues))
        if not contrast_early:
            image = self._change_contrast(image)
        return image.astype(dtype, copy=False)

    def _change_contrast(self, image: np.ndarray) -> np.ndarray:
        if not _coin():
            return image
        return _look_up(image, _scale(_LEVELS, np.random.uniform(*self.contrast_range)))


@TRANSFORMS.register_module()
class MultiImgNormalize(MultiImgTransform):
    """Subtract a mean and divide by a standard deviation per channel, as float32; writes
    ``img_norm_cfg``.

    The benchmark's configs leave this to the data preprocessor.

    Args:
        mean: One per channel of a date, in the order of the output.
        std: Likewise.
        to_rgb: Whether to turn BGR into RGB first.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], to_rgb: bool = True) -> None:
        self.mean = np.array(mean, np.float32)
        self.std = np.array(std, np.float32)
        self.to_rgb = to_rgb

    def transform(self, results: dict) -> dict:
        map_images(results, lambda image: mmcv.imnormalize(image, self.mean, self.std, self.to_rgb))
        results['img_norm_cfg'] = {'mean': self.mean, 'std': self.std, 'to_rgb': self.to_rgb}
        return results


@TRANSFORMS.register_module()
class MultiImgRerange(MultiImgTransform):
    """Stretch each date's values to a range, as float32; an image of one value gets the lower end.

    Args:
        min_value: Lower end.
        max_value: Upper end.
    """

    def __init__(self, min_value: float = 0, max_value: float = 255) -> None:
        if not min_value < max_value:
            raise UserError(
                f'MultiImgRerange: min_value={min_value} must be below max_value={max_value}'
            )
        self.min_value = min_value
        self.max_value = max_value

    def transform(self, results: dict) -> dict:
        map_images(results, self._rerange)
        return results

    def _rerange(self, image: np.ndarray) -> np.ndarray:
        low, high = float(image.min()), float(image.max())
        share = (image - low) / ((high - low) or 1)
        return (share * (self.max_value - self.min_value) + self.min_value).astype(np.float32)


@TRANSFORMS.register_module()
class MultiImgCLAHE(MultiImgTransform):
    """Equalise the histogram of each channel of each date, adaptively and with limited contrast
    (CLAHE).

    Args:
        clip_limit: Limit of the contrast.
        tile_grid_size: (columns, rows) of the tiles.
    """

    def __init__(self, clip_limit: float = 40.0, tile_grid_size: tuple[int, int] = (8, 8)) -> None:
        self.clip_limit = clip_limit
        self.tile_grid_size = to_pair('tile_grid_size', tile_grid_size)

    def transform(self, results: dict) -> dict:
        map_images(results, self._equalise)
        return results

    def _equalise(self, image: np.ndarray) -> np.ndarray:
        channels = cv2.split(image.astype(np.uint8, copy=False))
        return cv2.merge(
            [mmcv.clahe(channel, self.clip_limit, self.tile_grid_size) for channel in channels]
        )


@TRANSFORMS.register_module()
class MultiImgRGB2Gray(MultiImgTransform):
    """Replace the channels of each date by copies of their weighted sum, as float32.

    Args:
        out_channels: Number of copies; by default as many as there were channels.
        weights: One per channel as stored, so of blue first.
    """

    def __init__(
        self, out_channels: int | None = None, weights: Sequence[float] = (0.299, 0.587, 0.114)
    ) -> None:
        self.out_channels = out_channels
        self.weights = tuple(weights)

    def transform(self, results: dict) -> dict:
        map_images(results, self._to_gray)
        return results

    def _to_gray(self, image: np.ndarray) -> np.ndarray:
        gray = (image * np.array(self.weights)).sum(2, keepdims=True, dtype=np.float64)
        return gray.astype(np.float32).repeat(self.out_channels or image.shape[2], axis=2)


@TRANSFORMS.register_module()
class MultiImgAdjustGamma(MultiImgTransform):
    """Gamma correction of both dates: 255 (x / 255) ** (1 / gamma), truncated.

    Args:
        gamma: Above 1 brightens.
    """

    def __init__(self, gamma: float = 1.0) -> None:
        if gamma <= 0:
            raise UserError(f'gamma={gamma}: must be positive')
        self.gamma = gamma
        self._table = ((np.arange(256) / 255.0) ** (1.0 / gamma) * 255).astype(np.uint8)

    def transform(self, results: dict) -> dict:
        map_images(results, lambda image: cv2.LUT(image.astype(np.uint8, copy=False), self._table))
        return results


def _coin() -> bool:
    return bool(np.random.randint(2))


def _scale(values: np.ndarray, factor: float = 1, shift: float = 0) -> np.ndarray:
    """uint8 of ``values * factor + shift`` in float32. In place: large temporaries cost more than
    the arithmetic."""
    scaled = values.astype(np.float32)
    if factor != 1:
        scaled *= factor
    if shift:
        scaled += shift
    return _truncate(scaled)


def _shift(image: np.ndarray, shift: float) -> np.ndarray:
    """What :func:`_scale` makes of uint8, in an eighth of its time."""
    table = _scale(_LEVELS, shift=shift)
    whole = math.floor(np.clip(shift, -255, 255))
    if not np.array_equal(table, np.clip(_LEVELS.astype(int) + whole, 0, 255)):
        return _look_up(image, table)  # some sum was rounded up to a whole number
    flat = _flat(image)
    shifted = cv2.add(flat, whole) if whole >= 0 else cv2.subtract(flat, -whole)
    return shifted.reshape(image.shape)


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    return cv2.LUT(_flat(image), table).reshape(image.shape)


def _flat(image: np.ndarray) -> np.ndarray:
    """(H, W * C), which OpenCV goes through faster than pixels of several channels."""
    return np.ascontiguousarray(image).reshape(len(image), -1)


def _truncate(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _map_hsv_channel(
    image: np.ndarray, channel: int, function: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """BGR with a channel of its HSV form replaced by ``function`` of it: 0 hue in 0..179, 1
    saturation, 2 value in 0..255."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    cv2.insertChannel(function(cv2.extractChannel(hsv, channel)), hsv, channel)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR, dst=hsv)
