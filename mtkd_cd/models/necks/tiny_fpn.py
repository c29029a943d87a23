"""The feature pyramid of TinyCD v2 and LightCDNet."""

from collections.abc import Sequence
from typing import Any

from mmseg.models.necks import FPN
from mmseg.models.utils import InvertedResidual
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import MODELS


class TinyBlock(InvertedResidual):
    """MobileNetV2's block (arXiv:1801.04381) without expansion."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__(in_channels, out_channels, stride, expand_ratio=1)
        self.conv.insert(
            1, nn.Identity()
        )  # published checkpoints count a layer without weights here


@MODELS.register_module()
class TinyFPN(FPN):
    """mmseg's feature pyramid (arXiv:1612.03144) with an early map that is passed through, and tiny
    blocks.

    Args:
        in_channels: Channels of the maps that enter the pyramid.
        out_channels: Channels of its outputs.
        num_outs: Number of its outputs, the early map not counted.
        custom_block: Output blocks: ``tinyblock`` (batch norm and ReLU6 whatever ``norm_cfg`` and
            ``act_cfg`` say) or ``conv``.
        exist_early_x: Return the first input too, unchanged, as the first output.
        early_x_for_fpn: Also let that input enter the pyramid.
        kwargs: Further arguments of mmseg's ``FPN``.
    """

    fpn_convs: nn.ModuleList

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        custom_block: str = 'tinyblock',
        exist_early_x: bool = False,
        early_x_for_fpn: bool = False,
        **kwargs: Any,
    ):
        super().__init__(list(in_channels), out_channels, num_outs, **kwargs)
        if custom_block not in ('tinyblock', 'conv'):
            raise UserError(
                f"TinyFPN: custom_block must be 'tinyblock' or 'conv', found {custom_block!r}"
            )
        self.exist_early_x = exist_early_x
        self.early_x_for_fpn = early_x_for_fpn
        if custom_block == 'tinyblock':
            convs: list[Any] = list(self.fpn_convs)
            self.fpn_convs = nn.ModuleList(
                TinyBlock(conv.in_channels, out_channels, conv.stride[0]) for conv in convs
            )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        early = tuple(inputs[:1]) if self.exist_early_x else ()
        levels = inputs[1:] if early and not self.early_x_for_fpn else inputs
        if len(levels) != len(self.in_channels):
            raise UserError(
                f'TinyFPN: in_channels {self.in_channels} are for {len(self.in_channels)} maps, '
                f'found {len(levels)}'
            )
        return early + super().forward(levels)
