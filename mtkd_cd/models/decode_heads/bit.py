"""BIT (arXiv:2103.00208): a few tokens per date, a transformer over them, and pixels that look at
their date's tokens."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_norm_layer
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.decode_heads.base import DecodeHead
from mtkd_cd.models.layers import may_reorder, split_dates, stack_dates
from mtkd_cd.registry import MODELS


class CrossAttention(nn.Module):
    """Multi-head attention of a sequence to a reference sequence of a few tokens.

    Args:
        channels: Channels C of both.
        embed_dims: Width of queries, keys and values, over all heads.
        num_heads: Number of heads.
        drop_rate: Dropout after the output projection.
    """

    def __init__(self, channels: int, embed_dims: int, num_heads: int, drop_rate: float):
        super().__init__()
        self.num_heads = num_heads
        self.scale = channels**-0.5  # of the input's width, not of a head's
        self.to_q = nn.Linear(channels, embed_dims, bias=False)
        self.to_k = nn.Linear(channels, embed_dims, bias=False)
        self.to_v = nn.Linear(channels, embed_dims, bias=False)
        self.fc_out = nn.Sequential(nn.Linear(embed_dims, channels), nn.Dropout(drop_rate))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(
            1, 2
        )  # (N, heads, n, embed_dims / heads)

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """(N, n, C), what (N, n, C) finds in (N, m, C)."""
        key, value = self._heads(self.to_k(reference)), self._heads(self.to_v(reference))
        key = key * self.scale
        # Weights are (N, heads, m, n) with n last: a softmax over rows of a handful of tokens takes
        # five times as long.
        if self._is_cheaper_by_tokens(reference.shape[1]):
            return self._by_tokens(x, key, value)
        weights = (key @ self._heads(self.to_q(x)).transpose(-2, -1)).softmax(-2)
        attended = value.transpose(-2, -1) @ weights
        return self.fc_out(attended.permute(0, 3, 1, 2).flatten(2))

    def _is_cheaper_by_tokens(self, num_tokens: int) -> bool:
        project = self.fc_out[0]
        return (
            self.num_heads * num_tokens <= self.to_q.out_features
            and type(self.to_q) is type(project) is nn.Linear
            and may_reorder(self, self.to_q, self.fc_out, project)
        )

    def _by_tokens(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The same with the query's and the output's projection applied to the tokens: a product of
        three matrices is taken from its other end, and no query is made of each pixel."""
        project: Any = self.fc_out[0]
        by_head = project.weight.unflatten(1, (self.num_heads, -1)).permute(1, 2, 0)
        asked = (key @ self.to_q.weight.unflatten(0, (self.num_heads, -1))).flatten(1, 2)
        told = (value @ by_head).flatten(1, 2)  # (N, heads * m, C), as what is asked
        scores = (asked @ x.transpose(1, 2)).unflatten(1, (self.num_heads, -1))
        weights = scores.softmax(-2).flatten(1, 2)  # (N, heads * m, n)
        return self.fc_out[1](weights.transpose(1, 2) @ told + project.bias)


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each on normed input and residual.

    Args:
        channels: Channels C of the sequences.
        embed_dims: Hidden width of both parts.
        num_heads: Attention heads.
        drop_rate: Dropout.
        norm_cfg: Config of the norms.
    """

    def __init__(
        self,
        channels: int,
        embed_dims: int,
        num_heads: int,
        drop_rate: float,
        norm_cfg: dict[str, Any],
    ):
        super().__init__()
        self.attn = CrossAttention(channels, embed_dims, num_heads, drop_rate)
        self.ff = nn.Sequential(
            nn.Linear(channels, embed_dims),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
            nn.Linear(embed_dims, channels),
            nn.Dropout(drop_rate),
        )
        self.norm1 = build_norm_layer(norm_cfg, channels)[1]
        self.norm2 = build_norm_layer(norm_cfg, channels)[1]

    def _attend(self, x: Tensor, reference: Tensor, residual: Tensor) -> Tensor:
        x = self.attn(x, reference) + residual
        return self.ff(self.norm2(x)) + x


class EncoderLayer(TransformerLayer):
    """Tokens (N, m, C) attend to one another."""

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm1(tokens)
        return self._attend(normed, normed, tokens)


class DecoderLayer(TransformerLayer):
    """Pixels (N, n, C) attend to tokens (N, m, C)."""

    def __init__(
        self,
        channels: int,
        embed_dims: int,
        num_heads: int,
        drop_rate: float,
        norm_cfg: dict[str, Any],
    ):
        super().__init__(channels, embed_dims, num_heads, drop_rate, norm_cfg)
        self.norm1_ = build_norm_layer(norm_cfg, channels)[
            1
        ]  # the tokens'; named so in published checkpoints

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        return self._attend(self.norm1(pixels), self.norm1_(tokens), pixels)


class BITDecoder(DecodeHead):
    """What BIT's head and BAN's form of it share; they differ in how they are given the dates.

    Args:
        in_channels: Channels of one date's map.
        channels: Width of tokens and pixels.
        embed_dims: Hidden width of attention (over all heads) and feed-forward.
        enc_depth: Encoder layers.
        enc_with_pos: Add a learned position embedding to the tokens.
        dec_depth: Decoder layers.
        num_heads: Attention heads; divides ``embed_dims``.
        drop_rate: Dropout in the transformer.
        pool_size: Without tokenizer: side of the grid that a date is pooled to, whose cells are the
            tokens.
        pool_mode: ``max`` or ``avg``.
        use_tokenizer: Learn ``token_len`` attention maps, whose means are the tokens.
        token_len: Tokens per date.
        pre_upsample: Enlargement before the transformer.
        upsample_size: Enlargement after it.
        norm_cfg: Norm of the transformer alone; the convolutions have none.
        act_cfg: Not used; accepted because Open-CD's configs may give it.
        kwargs: Further arguments of mmseg's ``BaseDecodeHead``.

    Raises:
        UserError: ``num_heads`` or ``pool_mode`` that make no sense.
    """

    def __init__(
        self,
        in_channels: int = 256,
        channels: int = 32,
        embed_dims: int = 64,
        enc_depth: int = 1,
        enc_with_pos: bool = True,
        dec_depth: int = 8,
        num_heads: int = 8,
        drop_rate: float = 0.0,
        pool_size: int = 2,
        pool_mode: str = 'max',
        use_tokenizer: bool = True,
        token_len: int = 4,
        pre_upsample: float = 2,
        upsample_size: float = 4,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(in_channels, channels, **kwargs)
        if embed_dims % num_heads:
            raise UserError(
                f'{type(self).__name__}: num_heads must divide embed_dims {embed_dims}, found '
                f'{num_heads}'
            )
        if not use_tokenizer and pool_mode not in ('max', 'avg'):
            raise UserError(
                f"{type(self).__name__}: pool_mode must be 'max' or 'avg', found {pool_mode!r}"
            )
        self.use_tokenizer = use_tokenizer
        self.pool_size = pool_size
        self.pool = F.adaptive_max_pool2d if pool_mode == 'max' else F.adaptive_avg_pool2d
        self.upsample_size = upsample_size
        self.pre_process = nn.Sequential(
            nn.Upsample(
                scale_factor=pre_upsample, mode='bilinear', align_corners=self.align_corners
            ),
            ConvModule(in_channels, channels, 3, padding=1),
        )
        if use_tokenizer:
            self.conv_att = ConvModule(channels, token_len, 1)
        tokens = 2 * (token_len if use_tokenizer else pool_size**2)
        self.enc_pos_embedding = (
            nn.Parameter(torch.randn(1, tokens, channels)) if enc_with_pos else None
        )
        layer = (channels, embed_dims, num_heads, drop_rate, norm_cfg or dict(type='LN'))
        self.encoder = nn.Sequential(*(EncoderLayer(*layer) for _ in range(enc_depth)))
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(dec_depth))

    def _tokens(self, x: Tensor) -> Tensor:
        """The tokens (N, L, C) of one date's (N, C, h, w)."""
        if not self.use_tokenizer:
            return self.pool(x, self.pool_size).flatten(2).transpose(1, 2)
        attention = self.conv_att(x).flatten(2).softmax(-1)  # (N, L, h * w)
        # Not a matrix product, which the paper's operation count would have included.
        return (attention[:, :, None] * x.flatten(2)[:, None]).sum(-1)

    def _encode(self, tokens: Tensor) -> Tensor:
        """Let the tokens of both dates, stacked on the batch axis, see each other."""
        sequence = torch.cat(split_dates(tokens), dim=1)  # (N, 2L, C)
        if self.enc_pos_embedding is not None:
            sequence = sequence + self.enc_pos_embedding
        return stack_dates(*self.encoder(sequence).chunk(2, dim=1))

    def decode(self, date1: Tensor, date2: Tensor) -> Tensor:
        """The map of either date (N, C_in, H/8, W/8) to the change map (N, out_channels, H, W)."""
        # No layer here mixes samples, so the dates can share a batch in training too.
        x = self.pre_process(stack_dates(date1, date2))  # (2N, C, H/4, W/4)
        tokens = self._encode(self._tokens(x))
        pixels = x.flatten(2).transpose(1, 2)
        for layer in self.decoder:
            pixels = layer(pixels, tokens)
        date1, date2 = split_dates(pixels)
        difference = (date1 - date2).abs().transpose(1, 2).unflatten(-1, x.shape[2:])
        if not self.training and may_reorder(self, self.conv_seg):
            # Classes and the enlargement are both linear, and keep constants: fewer channels to
            # enlarge. Training has the numbers of the order drawn, bit by bit.
            return self._enlarge(self.cls_seg(difference))
        return self.cls_seg(self._enlarge(difference))

    def _enlarge(self, x: Tensor) -> Tensor:
        return F.interpolate(
            x,
            scale_factor=self.upsample_size,
            mode='bilinear',
            align_corners=self.align_corners,
        )


@MODELS.register_module()
class BITHead(BITDecoder):
    """BIT's head.

    Takes the arguments of :class:`BITDecoder`.
    """

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """A map (N, 2C_in, H/8, W/8), date A's channels first, to the change map (N, out_channels,
        H, W)."""
        return self.decode(*self._transform_inputs(inputs).chunk(2, dim=1))
