"""Maps of several levels, fused by one 1 x 1 convolution."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import wrappers
from mmseg.models.utils import resize
from torch import Tensor, nn

from mtkd_cd.models.layers.reorder import may_reorder


def fuse_levels(
    fusion: ConvModule, maps: Sequence[Tensor], size: Sequence[int], **resizing: Any
) -> Tensor:
    """What ``fusion`` makes of all maps, resized and joined.

    A 1 x 1 convolution and a resize are both linear, in channels and in space, so they may change
    places. Where :func:`~mtkd_cd.models.layers.reorder.may_reorder` allows it, each level is
    convolved at its own size and resized after that: fewer products, and no joined map.

    Args:
        fusion: A 1 x 1 convolution over all channels, with its norm and activation.
        maps: (N, C_i, H_i, W_i) by level.
        size: Height and width of the result.
        resizing: Arguments of mmseg's ``resize``.

    Returns:
        (N, out_channels, *size).
    """
    if not _is_plain(fusion) or not may_reorder(fusion, fusion.conv):
        return fusion(torch.cat([resize(level, size, **resizing) for level in maps], dim=1))
    weights = fusion.conv.weight.split([level.shape[1] for level in maps], dim=1)
    fused: Any = None
    for level, weight in zip(maps, weights, strict=True):
        # A resize keeps constants, so the bias may come before it.
        bias = fusion.conv.bias if fused is None else None
        part = F.conv2d(level, weight, bias)
        if part.shape[2:] != tuple(size):
            part = resize(part, size, **resizing)
        fused = part if fused is None else fused.add_(part)
    if fusion.with_norm:
        fused = fusion.norm(fused)
    return fusion.activate(fused) if fusion.with_activation else fused


def _is_plain(fusion: ConvModule) -> bool:
    """Whether a module is a 1 x 1 convolution, with what may come behind it."""
    conv = fusion.conv
    return (
        type(conv) in (nn.Conv2d, wrappers.Conv2d)
        and conv.kernel_size == conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
        and fusion.order == ('conv', 'norm', 'act')
    )
