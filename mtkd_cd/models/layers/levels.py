"""Maps of several levels, fused by one 1 x 1 convolution."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import wrappers
from mmseg.models.utils import resize
from torch import Tensor, nn


def fuse_levels(
    fusion: ConvModule, maps: Sequence[Tensor], size: Sequence[int], **resizing: Any
) -> Tensor:
    """What ``fusion`` makes of all maps, resized and joined.

    A 1 x 1 convolution and a resize are both linear, in channels and in space, so they may change
    places. In training and in inference mode each level is convolved at its own size and resized
    after that: fewer products, and no joined map. Elsewhere, where FLOPs are counted, graphs
    exported and predictions compiled, the layers run in the order in which the architecture is
    drawn.

    Args:
        fusion: A 1 x 1 convolution over all channels, with its norm and activation.
        maps: (N, C_i, H_i, W_i) by level.
        size: Height and width of the result.
        resizing: Arguments of mmseg's ``resize``.

    Returns:
        (N, out_channels, *size).
    """
    if not (fusion.training or _is_inference_mode()) or not _is_plain(fusion):
        return fusion(torch.cat([resize(level, size, **resizing) for level in maps], dim=1))
    weights = fusion.conv.weight.split([level.shape[1] for level in maps], dim=1)
    fused: Any = None
    for level, weight in zip(maps, weights, strict=True):
        # A resize keeps constants, so the bias may come before it.
        bias = fusion.conv.bias if fused is None else None
        part = resize(F.conv2d(level, weight, bias), size, **resizing)
        fused = part if fused is None else fused + part
    if fusion.with_norm:
        fused = fusion.norm(fused)
    return fusion.activate(fused) if fusion.with_activation else fused


def _is_inference_mode() -> bool:
    # torch.compile cannot follow the second question: it would cut its graph there.
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def _is_plain(fusion: ConvModule) -> bool:
    """Whether a module is a 1 x 1 convolution that nothing watches or changes."""
    conv = fusion.conv
    return (
        type(conv) in (nn.Conv2d, wrappers.Conv2d)
        and conv.kernel_size == conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
        and fusion.order == ('conv', 'norm', 'act')
        and not (_is_watched(fusion) or _is_watched(conv))
    )


def _is_watched(module: nn.Module) -> bool:
    """Whether a module has hooks, or a method in the place of its ``forward``: activations that are
    computed again."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or 'forward' in vars(module)
    )
