"""SegFormer's head (arXiv:2105.15203), which ChangeFormer has, and TTP (arXiv:2312.16202) at a size
of its own."""

from collections.abc import Sequence
from typing import Any

from mmseg.models.decode_heads import SegformerHead
from torch import Tensor

from mtkd_cd.models.decode_heads.base import DecodeHead
from mtkd_cd.models.layers import fuse_levels
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class MLPSegHead(DecodeHead, SegformerHead):
    """SegFormer's head (arXiv:2105.15203), which brings all levels to the first one's size, or to a
    given one.

    Args:
        out_size: Height and width of the change map, whatever the size of the images. TTP's (128,
            128) is made for images of 512 x 512. Smaller images get a map finer than a quarter of
            their size, larger ones a coarser map. None: the first level's size.
        kwargs: Arguments of mmseg's ``SegformerHead``.
    """

    def __init__(self, out_size: Sequence[int] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.out_size = out_size

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Levels (N, C_i, ...) to the change map (N, out_channels, *out_size)."""
        levels = self._transform_inputs(inputs)
        maps = [conv(level) for conv, level in zip(self.convs, levels)]
        resizing = dict(mode=self.interpolate_mode, align_corners=self.align_corners)
        size = tuple(self.out_size or levels[0].shape[2:])
        return self.cls_seg(fuse_levels(self.fusion_conv, maps, size, **resizing))
