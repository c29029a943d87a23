"""ViTDet's feature pyramid (arXiv:2203.16527), made of the one map of a plain vision
transformer."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class SimpleFPN(BaseModule):
    """Four levels of strides 4 to 32 from a map of stride 16, and coarser ones by subsampling;
    nothing flows from level to level.

    Args:
        backbone_channel: Channels C of the map.
        in_channels: Channels of the four levels before projection: C/4, C/2, C, C.
        out_channels: Channels of the outputs.
        num_outs: Number of outputs, at least 4.
        conv_cfg: Convolutions of the projection.
        norm_cfg: Norm, required.
        act_cfg: Activation after the projection's convolutions.
        init_cfg: mmengine's initialisation config.

    Raises:
        UserError: No ``norm_cfg``.
    """

    def __init__(
        self,
        backbone_channel: int,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        conv_cfg: dict[str, Any] | None = None,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ):
        super().__init__(init_cfg)
        if norm_cfg is None:
            raise UserError(
                "SimpleFPN needs a norm_cfg, found None; for instance norm_cfg=dict(type='LN2d')"
            )
        half, quarter = backbone_channel // 2, backbone_channel // 4
        self.num_outs = num_outs
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(backbone_channel, half, 2, 2),
            build_norm_layer(norm_cfg, half)[1],
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(backbone_channel, half, 2, 2))
        self.fpn3 = nn.Identity()
        self.fpn4 = nn.MaxPool2d(2, 2)
        options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg, inplace=False)
        self.lateral_convs = nn.ModuleList(
            ConvModule(channels, out_channels, 1, **options) for channels in in_channels
        )
        self.fpn_convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, padding=1, **options) for _ in in_channels
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, h, w) to ``num_outs`` levels (N, out_channels, ...) of 4h, 2h, h, h/2, ...
        rows."""
        levels = (self.fpn1(x), self.fpn2(x), self.fpn3(x), self.fpn4(x))
        outs = [
            conv(lateral(level))
            for conv, lateral, level in zip(self.fpn_convs, self.lateral_convs, levels)
        ]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)
