"""LightCDNet's head (DOI 10.1109/LGRS.2023.3304309): the pyramid's levels added up at the
finest."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmseg.models.utils import resize
from torch import Tensor, nn

from mtkd_cd.models.decode_heads.base import DecodeHead
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class DS_FPNHead(DecodeHead):
    """Project every level, add them at the size of the first, classify.

    The first map is left to the auxiliary head (deep supervision): ``in_index`` counts from the
    second.

    Args:
        kwargs: Arguments of mmseg's ``BaseDecodeHead``, ``in_channels`` and ``in_index`` being
            lists.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(input_transform='multiple_select', **kwargs)
        self.scale_heads = nn.ModuleList(
            nn.Sequential(
                ConvModule(
                    in_channels,
                    self.channels,
                    1,
                    conv_cfg=self.conv_cfg,
                    norm_cfg=self.norm_cfg,
                    act_cfg=self.act_cfg,
                )
            )
            for in_channels in self.in_channels
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Levels (N, C_i, ...) to the change map (N, out_channels, H/2, W/2)."""
        first, *others = [
            project(level)
            for project, level in zip(self.scale_heads, self._transform_inputs(inputs[1:]))
        ]
        for level in others:
            first = first + resize(
                level, first.shape[2:], mode='bilinear', align_corners=self.align_corners
            )
        return self.cls_seg(first)
