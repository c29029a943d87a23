"""Interaction layers of Changer (arXiv:2209.08290): each takes the feature maps of both dates and
returns the pair, mixed."""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import MODELS


def _period(layer: str, p: float) -> int:
    if not 0 < p <= 1:
        raise UserError(
            f'{layer}: p must be in (0, 1], found {p}; leave the layer out (None in '
            'interaction_cfg) to exchange nothing'
        )
    return int(1 / p)


def _exchange_every(period: int, dim: int, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    shape = [1] * x1.dim()
    shape[dim] = -1
    exchanged = (torch.arange(x1.shape[dim], device=x1.device) % period == 0).view(shape)
    return torch.where(exchanged, x2, x1), torch.where(exchanged, x1, x2)


@MODELS.register_module()
class ChannelExchange(BaseModule):
    """Swap every ``int(1 / p)``-th channel between the dates, from channel 0 on.

    Args:
        p: Share of the channels to swap, in (0, 1]; its inverse is truncated, so more than 1/2
            swaps all.
    """

    def __init__(self, p: float = 1 / 2):
        super().__init__()
        self.period = _period('ChannelExchange', p)

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        return _exchange_every(self.period, 1, x1, x2)


@MODELS.register_module()
class SpatialExchange(BaseModule):
    """Swap every ``int(1 / p)``-th column between the dates, from column 0 on; rows play no part.

    Args:
        p: Share of the columns to swap, in (0, 1]; its inverse is truncated, so more than 1/2 swaps
            all.
    """

    def __init__(self, p: float = 1 / 2):
        super().__init__()
        self.period = _period('SpatialExchange', p)

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        return _exchange_every(self.period, -1, x1, x2)


@MODELS.register_module()
class Aggregation_distribution(BaseModule):
    """Gate each date's channels by what both dates hold (ChangerAD).

    Args:
        channels: Channels C of each date's map.
        num_paths: Only 2, the dates.
        attn_channels: Width of the gate's hidden layer, at least 8; default ``channels // 16``.
        act_cfg: Activation of the hidden layer.
        norm_cfg: Its norm. Batch norm sees one value per channel and image here, so training needs
            two or more pairs per batch.

    Raises:
        UserError: Another number of paths.
    """

    def __init__(
        self,
        channels: int,
        num_paths: int = 2,
        attn_channels: int | None = None,
        act_cfg: dict[str, Any] | None = None,
        norm_cfg: dict[str, Any] | None = None,
    ):
        super().__init__()
        if num_paths != 2:
            raise UserError(
                f'Aggregation_distribution: num_paths must be 2, for two dates, found {num_paths}'
            )
        width = max(attn_channels or channels // 16, 8)
        self.fc_reduce = nn.Conv2d(channels, width, 1, bias=False)
        self.bn = build_norm_layer(norm_cfg or dict(type='BN'), width)[1]
        self.act = build_activation_layer(act_cfg or dict(type='ReLU'))
        self.fc_select = nn.Conv2d(width, 2 * channels, 1, bias=False)

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        pooled = (x1 + x2).mean((2, 3), keepdim=True)  # (N, C, 1, 1)
        gate1, gate2 = (
            self.fc_select(self.act(self.bn(self.fc_reduce(pooled)))).sigmoid().chunk(2, dim=1)
        )
        return x1 * gate1, x2 * gate2


@MODELS.register_module()
class TwoIdentity(BaseModule):
    """No interaction. Takes and ignores any arguments."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        return x1, x2


def build_interactions(
    interaction_cfg: Sequence[dict[str, Any] | None], num_stages: int
) -> nn.ModuleList:
    """One interaction layer per stage of a backbone, ``None`` meaning none.

    Raises:
        UserError: Not one entry per stage.
    """
    if len(interaction_cfg) != num_stages:
        raise UserError(
            f'interaction_cfg needs one entry (a layer or None) for each of the {num_stages} '
            f'stages, found {len(interaction_cfg)}'
        )
    return nn.ModuleList(
        MODELS.build(layer or dict(type='TwoIdentity')) for layer in interaction_cfg
    )
