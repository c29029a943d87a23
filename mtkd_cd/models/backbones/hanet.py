"""HANet, the hierarchical attention network for change detection (DOI 10.1109/JSTARS.2023.3264802),
up to the last feature map."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtkd_cd.models.layers import check_divisible, on_both_dates
from mtkd_cd.registry import MODELS

_LEVELS = (1, 2, 3, 4)  # at strides 1, 2, 4 and 8
_CELLS = {
    1: 'conv0',
    2: 'conv2',
    3: 'conv4',
    4: 'conv5',
}  # the published checkpoints' names of the levels' feature cells


class _Cell(nn.Module):
    """A 3 x 3 and a 1 x 1 convolution; the residual is the first one's raw output."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(residual)))) + residual)


class _ChannelAttention(nn.Module):
    """Each channel gathers from those least like it."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        # Sums over all pixels exceed half precision's range. The meta device has no autocast of its
        # own.
        with torch.autocast('cpu' if x.is_meta else x.device.type, enabled=False):
            flat = x.flatten(2).float()  # (N, C, H * W)
            likeness = flat @ flat.transpose(1, 2)  # (N, C, C)
            gathered = (-likeness).softmax(dim=-1) @ flat
        return self.gamma * gathered.view_as(x).to(x.dtype) + x


class _ChannelAttentionBranch(nn.Module):
    def __init__(self, channels: int, width: int = 32):
        super().__init__()
        self.attn = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.PReLU(),
            _ChannelAttention(),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.PReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x)


class _RowAttention(nn.Module):
    """Every pixel attends to the pixels of its row."""

    def __init__(self, channels: int):
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels, 1)
        self.key_conv = nn.Conv2d(channels, channels, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        # (N, H, W, C): the rows take the place of attention heads
        query, key, value = (
            conv(x).permute(0, 2, 3, 1)
            for conv in (self.query_conv, self.key_conv, self.value_conv)
        )
        gathered = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return self.gamma * gathered.permute(0, 3, 1, 2) + x


class _ColumnAttention(_RowAttention):
    """Every pixel attends to the pixels of its column."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(2, 3)).transpose(2, 3)


@MODELS.register_module()
class HAN(nn.Module):
    """HANet's network. Layer names are those of the published checkpoints.

    Args:
        in_channels: Channels of one date.
        base_channel: Width C of level 1, even; the later ones have 2C, 4C and 8C.

    Raises:
        UserError: Image sides that are no multiples of 8.
    """

    def __init__(self, in_channels: int = 3, base_channel: int = 40):
        super().__init__()
        widths = [base_channel * 2**i for i in range(len(_LEVELS))]
        self.conv0_0 = nn.Conv2d(in_channels, base_channel, 5, padding=2)
        for level, width, narrower in zip(_LEVELS, widths, [base_channel, *widths]):
            setattr(self, _CELLS[level], _Cell(narrower, width))
            for dilation in (1, 2, 3, 4):
                fuse = nn.Conv2d(
                    2 * width, width, 3, padding=dilation, dilation=dilation, groups=width // 2
                )
                setattr(self, f'conv6_{level}_{dilation}', fuse)
            setattr(self, f'conv{level}_1', nn.Conv2d(4 * width, width, 1))
            setattr(self, f'cam_attention_{level}', _ChannelAttentionBranch(width))
            setattr(self, f'row_attention_{level}', _RowAttention(width))
            setattr(self, f'col_attention_{level}', _ColumnAttention(width))
        self.conv6 = nn.Conv2d(sum(widths), 2 * base_channel, 1)
        # Never used, but present in published checkpoints. Frozen, so that distributed training
        # does not wait for their gradients.
        self.c4_conv = nn.Conv2d(8 * base_channel, 2 * base_channel, 3, padding=1).requires_grad_(
            False
        )
        self.c3_conv = nn.Conv2d(4 * base_channel, 2 * base_channel, 3, padding=1).requires_grad_(
            False
        )
        self.c2_conv = nn.Conv2d(2 * base_channel, 2 * base_channel, 3, padding=1).requires_grad_(
            False
        )
        self.c1_conv = nn.Conv2d(base_channel, base_channel, 3, padding=1).requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(
                    module.weight,
                    std=(2 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1]))
                    ** 0.5,
                )

    def _encode(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for level in _LEVELS:
            x = getattr(self, _CELLS[level])(F.avg_pool2d(x, 2) if maps else self.conv0_0(x))
            maps.append(x)
        return maps

    def _fuse(self, level: int, map1: Tensor, map2: Tensor) -> Tensor:
        both = torch.cat((map1, map2), dim=1)
        contexts = [getattr(self, f'conv6_{level}_{dilation}')(both) for dilation in (1, 2, 3, 4)]
        fused = getattr(self, f'conv{level}_1')(torch.cat(contexts, dim=1))
        attend_row, attend_column = (
            getattr(self, f'row_attention_{level}'),
            getattr(self, f'col_attention_{level}'),
        )
        return getattr(self, f'cam_attention_{level}')(fused) + attend_row(attend_column(fused))

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor]:
        """Two (N, C_in, H, W) images to a 1-tuple of (N, 2C, H, W)."""
        check_divisible('HAN', x1, 2 ** (len(_LEVELS) - 1))
        maps1, maps2 = on_both_dates(self._encode, x1, x2, weights=self)
        levels = [self._fuse(level, map1, map2) for level, map1, map2 in zip(_LEVELS, maps1, maps2)]
        merged = levels.pop()
        while levels:
            upsampled = F.interpolate(merged, scale_factor=2, mode='bilinear', align_corners=False)
            merged = torch.cat((levels.pop(), upsampled), dim=1)
        return (self.conv6(merged),)
