"""The two detectors: mmseg's encoder-decoder, fed with two dates stacked on the channel axis."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.models.utils import resize
from mmseg.structures import SegDataSample
from torch import Tensor

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.decode_heads.base import predicted_class
from mtkd_cd.models.layers import on_both_dates
from mtkd_cd.models.pretrained import check_pretrained, widen_on_load
from mtkd_cd.registry import MODELS

# Sliding windows of one image pair that go through the network together: no more memory than a
# usual training batch.
_WINDOWS_PER_PASS = 8
# All our networks take images of this size.
_SAFE_SIDE = 32
# Axes that a flip reverses, by its direction.
_FLIPPED = {'horizontal': (-1,), 'vertical': (-2,), 'diagonal': (-2, -1)}


class BitemporalEncoderDecoder(EncoderDecoder):
    """What both detectors share; they differ in how the backbone sees the dates.

    Args:
        backbone: Config of the backbone.
        decode_head: Config of the head that gives the change map.
        neck: Config of the neck.
        auxiliary_head: Config of a head, or of several, that are trained on the same features and
            not used in prediction.
        train_cfg: Handed to the heads.
        test_cfg: ``dict(mode='whole')``, or ``dict(mode='slide', crop_size=(h, w), stride=(h,
            w))``.
        data_preprocessor: Config of the data preprocessor.
        pretrained: Checkpoint (path or URL) for the backbone, loaded by ``init_weights``.
        init_cfg: mmengine's initialisation config.
        backbone_inchannels: Channels of one date; the input has twice as many, date A first.

    Raises:
        UserError: ``test_cfg`` or ``pretrained`` that make no sense.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        decode_head: dict[str, Any],
        neck: dict[str, Any] | None = None,
        auxiliary_head: dict[str, Any] | list[dict[str, Any]] | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        pretrained: str | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        backbone_inchannels: int = 3,
    ):
        super().__init__(
            backbone=backbone,
            decode_head=decode_head,
            neck=neck,
            auxiliary_head=auxiliary_head,
            train_cfg=train_cfg,
            test_cfg=_checked_test_cfg(test_cfg),
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.backbone_inchannels = backbone_inchannels
        if backbone_inchannels != 3:
            widen_on_load(self.backbone)
        self.pretrained = pretrained
        if pretrained is not None:
            self._pretrain_backbone(backbone, pretrained)

    def _init_decode_head(self, decode_head: dict[str, Any]) -> None:
        with _mmseg_advice_muted():
            super()._init_decode_head(decode_head)

    def _init_auxiliary_head(
        self, auxiliary_head: dict[str, Any] | list[dict[str, Any]] | None
    ) -> None:
        with _mmseg_advice_muted():
            super()._init_auxiliary_head(auxiliary_head)

    def _pretrain_backbone(self, config: dict[str, Any], pretrained: str) -> None:
        own = {key: config[key] for key in ('pretrained', 'init_cfg') if config.get(key)}
        if own:
            raise UserError(
                f'model.pretrained is {pretrained!r} and model.backbone has {own}: give the '
                'pretrained weights in one place'
            )
        if not isinstance(self.backbone, BaseModule):
            raise UserError(
                f'model.pretrained is {pretrained!r}, but backbone {config["type"]} loads no '
                'pretrained weights: set it to None'
            )
        self.backbone.init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        self.backbone.pretrained_switch = 'model.pretrained=None'

    def init_weights(self) -> None:
        """Initialise all parts, loading pretrained weights where the config names them.

        Raises:
            UserError: A pretrained file that cannot be found, downloaded or read.
        """
        check_pretrained(self)
        super().init_weights()

    def split_dates(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The two (N, C, H, W) images in (N, 2C, H, W)."""
        if inputs.shape[1] != 2 * self.backbone_inchannels:
            raise UserError(
                f'{type(self).__name__} expects {2 * self.backbone_inchannels} input channels (two '
                'dates of backbone_inchannels='
                f'{self.backbone_inchannels}), found {inputs.shape[1]}'
            )
        date1, date2 = inputs.chunk(2, dim=1)
        return date1, date2

    def encode_decode(self, inputs: Tensor, batch_img_metas: Sequence[dict[str, Any]]) -> Tensor:
        """Logits at the size of ``inputs``, (N, out_channels, H, W)."""
        # mmseg's heads choose the output size by the metainfo and the type of its entries. Here it
        # is always the input's.
        size = inputs.shape[2:]
        metas = [{**meta, 'img_shape': size, 'pad_shape': size} for meta in batch_img_metas]
        with _sizes_explained(inputs):
            return super().encode_decode(inputs, metas)

    def _forward(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Any:
        """The decode head's raw output."""
        with _sizes_explained(inputs):
            return super()._forward(inputs, data_samples)

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Losses and accuracies of all heads.

        Raises:
            UserError: Too few pairs for a network that normalises 1 x 1 maps over the batch, or
                images that are too small.
        """
        with _sizes_explained(inputs):
            return super().loss(inputs, data_samples)

    def inference(self, inputs: Tensor, batch_img_metas: Sequence[dict[str, Any]]) -> Tensor:
        """Logits of whole images or, as ``test_cfg`` says, of sliding windows. The images of a
        batch may differ in ``ori_shape``."""
        if self.test_cfg.mode == 'slide':
            return self.slide_inference(inputs, batch_img_metas)
        return self.whole_inference(inputs, batch_img_metas)

    def slide_inference(self, inputs: Tensor, batch_img_metas: Sequence[dict[str, Any]]) -> Tensor:
        """Mean of the logits of all windows that cover a pixel; the last window of a row or column
        is shifted back inside the image."""
        batch, _, height, width = inputs.shape
        crop_height, crop_width = (
            min(pair) for pair in zip(self.test_cfg.crop_size, (height, width))
        )
        tops = _window_starts(height, crop_height, self.test_cfg.stride[0])
        lefts = _window_starts(width, crop_width, self.test_cfg.stride[1])
        corners = [(top, left) for top in tops for left in lefts]
        logits = inputs.new_zeros((batch, self.out_channels, height, width))
        hits = inputs.new_zeros((1, 1, height, width))
        for group in _groups(corners, max(_WINDOWS_PER_PASS // batch, 1)):
            windows = [
                inputs[:, :, top : top + crop_height, left : left + crop_width]
                for top, left in group
            ]
            window_logits = self.encode_decode(
                torch.cat(windows), list(batch_img_metas) * len(group)
            ).chunk(len(group))
            for (top, left), window in zip(group, window_logits):
                logits[:, :, top : top + crop_height, left : left + crop_width] += window
                hits[:, :, top : top + crop_height, left : left + crop_width] += 1
        return logits / hits

    def postprocess_result(
        self, seg_logits: Tensor, data_samples: list[SegDataSample] | None = None
    ) -> list[SegDataSample]:
        """mmseg's results in less time: logits that have the size of the stored image are not
        resized to it, and of two classes the larger logit is found by one comparison.

        Args:
            seg_logits: (N, C, H, W).
            data_samples: N samples, whose metainfo says what was padded, flipped and resized.

        Returns:
            The samples with ``seg_logits``, probabilities where C is 1, and ``pred_sem_seg``.
        """
        samples = data_samples or [SegDataSample() for _ in seg_logits]
        for logits, sample in zip(seg_logits, samples):
            if data_samples is not None:
                logits = self._as_stored(logits, sample.metainfo)
            if len(logits) == 1:
                logits = logits.sigmoid()
                prediction = (logits > self.decode_head.threshold).to(logits)
            else:
                prediction = predicted_class(logits[None])
            found = dict(seg_logits=logits, pred_sem_seg=prediction)
            sample.set_data({name: PixelData(data=data) for name, data in found.items()})
        return samples

    def _as_stored(self, logits: Tensor, meta: dict[str, Any]) -> Tensor:
        """(C, H, W) without padding, unflipped, at the size of the stored image."""
        padding = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
        left, right, top, bottom = padding
        _, height, width = logits.shape
        logits = logits[:, top : height - bottom, left : width - right]
        if meta.get('flip'):
            logits = logits.flip(_FLIPPED[meta['flip_direction']])
        size = tuple(meta['ori_shape'][:2])
        if logits.shape[1:] == size:
            return logits.clone()  # not a view, which would keep the batch in memory
        resized = resize(
            logits[None], size, mode='bilinear', align_corners=self.align_corners, warning=False
        )
        return resized[0]


@MODELS.register_module()
class SiamEncoderDecoder(BitemporalEncoderDecoder):
    """One backbone run on either date, a neck that fuses the two feature pyramids, a head.

    Takes the arguments of :class:`BitemporalEncoderDecoder`; ``neck(features1, features2)`` is
    required.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        decode_head: dict[str, Any],
        neck: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        if neck is None:
            raise UserError(
                'SiamEncoderDecoder needs model.neck to fuse the features of the two dates, found '
                "None; for instance neck=dict(type='FeatureFusionNeck', policy='concat')"
            )
        super().__init__(backbone, decode_head, neck, **kwargs)

    def extract_feat(self, inputs: Tensor) -> Sequence[Tensor]:
        """Fused feature maps of (N, 2C, H, W) image pairs."""
        return self.neck(
            *on_both_dates(self.backbone, *self.split_dates(inputs), weights=self.backbone)
        )


@MODELS.register_module()
class DIEncoderDecoder(BitemporalEncoderDecoder):
    """A dual-input backbone, called once with both dates, an optional neck with one argument, a
    head.

    Takes the arguments of :class:`BitemporalEncoderDecoder`.
    """

    def extract_feat(self, inputs: Tensor) -> Sequence[Tensor]:
        """Feature maps of (N, 2C, H, W) image pairs."""
        features = self.backbone(*self.split_dates(inputs))
        return self.neck(features) if self.with_neck else features


@contextmanager
def _sizes_explained(inputs: Tensor) -> Iterator[None]:
    """What torch's layers say of inputs that they cannot take, in terms of the batch that the user
    gave."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, ValueError) as error:
        batch, _, height, width = (
            int(length) for length in inputs.shape
        )  # which torch's tracer hands out as tensors
        if 'more than 1 value per channel' in str(error):
            raise UserError(
                'batch norm over 1 x 1 maps needs at least two pairs per process (or larger '
                'images, where it is the deepest level that is '
                f'1 x 1), found {batch} of {height} x {width}: set train_dataloader.batch_size=2 '
                'or more'
            ) from None
        if min(height, width) < _SAFE_SIDE:
            works = ' x '.join(str(max(side, _SAFE_SIDE)) for side in (height, width))
            raise UserError(
                f'images of {height} x {width} are too small for this network ({error}): pad them '
                f'to {works}'
            ) from None
        raise


@contextmanager
def _mmseg_advice_muted() -> Iterator[None]:
    """Mute mmseg's warnings of two output channels, of a loss's default and of its builder.

    The benchmark's models have all three on purpose.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            'ignore',
            message='For binary segmentation|Default ``avg_non_ignore``|``build_pixel_sampler``',
        )
        yield


def _checked_test_cfg(test_cfg: dict[str, Any] | None) -> ConfigDict:
    checked = ConfigDict(mode='whole')
    checked.update(test_cfg or {})
    if checked.mode not in ('whole', 'slide'):
        raise UserError(f"model.test_cfg.mode must be 'whole' or 'slide', found {checked.mode!r}")
    if checked.mode == 'slide':
        for key in ('crop_size', 'stride'):
            value = checked.get(key)
            if not (
                isinstance(value, (list, tuple))
                and len(value) == 2
                and all(isinstance(v, int) and v > 0 for v in value)
            ):
                raise UserError(
                    f"model.test_cfg.mode='slide' needs {key}=(height, width) in pixels, found "
                    f'{value!r}'
                )
        if any(stride > crop for stride, crop in zip(checked.stride, checked.crop_size)):
            raise UserError(
                f'model.test_cfg.stride {checked.stride} is larger than crop_size '
                f'{checked.crop_size}: windows would leave gaps'
            )
    return checked


def _window_starts(length: int, crop: int, stride: int) -> list[int]:
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [min(i * stride, length - crop) for i in range(count)]


def _groups(items: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
