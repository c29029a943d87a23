"""LightCDNet (DOI 10.1109/LGRS.2023.3304309): the dates fused early, then one light trunk with
criss-cross attention."""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from mmcv.cnn import Scale
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.layers import interleave_channels, on_both_dates
from mtkd_cd.models.layers.layer_norm import ChannelNorm
from mtkd_cd.registry import MODELS

# Channels of the fused map and of the three stages, and shuffle units in the fusion module.
_SIZES = {
    'small': ((24, 48, 96, 192), 4),
    'base': ((24, 116, 232, 464), 8),
    'large': ((24, 176, 352, 704), 16),
}


def _conv_bn(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return [conv, nn.BatchNorm2d(out_channels)]


def _conv_bn_relu(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [*_conv_bn(in_channels, out_channels), nn.ReLU(inplace=True)]


def _shuffle_branch(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    depthwise = _conv_bn(channels, channels, 3, stride, groups=channels)
    return nn.Sequential(
        *_conv_bn_relu(in_channels, channels), *depthwise, *_conv_bn_relu(channels, channels)
    )


class ShuffleDown(nn.Module):
    """ShuffleNet V2's unit of stride 2 (arXiv:1807.11164): (N, in, H, W) to (N, out, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        half = out_channels // 2
        depthwise = _conv_bn(in_channels, in_channels, 3, 2, groups=in_channels)
        self.branch1 = nn.Sequential(*depthwise, *_conv_bn_relu(in_channels, half))
        self.branch2 = _shuffle_branch(in_channels, half, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return interleave_channels(self.branch1(x), self.branch2(x))


class ShuffleKeep(nn.Module):
    """ShuffleNet V2's unit of stride 1: half of the channels pass by."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch2 = _shuffle_branch(channels // 2, channels // 2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        passing, rest = x.chunk(2, dim=1)
        return interleave_channels(passing, self.branch2(rest))


class CrissCrossAttention(nn.Module):
    """Every pixel attends to its row and its column (arXiv:1811.11721)."""

    def __init__(self, channels: int):
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = Scale(0.0)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        height, width = x.shape[2:]
        column = torch.einsum('nchw,nciw->nhwi', query, key)
        itself = torch.eye(height, dtype=torch.bool, device=x.device)[
            :, None
        ]  # counted in the row alone
        row = torch.einsum('nchw,nchj->nhwj', query, key)
        attention = torch.cat((column.masked_fill(itself, -torch.inf), row), dim=-1).softmax(
            -1
        )  # (N, H, W, H + W)
        column, row = attention.split((height, width), dim=-1)
        attended = torch.einsum('nhwi,nciw->nchw', column, value) + torch.einsum(
            'nhwj,nchj->nchw', row, value
        )
        return self.gamma(attended) + x


class RecurrentCrissCross(nn.Module):
    """The attention twice, with the same weights: then every pixel has seen all others."""

    def __init__(self, channels: int):
        super().__init__()
        self.cca = CrissCrossAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.cca(self.cca(x))


class TimeAttention(nn.Module):
    """Gate each date's channels by what both dates hold."""

    def __init__(self, channels: int):
        super().__init__()
        width = max(channels // 16, 8)
        self.mlp = nn.Sequential(
            *_conv_bn_relu(2 * channels, width), nn.Conv2d(width, 2 * channels, 1, bias=False)
        )

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        pooled = F.adaptive_avg_pool2d(torch.cat((x1, x2), dim=1), 1)  # (N, 2C, 1, 1)
        gate1, gate2 = self.mlp(pooled).sigmoid().chunk(2, dim=1)
        return x1 * gate1 + x1, x2 * gate2 + x2


class DeepSupervisedFusion(nn.Module):
    """Fuse the maps of two dates, (N, C, H, W) each, into one of the same shape."""

    def __init__(self, channels: int, units: int):
        super().__init__()
        hidden = 4 * channels
        expand = nn.Sequential(*_conv_bn_relu(channels, hidden))
        self.stages = nn.Sequential(expand, *(ShuffleKeep(hidden) for _ in range(units)))
        self.single_conv = nn.Sequential(*_conv_bn_relu(hidden, channels))
        self.time_attn = TimeAttention(channels)
        self.final_conv = nn.Sequential(*_conv_bn_relu(2 * channels, channels))

    def _single_path(self, x: Tensor) -> Tensor:
        return self.single_conv(self.stages(x)) + x

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        # One date after the other: these maps are the largest, and both at once leave the cache.
        dates = self._single_path(x1), self._single_path(x2)
        return self.final_conv(interleave_channels(*self.time_attn(*dates)))


@MODELS.register_module()
class LightCDNet(nn.Module):
    """LightCDNet's encoder. Batch norm sees one value per channel and image in places, so training
    needs two or more pairs per batch.

    Args:
        stage_repeat_num: Shuffle units in each of the three stages; (4, 8, 4) in all published
            models.
        net_type: ``small``, ``base`` or ``large``.
        taps_at_stage_ends: Return the maps behind each stage's attention, as the paper draws it.
            Open-CD counts the taps without the attention layers: with (4, 8, 4) the second map is
            one unit short, the third one two, and the last three layers of the network are in its
            checkpoints but in no output. We neither train nor run those.

    Raises:
        UserError: Unknown ``net_type``, or unit counts for which Open-CD's taps fall into other
            stages.
    """

    channels_last = False  # shuffled channels are copied: see mtkd_cd.models.prepare.prepare

    def __init__(
        self,
        stage_repeat_num: Sequence[int],
        net_type: str = 'small',
        taps_at_stage_ends: bool = False,
    ):
        super().__init__()
        if net_type not in _SIZES:
            raise UserError(
                f'LightCDNet: net_type must be one of {", ".join(_SIZES)}, found {net_type!r}'
            )
        channels, fusion_units = _SIZES[net_type]
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, channels[0], 3, stride=2, padding=1, bias=False),
            ChannelNorm(channels[0]),
            nn.GELU(),
        )
        self.fusion_conv = DeepSupervisedFusion(channels[0], fusion_units)
        layers: list[nn.Module] = []
        for before, width, units in zip(channels, channels[1:], stage_repeat_num):
            keep = [ShuffleKeep(width) for _ in range(units - 1)]
            layers += [ShuffleDown(before, width), *keep, RecurrentCrissCross(width)]
        self.stages = nn.ModuleList(layers)
        stage_lengths = [units + taps_at_stage_ends for units in stage_repeat_num]
        self.taps = [end - 1 for end in accumulate(stage_lengths)]
        stages_of_taps = [
            sum(isinstance(layer, ShuffleDown) for layer in layers[: tap + 1]) for tap in self.taps
        ]
        if stages_of_taps != [1, 2, 3]:
            raise UserError(
                f'LightCDNet: with stage_repeat_num {tuple(stage_repeat_num)} Open-CD would return '
                f'maps of the stages {stages_of_taps}: '
                'use (4, 8, 4), or taps_at_stage_ends=True'
            )
        self.stages[self.taps[-1] + 1 :].requires_grad_(False)

    def forward(self, x1: Tensor, x2: Tensor) -> list[Tensor]:
        """Maps at strides 2, 4, 8 and 16 of two (N, 3, H, W) images."""
        x = self.fusion_conv(*on_both_dates(self.conv1, x1, x2, weights=self.conv1))
        maps = [x]
        for i, layer in enumerate(self.stages[: self.taps[-1] + 1]):
            x = layer(x)
            if i in self.taps:
                maps.append(x)
        return maps
