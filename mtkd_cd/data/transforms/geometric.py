"""Resizing, rotating, cropping, flipping, padding: every transform here makes one draw for both
dates and the labels."""

from collections.abc import Callable, Sequence

import cv2
import mmcv
import numpy as np
from mmcv.image.geometric import rescale_size

from mtkd_cd.core.car import IGNORE_INDEX
from mtkd_cd.core.errors import UserError
from mtkd_cd.data.transforms.base import (
    PADDINGS,
    MultiImgTransform,
    check_probability,
    map_all,
    map_images,
    map_labels,
    to_pair,
)
from mtkd_cd.registry import TRANSFORMS

# (rows reversed, columns reversed)
_DIRECTIONS = {'horizontal': (False, True), 'vertical': (True, False), 'diagonal': (True, True)}
_FLIP_CODES = {'horizontal': 1, 'vertical': 0, 'diagonal': -1}
# By the number of counter-clockwise quarter turns.
_TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
_MAX_CROP_TRIES = 10


@TRANSFORMS.register_module()
class MultiImgResize(MultiImgTransform):
    """Resize both dates, and the labels with nearest neighbours; writes ``scale``, ``scale_factor``
    (w, h), ``keep_ratio``, ``img_shape``.

    Args:
        scale: Target (w, h), or the side of a square. Wins over ``scale_factor``.
        scale_factor: Target relative to the image: a number, or (w, h).
        keep_ratio: Whether to take the largest size of the image's shape that fits into the target,
            whose longer edge is meant for the image's longer edge.
        clip_object_border: Accepted for Open-CD's configs; there are no boxes here.
        backend: ``'cv2'`` or ``'pillow'``.
        interpolation: Of the images, a name of ``mmcv.imresize``.
    """

    def __init__(
        self,
        scale: int | tuple[int, int] | None = None,
        scale_factor: float | tuple[float, float] | None = None,
        keep_ratio: bool = False,
        clip_object_border: bool = True,
        backend: str = 'cv2',
        interpolation: str = 'bilinear',
    ) -> None:
        if scale is None and scale_factor is None:
            raise UserError('MultiImgResize needs scale, the target (w, h), or scale_factor')
        self.scale = None if scale is None else to_pair('scale', scale)
        self.scale_factor = None if scale_factor is None else to_pair('scale_factor', scale_factor)
        self.keep_ratio = keep_ratio
        self.clip_object_border = clip_object_border
        self.backend = backend
        self.interpolation = interpolation

    def transform(self, results: dict) -> dict:
        h, w = results['img'][0].shape[:2]
        scale = self._scale_of(h, w)
        size = rescale_size((w, h), scale) if self.keep_ratio else scale
        _map_padding(
            results,
            lambda left, right, top, bottom: (
                *(round(side * size[0] / w) for side in (left, right)),
                *(round(side * size[1] / h) for side in (top, bottom)),
            ),
        )
        if size != (w, h):
            map_images(
                results,
                lambda image: mmcv.imresize(
                    image, size, interpolation=self.interpolation, backend=self.backend
                ),
            )
            map_labels(
                results,
                lambda label: mmcv.imresize(
                    label, size, interpolation='nearest', backend=self.backend
                ),
            )
        results.update(
            scale=scale,
            scale_factor=(size[0] / w, size[1] / h),
            keep_ratio=self.keep_ratio,
            img_shape=size[::-1],
        )
        return results

    def _scale_of(self, h: int, w: int) -> tuple[int, int]:
        if self.scale is not None:
            return self.scale
        w_factor, h_factor = self.scale_factor  # type: ignore[misc]
        return int(w * w_factor + 0.5), int(h * h_factor + 0.5)


@TRANSFORMS.register_module()
class MultiImgRandomResize(MultiImgTransform):
    """Resize both dates and the labels to a random size.

    Args:
        scale: (w, h), multiplied by a ratio from ``ratio_range``; or two (w, h) between which each
            edge is drawn, both ends included.
        ratio_range: (lowest, highest) ratio; needed with the first kind of ``scale``.
        resize_type: A registered transform with the argument and attribute ``scale``.
        **resize_kwargs: Its other arguments.
    """

    def __init__(
        self,
        scale: tuple[int, int] | Sequence[tuple[int, int]],
        ratio_range: tuple[float, float] | None = None,
        resize_type: str = 'MultiImgResize',
        **resize_kwargs: object,
    ) -> None:
        self.scale = scale
        self.ratio_range = ratio_range
        self._between_two = isinstance(scale[0], (list, tuple))
        if not self._between_two and ratio_range is None:
            raise UserError(
                f'MultiImgRandomResize with one scale={scale!r} needs ratio_range, for instance '
                '(0.5, 2.0)'
            )
        self._resize = TRANSFORMS.build(
            {'type': resize_type, '_scope_': 'mtkd_cd', 'scale': 0, **resize_kwargs}
        )

    def transform(self, results: dict) -> dict:
        self._resize.scale = self._draw()
        return self._resize(results)

    def _draw(self) -> tuple[int, int]:
        if self._between_two:
            w, h = (np.random.randint(min(edge), max(edge) + 1) for edge in zip(*self.scale))
            return int(w), int(h)
        ratio = np.random.uniform(*self.ratio_range)  # type: ignore[misc]
        return int(self.scale[0] * ratio), int(self.scale[1] * ratio)  # type: ignore[operator]


@TRANSFORMS.register_module()
class MultiImgResizeToMultiple(MultiImgTransform):
    """Resize both dates to the next multiple of a number, the labels with nearest neighbours;
    writes ``img_shape`` and ``pad_shape``.

    Args:
        size_divisor: The number, or (w, h).
        interpolation: Of the images; bilinear by default.
    """

    def __init__(
        self, size_divisor: int | tuple[int, int] = 32, interpolation: str | None = None
    ) -> None:
        self.size_divisor = size_divisor
        self.interpolation = interpolation or 'bilinear'

    def transform(self, results: dict) -> dict:
        def resize(image: np.ndarray, interpolation: str) -> np.ndarray:
            return mmcv.imresize_to_multiple(
                image, self.size_divisor, scale_factor=1, interpolation=interpolation
            )

        map_images(results, lambda image: resize(image, self.interpolation))
        map_labels(results, lambda label: resize(label, 'nearest'))
        results['pad_shape'] = results['img_shape']
        return results


@TRANSFORMS.register_module()
class MultiImgResizeShortestEdge(MultiImgTransform):
    """Resize both dates and the labels, keeping their shape, so that the shorter edge gets a
    length, unless the longer one gets too long.

    Args:
        scale: Length of the shorter edge; of a pair, the smaller number counts.
        max_size: Longest that the longer edge may get.
    """

    def __init__(self, scale: int | tuple[int, int], max_size: int) -> None:
        self.scale = scale
        self.max_size = max_size
        self._edge = min(to_pair('scale', scale))
        self._resize = MultiImgResize(scale=max_size)

    def transform(self, results: dict) -> dict:
        h, w = results['img'][0].shape[:2]
        ratio = min(self._edge / min(h, w), self.max_size / max(h, w))
        self._resize.scale = int(w * ratio + 0.5), int(h * ratio + 0.5)
        return self._resize(results)


@TRANSFORMS.register_module()
class MultiImgRandomRotate(MultiImgTransform):
    """Rotate both dates (bilinear) and the labels (nearest) by a random angle.

    Args:
        prob: Probability of a rotation.
        degree: Angles are drawn from (-degree, degree), or from a pair; positive is clockwise.
        pad_val: Fill of the images' corners, before normalisation: one number for all channels, or
            one each.
        seg_pad_val: Fill of the labels' corners.
        center: (x, y) of the axis; by default the middle of the image.
        auto_bound: Whether to enlarge the image so that nothing is cut off.
    """

    def __init__(
        self,
        prob: float,
        degree: float | tuple[float, float],
        pad_val: float | Sequence[float] = 0,
        seg_pad_val: int = 255,
        center: tuple[float, float] | None = None,
        auto_bound: bool = False,
    ) -> None:
        if center is not None and auto_bound:
            raise UserError(
                f'MultiImgRandomRotate: center={center} and auto_bound=True exclude each other'
            )
        self.prob = check_probability('prob', prob)
        self.degree = _degree_range(degree)
        self.pad_val = pad_val
        self.seg_pad_val = seg_pad_val
        self.center = None if center is None else to_pair('center', center)
        self.auto_bound = auto_bound

    def transform(self, results: dict) -> dict:
        rotate = np.random.rand() < self.prob
        angle = np.random.uniform(*self.degree)
        if rotate:
            _rotate(
                results,
                angle,
                self.pad_val,
                self.seg_pad_val,
                center=self.center,
                auto_bound=self.auto_bound,
            )
        return results


@TRANSFORMS.register_module()
class MultiImgRandomRotFlip(MultiImgTransform):
    """Rotate by a random angle; or else, perhaps, turn by a random number of quarter turns and flip
    along a random axis.

    With the defaults half of the pairs are rotated and a quarter are turned and flipped.

    Args:
        rotate_prob: Probability of a rotation.
        flip_prob: Probability of a turn with a flip where there was no rotation.
        degree: As in :class:`MultiImgRandomRotate`.
        pad_val: As in :class:`MultiImgRandomRotate`.
        seg_pad_val: As in :class:`MultiImgRandomRotate`.
    """

    def __init__(
        self,
        rotate_prob: float = 0.5,
        flip_prob: float = 0.5,
        degree: float | tuple[float, float] = (-20, 20),
        pad_val: float | Sequence[float] = 0,
        seg_pad_val: int = 255,
    ) -> None:
        self.rotate_prob = check_probability('rotate_prob', rotate_prob)
        self.flip_prob = check_probability('flip_prob', flip_prob)
        self.degree = _degree_range(degree)
        self.pad_val = pad_val
        self.seg_pad_val = seg_pad_val

    def transform(self, results: dict) -> dict:
        rotate = np.random.random() < self.rotate_prob
        if rotate:
            _rotate(results, np.random.uniform(*self.degree), self.pad_val, self.seg_pad_val)
        # This draw is always made.
        if np.random.random() < self.flip_prob and not rotate:
            turns = np.random.randint(0, 4)
            axis = np.random.randint(0, 2)
            map_all(
                results,
                lambda image: cv2.flip(_quarter_turns(image, turns), axis),
            )
        return results


def _quarter_turns(image: np.ndarray, turns: int) -> np.ndarray:
    """Counter-clockwise; OpenCV turns up to four channels."""
    if turns and image.ndim == 3 and image.shape[2] > 4:
        return np.ascontiguousarray(np.rot90(image, turns))
    return cv2.rotate(image, _TURNS[turns]) if turns else image


@TRANSFORMS.register_module()
class MultiImgRandomCrop(MultiImgTransform):
    """Crop the same random box from both dates and the labels; an image that is smaller than the
    box is taken whole.

    Args:
        crop_size: (h, w), or the side of a square.
        cat_max_ratio: Below 1: a box is drawn anew, up to ten times, if a class has that share or
            more of its valid pixels in ``gt_seg_map``, or if there is just one class.
        ignore_index: Label value that is not valid.
    """

    def __init__(
        self,
        crop_size: int | tuple[int, int],
        cat_max_ratio: float = 1.0,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        self.crop_size = to_pair('crop_size', crop_size)
        if not all(isinstance(edge, int) and edge > 0 for edge in self.crop_size):
            raise UserError(f'crop_size={crop_size!r}: positive integers (h, w) are needed')
        self.cat_max_ratio = cat_max_ratio
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        rows, columns = self._choose_box(results)
        map_all(results, lambda image: image[rows, columns])
        return results

    def _choose_box(self, results: dict) -> tuple[slice, slice]:
        shape = results['img'][0].shape
        box = self._draw_box(shape)
        if self.cat_max_ratio >= 1 or all(
            length <= wanted for length, wanted in zip(shape, self.crop_size)
        ):
            return box  # there is no other one
        for _ in range(_MAX_CROP_TRIES):
            if self._is_mixed(results['gt_seg_map'][box]):
                break
            box = self._draw_box(shape)
        return box

    def _draw_box(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        # randint(0, 1) takes nothing from the generator.
        top, left = (
            np.random.randint(0, max(length - wanted, 0) + 1)
            for length, wanted in zip(shape, self.crop_size)
        )
        return slice(top, top + self.crop_size[0]), slice(left, left + self.crop_size[1])

    def _is_mixed(self, label: np.ndarray) -> bool:
        counts = np.bincount(label.ravel(), minlength=256)
        counts[np.arange(len(counts)) == self.ignore_index] = 0
        return bool(
            np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < self.cat_max_ratio
        )


@TRANSFORMS.register_module()
class MultiImgRandomFlip(MultiImgTransform):
    """Flip both dates and the labels; writes ``flip`` and ``flip_direction``, which tell how the
    pair stands to the stored one.

    Args:
        prob: Probability of a flip, shared evenly by the directions; or a list with one per
            direction.
        direction: ``'horizontal'`` (reverses columns), ``'vertical'`` (rows) or ``'diagonal'``
            (both), or a list of them.
    """

    def __init__(
        self, prob: float | Sequence[float], direction: str | Sequence[str] = 'horizontal'
    ) -> None:
        self.prob = prob
        self.direction = direction
        directions = [direction] if isinstance(direction, str) else list(direction)
        if not directions or not set(directions) <= set(_DIRECTIONS):
            raise UserError(
                f'direction={direction!r}: must be one or a list of {", ".join(_DIRECTIONS)}'
            )
        if isinstance(prob, (int, float)):
            check_probability('prob', prob)
            probabilities, none = [prob / len(directions)] * len(directions), 1 - prob
        else:
            probabilities, none = (
                [check_probability('prob', value) for value in prob],
                1 - sum(prob),
            )
        if len(probabilities) != len(directions) or none < 0:
            raise UserError(
                f'prob={prob!r}: one probability for each of {directions} is needed, 1 or less '
                'together'
            )
        self._choices: list[str | None] = [*directions, None]
        self._probabilities = [*probabilities, none]

    def transform(self, results: dict) -> dict:
        direction = self._choices[np.random.choice(len(self._choices), p=self._probabilities)]
        if direction is not None:
            map_all(results, lambda image: cv2.flip(image, _FLIP_CODES[direction]))
            rows, columns = _DIRECTIONS[direction]
            _map_padding(
                results,
                lambda left, right, top, bottom: (
                    *((right, left) if columns else (left, right)),
                    *((bottom, top) if rows else (top, bottom)),
                ),
            )
        results['flip_direction'] = _combine(results.get('flip_direction'), direction)
        results['flip'] = results['flip_direction'] is not None
        return results


@TRANSFORMS.register_module()
class MultiImgExchangeTime(MultiImgTransform):
    """Swap the two dates, and with them labels that belong to one date; paths and CAR stay.

    Args:
        prob: Probability of a swap.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = check_probability('prob', prob)

    def transform(self, results: dict) -> dict:
        if np.random.rand() < self.prob:
            results['img'] = results['img'][::-1]
            if {'gt_seg_map_from', 'gt_seg_map_to'} <= set(results.get('seg_fields', ())):
                results['gt_seg_map_from'], results['gt_seg_map_to'] = (
                    results['gt_seg_map_to'],
                    results['gt_seg_map_from'],
                )
        return results


@TRANSFORMS.register_module()
class MultiImgPad(MultiImgTransform):
    """Pad both dates and the labels at the right and the bottom; writes ``pad_shape``,
    ``pad_fixed_size``, ``pad_size_divisor``.

    Also writes ``padded``, (left, right, top, bottom) pixels of the images that are no part of the
    stored ones, and ``label_padded``, the same of the labels that have been loaded. In a test the
    data preprocessor has both taken away again.

    Args:
        size: Target (w, h).
        size_divisor: Pad to the next multiple instead; also after ``pad_to_square``.
        pad_to_square: Pad to a square with the longer edge.
        pad_val: ``dict(img=..., seg=...)``; a number is for the images, labels get 255.
        padding_mode: ``'constant'``, ``'edge'``, ``'reflect'`` or ``'symmetric'``.
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        size_divisor: int | None = None,
        pad_to_square: bool = False,
        pad_val: float | dict | None = None,
        padding_mode: str = 'constant',
    ) -> None:
        if (size is None) == (size_divisor is None and not pad_to_square):
            raise UserError(
                f'MultiImgPad: size={size}, size_divisor={size_divisor}, '
                f'pad_to_square={pad_to_square}: needed is either size, or '
                'size_divisor or pad_to_square or both'
            )
        self.size = None if size is None else to_pair('size', size)
        self.size_divisor = size_divisor
        self.pad_to_square = pad_to_square
        self.pad_val = {
            'img': 0,
            'seg': 255,
            **(pad_val if isinstance(pad_val, dict) else {'img': pad_val or 0}),
        }
        self.padding_mode = padding_mode

    def transform(self, results: dict) -> dict:
        shape = self._target(*results['img'][0].shape[:2])

        def pad(image: np.ndarray, value: float | Sequence[float]) -> np.ndarray:
            if isinstance(value, (int, float)) and image.ndim == 3:
                value = (value,) * image.shape[2]
            return mmcv.impad(image, shape=shape, pad_val=value, padding_mode=self.padding_mode)

        h, w = results['img'][0].shape[:2]
        map_images(results, lambda image: pad(image, self.pad_val['img']))
        map_labels(results, lambda label: pad(label, self.pad_val['seg']))
        new_h, new_w = results['img_shape']
        for key in PADDINGS if results.get('seg_fields') else PADDINGS[:1]:
            left, right, top, bottom = results.get(key, (0, 0, 0, 0))
            results[key] = (left, right + new_w - w, top, bottom + new_h - h)
        results.update(
            pad_shape=results['img_shape'],
            pad_fixed_size=self.size,
            pad_size_divisor=self.size_divisor,
        )
        return results

    def _target(self, h: int, w: int) -> tuple[int, int]:
        if self.size is not None:
            return self.size[1], self.size[0]
        if self.pad_to_square:
            h = w = max(h, w)
        divisor = self.size_divisor or 1
        return -(-h // divisor) * divisor, -(-w // divisor) * divisor


@TRANSFORMS.register_module()
class MultiImgRandomCutOut(MultiImgTransform):
    """Fill random boxes, the same in both dates (CutOut, arXiv:1708.04552).

    Args:
        prob: Probability of any box.
        n_holes: Number of boxes, or (lowest, highest).
        cutout_shape: (w, h) of a box, or a list of them to choose from.
        cutout_ratio: The same relative to the image; one of the two is needed.
        fill_in: Fill of the images, per channel.
        seg_fill_in: Fill of the labels; ``None`` leaves them.
    """

    def __init__(
        self,
        prob: float,
        n_holes: int | tuple[int, int],
        cutout_shape: tuple[int, int] | list[tuple[int, int]] | None = None,
        cutout_ratio: tuple[float, float] | list[tuple[float, float]] | None = None,
        fill_in: Sequence[float] = (0, 0, 0),
        seg_fill_in: int | None = None,
    ) -> None:
        if (cutout_shape is None) == (cutout_ratio is None):
            raise UserError(
                f'MultiImgRandomCutOut: cutout_shape={cutout_shape}, cutout_ratio={cutout_ratio}: '
                'exactly one is needed'
            )
        self.prob = check_probability('prob', prob)
        self.n_holes = to_pair('n_holes', n_holes)
        self.cutout_shape = cutout_shape
        self.cutout_ratio = cutout_ratio
        self.fill_in = fill_in
        self.seg_fill_in = seg_fill_in
        candidates = cutout_shape or cutout_ratio
        self._candidates = candidates if isinstance(candidates, list) else [candidates]

    def transform(self, results: dict) -> dict:
        if np.random.rand() < self.prob:
            boxes = self._draw_boxes(*results['img'][0].shape[:2])
            map_images(results, lambda image: _fill(image, boxes, self.fill_in))
            if self.seg_fill_in is not None:
                map_labels(results, lambda label: _fill(label, boxes, self.seg_fill_in))  # type: ignore[arg-type]
        return results

    def _draw_boxes(self, h: int, w: int) -> list[tuple[slice, slice]]:
        boxes = []
        for _ in range(np.random.randint(self.n_holes[0], self.n_holes[1] + 1)):
            x, y = np.random.randint(0, w), np.random.randint(0, h)
            box_w, box_h = self._candidates[np.random.randint(0, len(self._candidates))]  # type: ignore[misc]
            if self.cutout_ratio is not None:
                box_w, box_h = int(box_w * w), int(box_h * h)
            boxes.append((slice(y, y + box_h), slice(x, x + box_w)))
        return boxes


def _map_padding(
    results: dict, function: Callable[[int, int, int, int], tuple[int, int, int, int]]
) -> None:
    """Replace what :class:`MultiImgPad` noted by a function of left, right, top and bottom."""
    for key in PADDINGS:
        if key in results:
            results[key] = function(*results[key])


def _degree_range(degree: float | Sequence[float]) -> tuple[float, float]:
    if isinstance(degree, (int, float)):
        if degree <= 0:
            raise UserError(f'degree={degree}: must be positive, or a pair (lowest, highest)')
        return -degree, degree
    low, high = to_pair('degree', degree)
    return min(low, high), max(low, high)


def _rotate(
    results: dict,
    angle: float,
    pad_val: float | Sequence[float],
    seg_pad_val: int,
    center: tuple[float, float] | None = None,
    auto_bound: bool = False,
) -> None:
    # OpenCV takes a single number for the fill of the first channel.
    fill = (pad_val,) * 4 if isinstance(pad_val, (int, float)) else tuple(pad_val)

    def rotate(image: np.ndarray, fill: tuple | int, interpolation: str) -> np.ndarray:
        return mmcv.imrotate(
            image,
            angle,
            center=center,
            border_value=fill,
            interpolation=interpolation,
            auto_bound=auto_bound,
        )

    # Date by date: a warp of six channels at once takes 1.6 times as long and rounds differently in
    # some releases of OpenCV.
    map_images(results, lambda image: rotate(image, fill, 'bilinear'))
    map_labels(results, lambda label: rotate(label, seg_pad_val, 'nearest'))


def _combine(first: str | None, second: str | None) -> str | None:
    """Direction of one flip that does what two in a row do; ``None`` is no flip."""
    unflipped = (False, False)
    both = tuple(
        a != b
        for a, b in zip(
            _DIRECTIONS.get(first or '', unflipped), _DIRECTIONS.get(second or '', unflipped)
        )
    )
    return next((name for name, reversals in _DIRECTIONS.items() if reversals == both), None)


def _fill(
    image: np.ndarray, boxes: Sequence[tuple[slice, slice]], value: float | Sequence[float]
) -> np.ndarray:
    image = image.copy()
    for box in boxes:
        image[box] = value
    return image
