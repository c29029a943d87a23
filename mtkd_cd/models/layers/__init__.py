"""Layers that several architectures share."""

from mtkd_cd.models.layers.attention import FusedAttention, fuse_attention
from mtkd_cd.models.layers.dates import on_both_dates, split_dates, stack_dates
from mtkd_cd.models.layers.gelu import AnyOrderGELU
from mtkd_cd.models.layers.instance_norm import AnyOrderInstanceNorm
from mtkd_cd.models.layers.interaction import (
    Aggregation_distribution,
    ChannelExchange,
    SpatialExchange,
    TwoIdentity,
    build_interactions,
)
from mtkd_cd.models.layers.layer_norm import ChannelNorm, LN2d
from mtkd_cd.models.layers.lean import LeanSequential, gated_conv, is_plain_conv, norm_relu_conv
from mtkd_cd.models.layers.levels import fuse_levels
from mtkd_cd.models.layers.map_attention import attend_everywhere
from mtkd_cd.models.layers.memory_order import lies_by_pixel, to_order_of
from mtkd_cd.models.layers.mix_ffn import MapMixFFN
from mtkd_cd.models.layers.reorder import may_reorder
from mtkd_cd.models.layers.shuffle import interleave_channels
from mtkd_cd.models.layers.size import check_divisible

__all__ = [
    'Aggregation_distribution',
    'AnyOrderGELU',
    'AnyOrderInstanceNorm',
    'ChannelExchange',
    'ChannelNorm',
    'FusedAttention',
    'LN2d',
    'LeanSequential',
    'MapMixFFN',
    'SpatialExchange',
    'TwoIdentity',
    'attend_everywhere',
    'build_interactions',
    'check_divisible',
    'fuse_attention',
    'fuse_levels',
    'gated_conv',
    'interleave_channels',
    'is_plain_conv',
    'lies_by_pixel',
    'may_reorder',
    'norm_relu_conv',
    'on_both_dates',
    'split_dates',
    'stack_dates',
    'to_order_of',
]
