"""STANet's head (DOI 10.3390/rs12101662): features of either date, attention across both, distance
per pixel."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmseg.models.utils import resize
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.decode_heads.base import DecodeHead
from mtkd_cd.models.layers import attend_everywhere, on_both_dates
from mtkd_cd.registry import MODELS

# the logit of a pixel whose distance is above the threshold, and minus that of one whose is not
_CERTAIN = 100.0


class BAM(nn.Module):
    """Basic spatial-temporal attention: every position of either date attends to all of both.

    Args:
        channels: Channels C of the features.
        ds: Factor of the average pooling before the attention.
    """

    def __init__(self, channels: int, ds: int):
        super().__init__()
        self.ds = ds
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(
            torch.zeros(1), requires_grad=False
        )  # in published checkpoints, and in no formula

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, 2w), date A's columns first, to the same shape."""
        pooled = F.avg_pool2d(x, self.ds)
        attended = attend_everywhere(
            self.query_conv(pooled), self.key_conv(pooled), self.value_conv(pooled)
        )
        return F.interpolate(attended, scale_factor=self.ds) + x


class PAMStage(nn.Module):
    """Attention inside the tiles of a grid; a tile's positions are those of both dates.

    Args:
        channels: Channels C of the features.
        tiles: Tiles per row and column of one date.
        ds: As for :class:`BAM`.
    """

    def __init__(self, channels: int, tiles: int, ds: int):
        super().__init__()
        self.tiles = tiles
        self.ds = ds
        self.f_key = nn.Sequential(
            nn.Conv2d(channels, channels // 8, 1), nn.BatchNorm2d(channels // 8)
        )
        self.f_query = nn.Sequential(
            nn.Conv2d(channels, channels // 8, 1), nn.BatchNorm2d(channels // 8)
        )
        self.f_value = nn.Conv2d(channels, channels, 1)

    def _cut(self, x: Tensor) -> Tensor:
        """(N, C, h, 2w) to (N * tiles^2, C, h / tiles, 2w / tiles)."""
        batch, channels, height, width = x.shape
        s = self.tiles
        x = x.view(
            batch, channels, s, height // s, 2, s, width // 2 // s
        )  # N, C, tile row, row, date, tile column, column
        return x.permute(0, 2, 5, 1, 3, 4, 6).reshape(
            batch * s * s, channels, height // s, width // s
        )

    def _join(self, tiles: Tensor) -> Tensor:
        """The inverse of ``_cut``."""
        _, channels, height, width = tiles.shape
        s = self.tiles
        x = tiles.view(-1, s, s, channels, height, 2, width // 2)
        return x.permute(0, 3, 1, 4, 5, 2, 6).reshape(-1, channels, s * height, s * width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, 2w), date A's columns first, to the same shape."""
        pooled = F.avg_pool2d(x, self.ds)
        query, key, value = (
            self._cut(projection(pooled)) for projection in (self.f_query, self.f_key, self.f_value)
        )
        return F.interpolate(self._join(attend_everywhere(query, key, value)), scale_factor=self.ds)


class PAM(nn.Module):
    """Pyramid spatial-temporal attention: tiles of four sizes, fused.

    Args:
        channels: Channels C of the features.
        ds: As for :class:`BAM`.
    """

    grid = (1, 2, 4, 8)

    def __init__(self, channels: int, ds: int):
        super().__init__()
        self.ds = ds
        self.stages = nn.ModuleList(PAMStage(channels, tiles, ds) for tiles in self.grid)
        self.conv_bn = nn.Sequential(
            nn.Conv2d(len(self.grid) * channels, channels, 1, bias=False)
        )  # has no norm, despite the name

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, 2w), date A's columns first, to the same shape."""
        height, width = x.shape[2], x.shape[3] // 2
        divisor = self.grid[-1] * self.ds
        if height % divisor or width % divisor:
            raise UserError(
                f'STAHead: PAM with sa_ds={self.ds} takes feature maps whose sides are multiples '
                f'of {divisor}, found {height} x {width}: '
                'set data_preprocessor.size_divisor, in test_cfg too, and the crop_size of '
                f'sliding windows to multiples of {4 * divisor}'
            )
        return self.conv_bn(torch.cat([stage(x) for stage in self.stages], dim=1))


class CDSA(nn.Module):
    """The attention across dates, on two (N, C, h, w) maps."""

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.Self_Att = attention

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        attended1, attended2 = self.Self_Att(torch.cat((x1, x2), dim=3)).chunk(2, dim=3)
        return attended1, attended2


def _init_attention(attention: nn.Module) -> nn.Module:
    for module in attention.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.02)
    return attention


@MODELS.register_module()
class STAHead(DecodeHead):
    """STANet's head. Its change map is a distance, from 0 up; prediction compares it with a
    threshold.

    Args:
        sa_mode: Attention between the dates: ``'BAM'``, ``'PAM'`` or ``'None'`` (a string), the
            base model.
        sa_in_channels: Channels of the features that are compared.
        sa_ds: Factor of the average pooling before the attention.
        distance_threshold: Distance above which a pixel has changed.
        kwargs: Arguments of mmseg's ``BaseDecodeHead``. ``in_channels`` are those of one date, half
            of what the incoming levels have; ``channels`` is the width of the feature pyramid.

    Raises:
        UserError: Unknown ``sa_mode``.
    """

    def __init__(
        self,
        sa_mode: str = 'PAM',
        sa_in_channels: int = 256,
        sa_ds: int = 1,
        distance_threshold: float = 1,
        **kwargs: Any,
    ):
        super().__init__(input_transform='multiple_select', num_classes=1, init_cfg=None, **kwargs)
        if sa_mode not in ('BAM', 'PAM', 'None'):
            raise UserError(f"STAHead: sa_mode must be 'BAM', 'PAM' or 'None', found {sa_mode!r}")
        self.distance_threshold = distance_threshold
        self.conv_seg = nn.Identity()  # where mmseg's heads classify
        conv = dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        self.fpn_convs = nn.ModuleList(
            ConvModule(in_channels, self.channels, 1, **conv) for in_channels in self.in_channels
        )
        self.fpn_bottleneck = nn.Sequential(
            ConvModule(len(self.in_channels) * self.channels, sa_in_channels, 3, padding=1, **conv),
            nn.Dropout(0.5),
            ConvModule(sa_in_channels, sa_in_channels, 3, padding=1, **conv),
        )
        if sa_mode != 'None':
            self.netA = CDSA(
                _init_attention({'BAM': BAM, 'PAM': PAM}[sa_mode](sa_in_channels, sa_ds))
            )
        self.sa_mode = sa_mode

    def _features(self, levels: Sequence[Tensor]) -> Tensor:
        size = levels[0].shape[2:]
        maps = [
            resize(conv(level), size, mode='bilinear', align_corners=self.align_corners)
            for conv, level in zip(self.fpn_convs, levels)
        ]
        return self.fpn_bottleneck(torch.cat(maps, dim=1))  # (N, sa_in_channels, H/4, W/4)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Levels (N, 2C_i, ...), date A's channels first, to distances (N, 1, H/4, W/4)."""
        date1, date2 = zip(*(level.chunk(2, dim=1) for level in self._transform_inputs(inputs)))
        features1, features2 = on_both_dates(self._features, date1, date2, weights=self)
        if self.sa_mode != 'None':
            features1, features2 = self.netA(features1, features2)
        return torch.linalg.vector_norm(features1 - features2 + 1e-6, dim=1, keepdim=True)

    def predict_by_feat(self, seg_logits: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        """Compare the distances with the threshold, then resize the result: logits (N, 1, H, W),
        large and positive where a pixel has changed."""
        judged = torch.where(seg_logits > self.distance_threshold, _CERTAIN, -_CERTAIN).to(
            seg_logits.dtype
        )
        return super().predict_by_feat(judged, batch_img_metas)
