"""TinyCD (arXiv:2207.13159): a truncated EfficientNet-B4, masks that mix the dates at every scale,
a tiny decoder."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.layers import (
    LeanSequential,
    check_divisible,
    gated_conv,
    interleave_channels,
    is_plain_conv,
    may_reorder,
    on_both_dates,
)
from mtkd_cd.models.pretrained import PretrainedBackbone
from mtkd_cd.registry import MODELS

# Of EfficientNet-B4 (arXiv:1905.11946): (blocks, expand ratio, depthwise kernel, stride, output
# channels).
_STEM_CHANNELS = 48
_STAGES = ((2, 1, 3, 1, 24), (4, 6, 3, 2, 32), (4, 6, 5, 2, 56))
_DROP_PATH_STEP = (
    0.2 / 32
)  # rises with the block's number to 0.2 at the last of the full network's 32 blocks


def _conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    act: bool = True,
) -> LeanSequential:
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return LeanSequential(conv, nn.BatchNorm2d(out_channels), *([nn.SiLU()] if act else []))


class SqueezeExcitation(nn.Module):
    """Gate channels by their means over the image (arXiv:1709.01507)."""

    def __init__(self, channels: int, squeeze_channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, channels, 1)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)

    def gate(self, x: Tensor) -> Tensor:
        """What each channel is multiplied with: (N, C, h, w) to (N, C, 1, 1)."""
        return self.fc2(self.act(self.fc1(F.adaptive_avg_pool2d(x, 1)))).sigmoid()


class MBConv(nn.Module):
    """EfficientNet's inverted residual block.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        expand_ratio: Hidden channels per input channel; 1 leaves the first convolution out.
        kernel: Size of the depthwise kernel.
        stride: Its stride. With 1, and as many channels out as in, the block is residual.
        drop_path: Probability that a residual block is skipped for a sample in training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expand_ratio: int,
        kernel: int,
        stride: int,
        drop_path: float,
    ):
        super().__init__()
        hidden = in_channels * expand_ratio
        self.block = nn.Sequential(
            *([_conv_bn(in_channels, hidden, 1)] if expand_ratio > 1 else []),
            _conv_bn(hidden, hidden, kernel, stride, groups=hidden),
            SqueezeExcitation(hidden, in_channels // 4),
            _conv_bn(hidden, out_channels, 1, act=False),
        )
        self.residual = stride == 1 and in_channels == out_channels
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        out = self._block(x)
        return x + self.drop_path(out) if self.residual else out

    def _block(self, x: Tensor) -> Tensor:
        layers: list[Any] = list(self.block)
        *expand, excitation, project = layers
        conv = project[0]
        lean = self.training and is_plain_conv(conv)
        if not (lean and may_reorder(self.block, excitation, project, conv)):
            return self.block(x)
        for layer in expand:
            x = layer(x)
        return project.go_on(gated_conv(x, excitation.gate(x), conv), 1)


def _efficientnet_b4(in_channels: int) -> nn.ModuleList:
    """The stem and the first three stages: strides 2, 2, 4 and 8."""
    children: list[nn.Module] = [_conv_bn(in_channels, _STEM_CHANNELS, 3, stride=2)]
    channels, number = _STEM_CHANNELS, 0
    for count, expand_ratio, kernel, stride, out_channels in _STAGES:
        blocks = []
        for i in range(count):
            blocks.append(
                MBConv(
                    channels,
                    out_channels,
                    expand_ratio,
                    kernel,
                    1 if i else stride,
                    _DROP_PATH_STEP * number,
                )
            )
            channels, number = out_channels, number + 1
        children.append(nn.Sequential(*blocks))
    trunk = nn.ModuleList(children)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_out')
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return trunk


class MixingBlock(nn.Module):
    """Mix the two dates channel by channel: (N, C, h, w) twice to (N, C, h, w)."""

    def __init__(self, channels: int):
        super().__init__()
        self._convmix = LeanSequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1, groups=channels),
            nn.PReLU(),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        layers: list[Any] = list(self._convmix)
        conv, *others = layers
        if self.training or not may_reorder(self, self._convmix, conv):
            return self._convmix(interleave_channels(x1, x2))
        # Each channel out reads a channel of either date. Depthwise convolutions of the dates, for
        # which torch has a fast kernel, give the same numbers within rounding.
        weight1, weight2 = conv.weight.split(1, dim=1)
        mixed = F.conv2d(x1, weight1, conv.bias, padding=conv.padding, groups=conv.groups)
        mixed = mixed.add_(F.conv2d(x2, weight2, padding=conv.padding, groups=conv.groups))
        for layer in others:
            mixed = layer(mixed)
        return mixed


class PixelwiseMLP(nn.Module):
    """Convolutions 1 x 1, each followed by a PReLU, the last one too unless ``last_act`` is
    False."""

    def __init__(self, channels: Sequence[int], last_act: bool = True):
        super().__init__()
        layers = [LeanSequential(nn.Conv2d(*pair, 1), nn.PReLU()) for pair in pairwise(channels)]
        if not last_act:
            del layers[-1][1]
        self._linears = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self._linears(x)


class MaskBlock(nn.Module):
    """An unbounded mask (N, 1, h, w) from the maps of both dates, (N, C, h, w)."""

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self._mixing = MixingBlock(channels[0])
        self._linear = PixelwiseMLP(channels)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return self._linear(self._mixing(x1, x2))


class UpMask(nn.Module):
    """Double the size of (N, C, h, w), weigh it by a mask (N, 1, 2h, 2w), convolve depthwise and
    pixelwise."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self._upsample = nn.Upsample(scale_factor=2, mode='bilinear', align_corners=True)
        self._convolution = LeanSequential(
            nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels),
            nn.PReLU(),
            nn.InstanceNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 1),
            nn.PReLU(),
            nn.InstanceNorm2d(out_channels),
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, layers = self._upsample(x), self._convolution
        if self.training and isinstance(layers, LeanSequential):
            conv: Any = layers[0]
            if is_plain_conv(conv) and may_reorder(self, layers, conv):
                return layers.go_on(gated_conv(x, mask, conv), 1)
        return layers(x * mask)


@MODELS.register_module()
class TinyCD(PretrainedBackbone):
    """The whole network, up to the logits.

    Args:
        in_channels: Channels of one date.
        bkbn_name: Only ``efficientnet_b4``.
        pretrained: ImageNet weights of the trunk, in torchvision's layout. A path or URL; True: the
            usual file; False: none.
        output_layer_bkbn: Only ``'3'``, the last part of the trunk that is used.
        freeze_backbone: Don't train the trunk; the statistics of its batch norm still move.
        classifier_channels: Hidden widths of the classifier. The authors' own checkpoints have (16,
            8).
        classifier_act: End it in a PReLU, which scales negative logits by a learned slope, as
            Open-CD's does. The authors' does not.

    Raises:
        UserError: Another trunk; or, in ``forward``, sides that are no multiples of 8.
    """

    weights_url = 'https://download.pytorch.org/models/efficientnet_b4_rwightman-23ab8bcd.pth'

    def __init__(
        self,
        in_channels: int,
        bkbn_name: str = 'efficientnet_b4',
        pretrained: bool | str | None = True,
        output_layer_bkbn: str = '3',
        freeze_backbone: bool = False,
        classifier_channels: Sequence[int] = (16,),
        classifier_act: bool = True,
    ):
        if (bkbn_name, str(output_layer_bkbn)) != ('efficientnet_b4', '3'):
            raise UserError(
                "TinyCD has one trunk, bkbn_name='efficientnet_b4' up to output_layer_bkbn='3', "
                f'found {bkbn_name!r} and {output_layer_bkbn!r}'
            )
        super().__init__(pretrained)
        self._backbone = _efficientnet_b4(in_channels).requires_grad_(not freeze_backbone)
        self._first_mix = MaskBlock((in_channels, 10, 5, 1))
        self._mixing_mask = nn.ModuleList(
            [MaskBlock((24, 12, 6, 1)), MaskBlock((32, 16, 8, 1)), MixingBlock(56)]
        )
        self._up = nn.ModuleList([UpMask(56, 64), UpMask(64, 64), UpMask(64, 32)])
        self._classify = PixelwiseMLP((32, *classifier_channels, 1), last_act=classifier_act)

    def published_keys(self) -> dict[str, str]:
        trunk = '_backbone.'
        return {
            key: 'features.' + key.removeprefix(trunk)
            for key in self.state_dict()
            if key.startswith(trunk)
        }

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor]:
        """Logits (N, 1, H, W), a 1-tuple, of two (N, C, H, W) images."""
        check_divisible('TinyCD', x1, 8)
        mixed = [self._first_mix(x1, x2)]
        stem, *stages = self._backbone
        x1, x2 = on_both_dates(stem, x1, x2, weights=stem)
        for stage, mix in zip(stages, self._mixing_mask):
            x1, x2 = on_both_dates(stage, x1, x2, weights=stage)
            mixed.append(mix(x1, x2))
        x = (
            mixed.pop()
        )  # the coarsest is a map of features, (N, 56, H/8, W/8), the others are masks
        for up in self._up:
            x = up(x, mixed.pop())
        return (self._classify(x),)
