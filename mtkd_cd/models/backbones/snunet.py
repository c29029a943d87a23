"""SNUNet-CD with its ensemble channel attention module (DOI 10.1109/LGRS.2021.3056416), up to the
last feature map."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtkd_cd.models.layers import check_divisible, on_both_dates
from mtkd_cd.registry import MODELS

_DEPTH = 4  # the network has levels 0 to 4, at strides 1 to 16


class _Block(nn.Module):
    """Two convolutions; the residual is the first one's raw output."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(residual)))) + residual)


class _Up(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x)


class _ChannelAttention(nn.Module):
    """(N, K, H, W) to gates (N, K, 1, 1) from the mean and the maximum over pixels."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = (F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1))
        mean_score, max_score = (self.fc2(F.relu(self.fc1(values))) for values in pooled)
        return torch.sigmoid(mean_score + max_score)


@MODELS.register_module()
class SNUNet_ECAM(nn.Module):
    """A densely nested Siamese U-Net. Layer names are those of the published checkpoints.

    Args:
        in_channels: Channels of one date.
        base_channel: Width C of level 0; level i has 2^i C.

    Raises:
        UserError: Image sides that are no multiples of 16.
    """

    conv4_0: _Block

    def __init__(self, in_channels: int = 3, base_channel: int = 32):
        super().__init__()
        widths = [base_channel * 2**level for level in range(_DEPTH + 1)]
        for level, width in enumerate(widths):
            setattr(
                self, f'conv{level}_0', _Block(widths[level - 1] if level else in_channels, width)
            )
            for step in range(1, _DEPTH - level + 1):
                setattr(self, f'Up{level + 1}_{step - 1}', _Up(widths[level + 1]))
                setattr(
                    self,
                    f'conv{level}_{step}',
                    _Block((step + 1) * width + widths[level + 1], width),
                )
        self.ca = _ChannelAttention(4 * base_channel, reduction=16)
        self.ca1 = _ChannelAttention(base_channel, reduction=4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

    def _encode(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for level in range(_DEPTH):
            x = getattr(self, f'conv{level}_0')(F.max_pool2d(x, 2) if maps else x)
            maps.append(x)
        return maps

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor]:
        """Two (N, C_in, H, W) images to a 1-tuple of (N, 4C, H, W)."""
        check_divisible('SNUNet_ECAM', x1, 2**_DEPTH)
        maps1, maps2 = on_both_dates(self._encode, x1, x2, weights=self)
        deepest = self.conv4_0(F.max_pool2d(maps2[-1], 2))
        below = [
            *maps2[1:],
            deepest,
        ]  # what is upsampled comes from date B alone, as in the published model
        inputs = [[map1, map2] for map1, map2 in zip(maps1, maps2)]
        for step in range(1, _DEPTH + 1):
            row = []
            for level in range(_DEPTH - step + 1):
                upsampled = getattr(self, f'Up{level + 1}_{step - 1}')(below[level])
                node = getattr(self, f'conv{level}_{step}')(
                    torch.cat((*inputs[level], upsampled), dim=1)
                )
                inputs[level].append(node)
                row.append(node)
            below = row[1:]
        return (self._attend(inputs[0][2:]),)

    def _attend(self, nodes: list[Tensor]) -> Tensor:
        batch, width, height, columns = nodes[0].shape
        joined = torch.cat(nodes, dim=1)  # (N, 4C, H, W)
        within = self.ca1(nodes[0] + nodes[1] + nodes[2] + nodes[3])
        refined = joined.view(batch, len(nodes), width, height, columns) + within.unsqueeze(1)
        return self.ca(joined) * refined.view_as(joined)
