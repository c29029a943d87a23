"""Changer's two-date ResNets (arXiv:2209.08290): mmseg's networks with an interaction layer after
each stage."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmseg.models.backbones import ResNeSt, ResNet, ResNetV1c, ResNetV1d
from torch import Tensor

from mtkd_cd.models.layers import build_interactions, on_both_dates
from mtkd_cd.registry import MODELS


def run_stem(network: ResNet, x: Tensor) -> Tensor:
    """Run the stem: (N, C, H, W) images to the (N, C_stem, H/4, W/4) map that the first stage
    takes."""
    x = network.stem(x) if network.deep_stem else network.relu(network.norm1(network.conv1(x)))
    return network.maxpool(x)


class _InteractingStages(ResNet):
    """Run both dates through the ResNet class that comes next among the bases.

    Args:
        interaction_cfg: One interaction layer, or None, per stage.
        kwargs: Arguments of the ResNet.
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

    def train(self, mode: bool = True) -> '_InteractingStages':
        super().train(mode)
        return self  # as modules do; mmseg's ResNet returns None

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, ...]:
        """Levels (N, 2C_i, H/s, W/s) of the stages in ``out_indices``: date A's channels, then date
        B's."""
        x1, x2 = on_both_dates(partial(run_stem, self), x1, x2, weights=self)
        levels = []
        for i, (name, interact) in enumerate(zip(self.res_layers, self.ccs)):
            stage = getattr(self, name)
            x1, x2 = interact(*on_both_dates(stage, x1, x2, weights=stage))
            if i in self.out_indices:
                levels.append(torch.cat((x1, x2), dim=1))
        return tuple(levels)


@MODELS.register_module()
class IA_ResNet(_InteractingStages):
    """ResNet (arXiv:1512.03385) on both dates."""


@MODELS.register_module()
class IA_ResNetV1c(_InteractingStages, ResNetV1c):
    """ResNet with a stem of three 3 x 3 convolutions, on both dates."""


@MODELS.register_module()
class IA_ResNetV1d(_InteractingStages, ResNetV1d):
    """ResNet-V1c with average pooling in the shortcuts, on both dates."""


@MODELS.register_module()
class IA_ResNeSt(_InteractingStages, ResNeSt):
    """ResNeSt (arXiv:2004.08955) on both dates."""
