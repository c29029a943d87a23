"""BAN's head (arXiv:2312.01163): a small change detector into which bridges bring what a frozen
foundation model sees."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks.transformer import MultiheadAttention
from mmengine.model import BaseModule, caffe2_xavier_init
from mmseg.models.backbones import MixVisionTransformer, ResNet
from mmseg.models.utils import nchw_to_nlc, nlc_to_nchw, resize
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.backbones.ia_resnet import run_stem
from mtkd_cd.models.backbones.mit import run_stage
from mtkd_cd.models.decode_heads.base import DecodeHead
from mtkd_cd.models.decode_heads.bit import BITDecoder
from mtkd_cd.models.layers import (
    ChannelNorm,
    LN2d,
    MapMixFFN,
    fuse_attention,
    fuse_levels,
    on_both_dates,
)
from mtkd_cd.registry import MODELS

# In the published models this is the number of channels; it looks as if meant to multiply them.
_BRIDGE_HIDDEN_CHANNELS = 4


class Bridge(BaseModule):
    """Lets the map of the small network attend to that of the foundation model.

    Args:
        embed_dims: Channels C of both maps.
        num_heads: Heads of the attention.
    """

    def __init__(self, embed_dims: int, num_heads: int):
        super().__init__()
        self.norm1 = LN2d(embed_dims)
        self.attn = MultiheadAttention(embed_dims, num_heads, batch_first=True)
        self.norm2 = LN2d(embed_dims)
        self.ffn = MapMixFFN(embed_dims, _BRIDGE_HIDDEN_CHANNELS, act_cfg=dict(type='GELU'))
        fuse_attention(self)

    def forward(self, x: Tensor, foundation: Tensor) -> Tensor:
        """(N, C, h, w) and the foundation model's (N, C, h', w') to (N, C, h, w)."""
        size = x.shape[2:]
        tokens = self.attn(
            nchw_to_nlc(self.norm1(x)), nchw_to_nlc(foundation), identity=nchw_to_nlc(x)
        )
        x = nlc_to_nchw(tokens, size)
        x = self.ffn(self.norm2(x), identity=x)
        return x + resize(foundation, size, mode='bilinear', align_corners=False)


class SideAdapterNetwork(BaseModule):
    """One date's half of the bi-temporal adapter branch: a small network, some stages of which are
    bridged to the foundation model.

    Args:
        side_encoder: The small network.
        widths: Channels of its stages.
        heads: Attention heads of a bridge behind each of them.
        clip_channels: Channels of the foundation model's maps, one number or one per stage.
        fusion_index: The stages with a bridge; the i-th of them takes the foundation model's i-th
            map.
    """

    def __init__(
        self,
        side_encoder: BaseModule,
        widths: Sequence[int],
        heads: Sequence[int],
        clip_channels: int | Sequence[int] = 768,
        fusion_index: Sequence[int] = (0, 1, 2),
    ):
        super().__init__()
        self.side_encoder = side_encoder
        self.side_encoder.pretrained_switch = 'model.decode_head.ban_cfg.side_enc_cfg.init_cfg=None'
        self.fusion_index = list(fusion_index)
        if isinstance(clip_channels, int):
            clip_channels = [clip_channels] * len(widths)
        self.clip_attns = nn.ModuleList(Bridge(widths[i], heads[i]) for i in self.fusion_index)
        self.conv_clips = nn.ModuleList(
            nn.Sequential(
                ChannelNorm(clip_channels[i]),
                ConvModule(clip_channels[i], widths[i], 1, act_cfg=None),
            )
            for i in self.fusion_index
        )

    def init_weights(self) -> None:
        """Initialise the side encoder, loading pretrained weights where its config names them, and
        the projections to it."""
        self.side_encoder.init_weights()
        for project in self.conv_clips:
            caffe2_xavier_init(project.get_submodule('1.conv'))

    @abstractmethod
    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """The stages of the side encoder. Each takes the map of the stage before it; the first one
        takes the image."""

    def bridged_maps(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """An image (N, 3, H, W) and the foundation model's maps to the maps (N, C_i, H/s, W/s) of
        all stages."""
        x, *foundation_maps = inputs
        levels = []
        for i, stage in enumerate(self.stages()):
            x = stage(x)
            if i in self.fusion_index:
                j = self.fusion_index.index(i)
                x = self.clip_attns[j](x, self.conv_clips[j](foundation_maps[j]))
            levels.append(x)
        return levels


class SideMiT(SideAdapterNetwork):
    """The branch with a ``MixVisionTransformer``; it gives the maps of all stages."""

    def __init__(self, side_encoder: MixVisionTransformer, **kwargs: Any):
        heads = side_encoder.num_heads
        super().__init__(
            side_encoder, [side_encoder.embed_dims * number for number in heads], heads, **kwargs
        )

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        return (partial(run_stage, stage) for stage in self.side_encoder.layers)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return self.bridged_maps(inputs)


class SideResNet(SideAdapterNetwork):
    """The branch with a ResNet of basic blocks; it gives the map of the last of ``out_indices``,
    and runs no further."""

    def __init__(self, side_encoder: ResNet, **kwargs: Any):
        heads = (1, 2, 4, 8)[: side_encoder.num_stages]
        super().__init__(
            side_encoder, [side_encoder.base_channels * number for number in heads], heads, **kwargs
        )

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        encoder = self.side_encoder
        first, *others = (
            getattr(encoder, name) for name in encoder.res_layers[: encoder.out_indices[-1] + 1]
        )
        return chain([lambda image: first(run_stem(encoder, image))], others)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.bridged_maps(inputs)[-1]


def build_side_adapter_network(side_enc_cfg: dict[str, Any], **kwargs: Any) -> SideAdapterNetwork:
    """Build the branch whose side encoder a config describes. ``kwargs`` are further arguments of
    :class:`SideAdapterNetwork`.

    Raises:
        UserError: A side encoder that is neither a ``MixVisionTransformer`` nor a ResNet of depth
            18 or 34.
    """
    encoder = MODELS.build(side_enc_cfg)
    if isinstance(encoder, MixVisionTransformer):
        return SideMiT(encoder, **kwargs)
    if isinstance(encoder, ResNet) and encoder.block.expansion == 1:
        return SideResNet(encoder, **kwargs)
    raise UserError(
        'BitemporalAdapterHead: side_enc_cfg must be a MixVisionTransformer or a ResNet of depth '
        '18 or 34, '
        f'found {side_enc_cfg["type"]}'
        + (f' of depth {side_enc_cfg["depth"]}' if 'depth' in side_enc_cfg else '')
    )


@MODELS.register_module()
class BAN_MLPDecoder(BaseModule):
    """SegFormer's decoder on either date, then a feed-forward block on both.

    Args:
        in_channels: Channels of the levels of one date.
        channels: Channels of one date's decoded map.
        num_classes: Channels of the change map.
        dropout_ratio: Channel dropout before the classifier.
        norm_cfg: Norm of the convolutions.
        act_cfg: Their activation.
        align_corners: Passed on when levels are resized to the first one.
        interpolate_mode: Mode of that resizing.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        dropout_ratio: float = 0.1,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
        align_corners: bool = False,
        interpolate_mode: str = 'bilinear',
    ):
        super().__init__()
        act_cfg = act_cfg or dict(type='ReLU')
        self.resizing = dict(mode=interpolate_mode, align_corners=align_corners)
        self.convs = nn.ModuleList(
            ConvModule(width, channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg)
            for width in in_channels
        )
        self.fusion_conv = ConvModule(len(in_channels) * channels, channels, 1, norm_cfg=norm_cfg)
        self.discriminator = MapMixFFN(2 * channels, 2 * channels, act_cfg=dict(type='GELU'))
        self.dropout = nn.Dropout2d(dropout_ratio)
        self.conv_seg = nn.Conv2d(2 * channels, num_classes, 1)

    def _decode_date(self, levels: Sequence[Tensor]) -> Tensor:
        maps = [conv(level) for conv, level in zip(self.convs, levels)]
        size = levels[0].shape[2:]
        return fuse_levels(self.fusion_conv, maps, size, **self.resizing)  # (N, channels, H/4, W/4)

    def forward(self, x1: Sequence[Tensor], x2: Sequence[Tensor]) -> Tensor:
        """Levels of either date to the change map (N, num_classes, H/4, W/4)."""
        both = torch.cat(on_both_dates(self._decode_date, x1, x2, weights=self), dim=1)
        return self.conv_seg(self.dropout(self.discriminator(both)))


@MODELS.register_module()
class BAN_BITHead(BITDecoder):
    """BIT's head as BAN's decoder: it takes the dates' maps one by one.

    Args:
        num_classes: Channels of the change map.
        dropout_ratio: Channel dropout before the classifier.
        interpolate_mode: Not used; accepted because Open-CD's configs may give it.
        kwargs: Further arguments of :class:`BITDecoder`.
    """

    def __init__(
        self,
        num_classes: int = 2,
        dropout_ratio: float = 0,
        interpolate_mode: str = 'bilinear',
        **kwargs: Any,
    ):
        super().__init__(num_classes=num_classes, dropout_ratio=dropout_ratio, **kwargs)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """The map of either date (N, C, H/8, W/8) to the change map (N, num_classes, H, W)."""
        return self.decode(x1, x2)


@MODELS.register_module()
class BitemporalAdapterHead(DecodeHead):
    """BAN's bi-temporal adapter branch and its decoder.

    Args:
        ban_cfg: Arguments of :func:`build_side_adapter_network`.
        ban_dec_cfg: Config of the decoder. It takes what the branch returns for date A and for date
            B.
        kwargs: Arguments of mmseg's ``BaseDecodeHead`` but ``in_channels``, ``channels`` and
            ``num_classes``.
    """

    def __init__(self, ban_cfg: dict[str, Any], ban_dec_cfg: dict[str, Any], **kwargs: Any):
        super().__init__(
            in_channels=1,
            channels=1,
            num_classes=ban_dec_cfg['num_classes'],
            init_cfg=None,
            **kwargs,
        )
        del self.conv_seg
        self.side_adapter_network = build_side_adapter_network(**ban_cfg)
        self.mask_decoder = MODELS.build(ban_dec_cfg)

    def init_weights(self) -> None:
        """Initialise the branch; the decoder keeps the weights that it was made with, as in
        Open-CD."""
        self.side_adapter_network.init_weights()

    def forward(self, inputs: Sequence[Any]) -> Tensor:
        """Images of date A and B (N, 3, H, W), and the foundation model's maps of A and of B, to
        the change map."""
        image1, image2, maps1, maps2 = inputs
        branch = self.side_adapter_network
        return self.mask_decoder(
            *on_both_dates(branch, [image1, *maps1], [image2, *maps2], weights=branch)
        )
