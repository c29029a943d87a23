"""SegFormer's encoder (arXiv:2105.15203), with fused attention, and Changer's two-date form of it
(arXiv:2209.08290)."""

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.backbones import MixVisionTransformer as MMSegMixVisionTransformer
from mmseg.models.utils import nlc_to_nchw
from torch import Tensor

from mtkd_cd.models.layers import build_interactions, fuse_attention, split_dates, stack_dates
from mtkd_cd.registry import MODELS


def run_stage(stage: Sequence[Any], x: Tensor) -> Tensor:
    """Run one stage, an entry of ``MixVisionTransformer.layers``, on the map of the stage before
    it, or on the image."""
    embed, blocks, norm = stage
    tokens, size = embed(x)
    for block in blocks:
        tokens = block(tokens, size)
    return nlc_to_nchw(norm(tokens), size)


@MODELS.register_module()
class MixVisionTransformer(MMSegMixVisionTransformer):
    """mmseg's encoder with fused attention, see
    :class:`~mtkd_cd.models.layers.attention.FusedAttention`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        fuse_attention(self)


@MODELS.register_module()
class IA_MixVisionTransformer(MixVisionTransformer):
    """The encoder run on both dates, with an interaction layer after each stage.

    Args:
        interaction_cfg: One interaction layer, or None, per stage.
        kwargs: Arguments of :class:`MixVisionTransformer`.
    """

    def __init__(
        self,
        interaction_cfg: Sequence[dict[str, Any] | None] = (None, None, None, None),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.ccs = build_interactions(
            interaction_cfg, self.num_stages
        )  # `ccs` is the name in published checkpoints

    def forward(self, x1: Tensor, x2: Tensor) -> list[Tensor]:
        """Levels (N, 2C_i, H/s, W/s) of the stages in ``out_indices``: date A's channels, then date
        B's."""
        x = stack_dates(
            x1, x2
        )  # no layer here mixes samples, so the dates can share a batch in training too
        levels = []
        for i, (stage, interact) in enumerate(zip(self.layers, self.ccs)):
            pair = interact(*split_dates(run_stage(stage, x)))
            if i in self.out_indices:
                levels.append(torch.cat(pair, dim=1))
            x = torch.cat(pair)
        return levels
