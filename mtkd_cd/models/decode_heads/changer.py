"""Changer's head (arXiv:2209.08290): an MLP decoder per date, then flow-guided dual alignment
fusion (FDAF)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mtkd_cd.models.decode_heads.base import DecodeHead
from mtkd_cd.models.layers import MapMixFFN, fuse_levels, on_both_dates, to_order_of
from mtkd_cd.registry import MODELS


class FDAF(BaseModule):
    """Flow dual-alignment fusion: warp each date onto the other by a predicted flow and subtract.

    Args:
        channels: Channels c of one date's map.
    """

    def __init__(self, channels: int):
        super().__init__()
        both = 2 * channels
        self.flow_make = nn.Sequential(
            nn.Conv2d(both, both, 5, padding=2, groups=both),
            nn.InstanceNorm2d(both),
            nn.GELU(),
            nn.Conv2d(both, 4, 1, bias=False),
        )

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Two (N, c, h, w) maps to (N, 2c, h, w): warped A - B, warped B - A."""
        flow1, flow2 = self.flow_make(torch.cat((x1, x2), dim=1)).chunk(
            2, dim=1
        )  # (N, 2, h, w) each: x, y
        return torch.cat((_warp(x1, flow1) - x2, _warp(x2, flow2) - x1), dim=1)


def _warp(x: Tensor, flow: Tensor) -> Tensor:
    """Sample ``x`` at positions shifted by ``flow``, whose unit is 1/w and 1/h of the normalised
    coordinates' range of 2."""
    height, width = x.shape[2:]
    dtype = torch.promote_types(
        x.dtype, torch.float32
    )  # half precision cannot tell neighbouring pixels' coordinates apart
    ys = torch.linspace(-1, 1, height, device=x.device, dtype=dtype)
    xs = torch.linspace(-1, 1, width, device=x.device, dtype=dtype)
    flow_x, flow_y = flow.to(dtype).unbind(1)  # (N, h, w) each
    # Divided by numbers: a tensor of them would be a copy to the device, which the host awaits.
    grid = torch.stack((xs + flow_x / width, ys[:, None] + flow_y / height), dim=-1)
    warped = F.grid_sample(
        x.to(dtype), grid, mode='bilinear', padding_mode='zeros', align_corners=True
    )
    return to_order_of(x, warped.to(x.dtype))  # which torch gives in the usual order


@MODELS.register_module()
class Changer(DecodeHead):
    """Changer's head.

    Args:
        interpolate_mode: Mode in which levels are resized to the first one.
        kwargs: Arguments of mmseg's ``BaseDecodeHead``. ``in_channels`` are those of one date, half
            of what the incoming levels have; ``channels`` must be even.
    """

    def __init__(self, interpolate_mode: str = 'bilinear', **kwargs: Any):
        super().__init__(input_transform='multiple_select', **kwargs)
        self.interpolate_mode = interpolate_mode
        self.convs = nn.ModuleList(
            ConvModule(in_channels, self.channels, 1, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
            for in_channels in self.in_channels
        )
        self.fusion_conv = ConvModule(
            self.channels * len(self.in_channels), self.channels // 2, 1, norm_cfg=self.norm_cfg
        )
        self.neck_layer = FDAF(self.channels // 2)
        self.discriminator = MapMixFFN(self.channels, self.channels, act_cfg=dict(type='GELU'))

    def _decode_date(self, levels: Sequence[Tensor]) -> Tensor:
        maps = [conv(level) for conv, level in zip(self.convs, levels)]
        resizing = dict(mode=self.interpolate_mode, align_corners=self.align_corners)
        size = levels[0].shape[2:]
        return fuse_levels(self.fusion_conv, maps, size, **resizing)  # (N, channels / 2, H/4, W/4)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Levels (N, 2C_i, ...), date A's channels first, to the change map (N, out_channels, H/4,
        W/4)."""
        date1, date2 = zip(*(level.chunk(2, dim=1) for level in self._transform_inputs(inputs)))
        return self.cls_seg(
            self.discriminator(
                self.neck_layer(*on_both_dates(self._decode_date, date1, date2, weights=self))
            )
        )
