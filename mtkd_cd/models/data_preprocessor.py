"""From the pairs of a batch to the tensor that a detector takes."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mtkd_cd.core.car import IGNORE_INDEX
from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import MODELS

_NONE = (0, 0, 0, 0)
# Of both dates: BGR to RGB and back.
PAIR_CHANNELS = 6


@MODELS.register_module()
class DualInputSegDataPreProcessor(BaseDataPreprocessor):
    """Swap channels, normalise, pad at the right and the bottom, and stack pairs of images.

    Each sample's metainfo gets ``img_shape`` and ``pad_shape``, (h, w) before and after padding,
    and ``padding_size``, (left, right, top, bottom). In testing this counts what a pipeline's
    ``MultiImgPad`` added too, which the labels lose again.

    Args:
        mean: Means of both dates' channels after the swap: a number for each, or one for all.
            ``None``: no normalisation.
        std: Standard deviations, given as ``mean`` is. Both or none are needed.
        size: (h, w) to pad to in training; larger images stay.
        size_divisor: In place of ``size``: pad to the smallest multiples of this number that the
            largest image of the batch fits into.
        pad_val: Fill of the images, after normalisation.
        seg_pad_val: Fill of the labels.
        bgr_to_rgb: Whether to reverse the channels of each date. Only pairs of six channels are
            changed.
        rgb_to_bgr: The same.
        batch_augments: Function of (inputs, data_samples), called last in training.
        test_cfg: ``dict(size=...)`` or ``dict(size_divisor=...)`` for testing; labels are not
            padded then. Default: no padding.
        non_blocking: Whether the host goes on while images in pinned memory are copied to a GPU.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
        size_divisor: int | None = None,
        pad_val: float = 0,
        seg_pad_val: int = IGNORE_INDEX,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        batch_augments: Callable | None = None,
        test_cfg: dict | None = None,
        non_blocking: bool = True,
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        if (mean is None) != (std is None):
            raise UserError(f'data_preprocessor: mean={mean}, std={std}: both or none are needed')
        if bgr_to_rgb and rgb_to_bgr:
            raise UserError('data_preprocessor: bgr_to_rgb and rgb_to_bgr exclude each other')
        if size is not None and size_divisor is not None:
            raise UserError(
                f'data_preprocessor: size={size} and size_divisor={size_divisor} exclude each other'
            )
        self.normalizes = mean is not None and std is not None
        if mean is not None and std is not None:
            self.register_buffer(
                'mean', torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False
            )
            self.register_buffer(
                'std', torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False
            )
        self.train_cfg = {'size': size, 'size_divisor': size_divisor}
        self.test_cfg = test_cfg or {}
        self.pad_val = pad_val
        self.seg_pad_val = seg_pad_val
        self.channel_conversion = bgr_to_rgb or rgb_to_bgr
        self.batch_augments = batch_augments

    def forward(self, data: dict, training: bool = False) -> dict:
        """Make the batch.

        Args:
            data: ``inputs``, a list of (2C, h, w) tensors, or one (N, 2C, h, w) tensor, of any
                dtype; ``data_samples``, a list of ``SegDataSample``, or ``None``.
            training: Whether to pad images and labels as for training, or images alone by
                ``test_cfg``.

        Returns:
            ``inputs``, (N, 2C, H, W) float32, and ``data_samples``, the same objects.

        Raises:
            UserError: Images of a test batch differ in size, or of any batch in their channels;
                ``mean`` doesn't fit the channels; a training image that has to be padded and its
                label differ in size.
        """
        data = self.cast_data(data)
        images = list(data['inputs'])
        samples = data.get('data_samples')
        shapes = [tuple(image.shape[-2:]) for image in images]
        if not training and len(set(shapes)) > 1:
            raise UserError(
                f'a test batch holds images of different sizes, (h, w) = {shapes}: test with '
                'batch_size=1, or resize the images'
            )
        target = _target_shape(shapes, **(self.train_cfg if training else self.test_cfg))
        inputs = self._stack(images, target)
        if samples is not None:
            for sample, shape in zip(samples, shapes):
                padding = (0, target[1] - shape[1], 0, target[0] - shape[0])
                if not training:
                    padding = _with_own_padding(sample, padding)
                elif any(padding):
                    _pad_labels(sample, shape, padding, self.seg_pad_val)
                sample.set_metainfo(
                    {'img_shape': shape, 'pad_shape': target, 'padding_size': padding}
                )
        if training and self.batch_augments is not None:
            inputs, samples = self.batch_augments(inputs, samples)
        return {'inputs': inputs, 'data_samples': samples}

    def _stack(self, images: list[Tensor], target: tuple[int, int]) -> Tensor:
        channels = {image.shape[0] for image in images}
        if len(channels) > 1:
            raise UserError(
                f'the pairs of a batch have different numbers of channels: {sorted(channels)}'
            )
        if self.normalizes and not {self.mean.numel(), self.std.numel()} <= {1, *channels}:
            raise UserError(
                f'data_preprocessor: mean and std have {self.mean.numel()} and {self.std.numel()} '
                f'values, but pairs have {channels.pop()} '
                'channels: give one value for each channel of both dates, for instance [123.675, '
                '116.28, 103.53] * 2'
            )
        if all(image.shape == images[0].shape for image in images):
            batch = self._normalize(torch.stack(images))
            right, bottom = target[1] - batch.shape[-1], target[0] - batch.shape[-2]
            return (
                F.pad(batch, (0, right, 0, bottom), value=self.pad_val)
                if right or bottom
                else batch
            )
        batch = torch.full(
            (len(images), *channels, *target),
            self.pad_val,
            dtype=torch.float32,
            device=images[0].device,
        )
        for padded, image in zip(batch, images):
            padded[:, : image.shape[-2], : image.shape[-1]] = self._normalize(torch.stack([image]))[
                0
            ]
        return batch

    def _normalize(self, batch: Tensor) -> Tensor:
        """(N, C, h, w) of any dtype to float32; overwrites a float32 batch."""
        if self.channel_conversion and batch.shape[1] == PAIR_CHANNELS:
            # No list of indices, which would be a copy to the device that the host awaits.
            batch = batch.unflatten(1, (2, 3)).flip(2).flatten(1, 2)
        batch = batch.float()
        return batch.sub_(self.mean).div_(self.std) if self.normalizes else batch


def _target_shape(
    shapes: Sequence[tuple[int, int]],
    size: tuple[int, int] | None = None,
    size_divisor: int | None = None,
) -> tuple[int, int]:
    """(H, W) that all images of (h, w) ``shapes`` are padded to."""
    height, width = (max(lengths) for lengths in zip(*shapes))
    if size is not None:
        return max(height, size[0]), max(width, size[1])
    divisor = size_divisor or 1
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def _with_own_padding(
    sample: SegDataSample, padding: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """``padding`` and what the sample's pipeline padded its image by; the labels lose theirs."""
    left, right, top, bottom = sample.metainfo.get('label_padded', _NONE)
    if any((left, right, top, bottom)):
        for name, field in sample.items():
            if name.startswith('gt_') and isinstance(field, PixelData):
                height, width = field.shape
                kept = field.data[..., top : height - bottom, left : width - right]
                sample.set_data({name: PixelData(data=kept)})
        sample.set_metainfo({'label_padded': _NONE})
    own = sample.metainfo.get('padded', _NONE)
    return tuple(map(sum, zip(padding, own)))  # type: ignore[return-value]


def _pad_labels(
    sample: SegDataSample,
    shape: tuple[int, int],
    padding: tuple[int, int, int, int],
    value: int,
) -> None:
    """Pad whatever ground truth of the image's size the sample has.

    Raises:
        UserError: The label has another size: beside a padded image its pixels would be elsewhere.
    """
    for name, field in sample.items():
        if not name.startswith('gt_') or not isinstance(field, PixelData):
            continue
        if tuple(field.shape) == shape:
            sample.set_data({name: PixelData(data=F.pad(field.data, padding, value=value))})
        elif name == 'gt_sem_seg':
            raise UserError(
                f'{sample.metainfo.get("img_path", "a pair")}: its label is (h, w) = '
                f'{tuple(field.shape)} and its image {shape} in training: load the annotations '
                'before the images are resized'
            )
