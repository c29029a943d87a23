"""SAM's image encoder (arXiv:2304.02643), and the layers with which TTP (arXiv:2312.16202) lets two
dates meet inside it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN
from mmengine.model import BaseModule
from mmseg.models.utils import PatchEmbed
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mtkd_cd.core.checkpoint import read_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.models.layers import LN2d, split_dates
from mtkd_cd.models.pretrained import load_published
from mtkd_cd.registry import MODELS

_ARCHS = {
    'base': dict(
        embed_dims=768,
        num_layers=12,
        num_heads=12,
        feedforward_channels=3072,
        global_attn_indexes=(2, 5, 8, 11),
    ),
    'large': dict(
        embed_dims=1024,
        num_layers=24,
        num_heads=16,
        feedforward_channels=4096,
        global_attn_indexes=(5, 11, 17, 23),
    ),
    'huge': dict(
        embed_dims=1280,
        num_layers=32,
        num_heads=16,
        feedforward_channels=5120,
        global_attn_indexes=(7, 15, 23, 31),
    ),
}
# Parts of segment-anything's names and ours, in the order in which they are replaced.
_SEGMENT_ANYTHING = (
    ('patch_embed.proj.', 'patch_embed.projection.'),
    ('blocks.', 'layers.'),
    ('.norm', '.ln'),
    ('.mlp.lin1.', '.ffn.layers.0.0.'),
    ('.mlp.lin2.', '.ffn.layers.1.'),
    ('neck.', 'channel_reduction.'),
)
# Not part of SAM: its files lack them.
_ADDED = ('lora_', 'down_channel', 'soft_ffn')


class Attention(nn.Module):
    """Self-attention on a map, with a learnt position term per row distance and per column
    distance.

    Args:
        embed_dims: Channels C.
        num_heads: Number of heads.
        qkv_bias: The projection to queries, keys and values has a bias.
        use_rel_pos: Add the position terms.
        input_size: Height and width for which their tables are made; for other sizes they are
            interpolated.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        qkv_bias: bool,
        use_rel_pos: bool,
        input_size: Sequence[int],
    ):
        super().__init__()
        self.num_heads = num_heads
        self.use_rel_pos = use_rel_pos
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        if use_rel_pos:
            head_dims = embed_dims // num_heads
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * input_size[0] - 1, head_dims))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * input_size[1] - 1, head_dims))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        batch, height, width, channels = x.shape
        q, k, v = (
            self.qkv(x).view(batch, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        )  # (B, heads, HW, d) each
        bias = self._position_terms(q, height, width) if self.use_rel_pos else None
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(x.transpose(1, 2).reshape(batch, height, width, channels))

    def _position_terms(self, q: Tensor, height: int, width: int) -> Tensor:
        """What the positions add to the scores, (B, heads, HW, HW)."""
        q = q.unflatten(2, (height, width))
        rows = torch.einsum('bmhwd,hkd->bmhwk', q, _by_distance(self.rel_pos_h, height))
        columns = torch.einsum('bmhwd,wld->bmhwl', q, _by_distance(self.rel_pos_w, width))
        return (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(4).flatten(2, 3)


def _by_distance(table: Tensor, size: int) -> Tensor:
    """Rows of a (2L - 1, d) table by the distance of query and key, (size, size, d)."""
    positions = torch.arange(size, device=table.device)
    return _resample_table(table, 2 * size - 1)[positions[:, None] - positions + size - 1]


def _resample_table(table: Tensor, length: int) -> Tensor:
    if len(table) == length:
        return table
    return (
        F.interpolate(table.t().unsqueeze(0).float(), size=length, mode='linear')
        .squeeze(0)
        .t()
        .to(table.dtype)
    )


def _resample_grid(pos_embed: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """(1, H, W, C) position embedding to another (H, W)."""
    if pos_embed.shape[1:3] == tuple(size):
        return pos_embed
    resampled = F.interpolate(
        pos_embed.permute(0, 3, 1, 2).float(), size=tuple(size), mode=mode, align_corners=False
    )
    return resampled.permute(0, 2, 3, 1).to(pos_embed.dtype)


def _in_windows(attention: nn.Module, x: Tensor, size: int) -> Tensor:
    """Attention on (B, H, W, C) inside windows. The zeros that fill the last windows take part, as
    in SAM."""
    batch, height, width, channels = x.shape
    x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    rows, columns = x.shape[1] // size, x.shape[2] // size
    windows = (
        x.view(batch, rows, size, columns, size, channels)
        .transpose(2, 3)
        .reshape(-1, size, size, channels)
    )
    windows = attention(windows).view(batch, rows, columns, size, size, channels)
    return windows.transpose(2, 3).reshape(x.shape)[:, :height, :width]


class SAMEncoderLayer(BaseModule):
    """Transformer layer on (B, H, W, C) maps.

    Args:
        embed_dims: Channels.
        num_heads: Heads of the attention.
        feedforward_channels: Hidden channels of the feed-forward network.
        drop_rate: Dropout in it.
        drop_path_rate: Stochastic depth of it.
        num_fcs: Number of its linear layers.
        qkv_bias: As in :class:`Attention`.
        act_cfg: Its activation.
        norm_cfg: Norm before attention and feed-forward network.
        use_rel_pos: As in :class:`Attention`.
        window_size: Side of the attention's windows; 0: attention between all positions.
        input_size: Size of the map, for the position tables of attention without windows.
        init_cfg: mmengine's initialisation config.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_fcs: int = 2,
        qkv_bias: bool = True,
        act_cfg: dict[str, Any] | None = None,
        norm_cfg: dict[str, Any] | None = None,
        use_rel_pos: bool = False,
        window_size: int = 0,
        input_size: Sequence[int] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ):
        super().__init__(init_cfg)
        self.window_size = window_size
        norm_cfg = norm_cfg or dict(type='LN')
        table_size = _pair(window_size) if window_size else input_size
        if use_rel_pos and table_size is None:
            raise UserError(
                f'{type(self).__name__}: use_rel_pos without window_size needs input_size=(height, '
                'width), found None'
            )
        self.ln1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.attn = Attention(embed_dims, num_heads, qkv_bias, use_rel_pos, table_size or (0, 0))
        self.ln2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.ffn = FFN(
            embed_dims,
            feedforward_channels,
            num_fcs,
            act_cfg=act_cfg or dict(type='GELU'),
            ffn_drop=drop_rate,
            dropout_layer=dict(type='DropPath', drop_prob=drop_path_rate),
        )

    def forward(self, x: Tensor) -> Tensor:
        attended = (
            _in_windows(self.attn, self.ln1(x), self.window_size)
            if self.window_size
            else self.attn(self.ln1(x))
        )
        x = x + attended
        return self.ffn(self.ln2(x), identity=x)


@MODELS.register_module()
class TimeFusionTransformerEncoderLayer(SAMEncoderLayer):
    """SAM's layer, after which each date takes over gated features of the other: TTP's time
    travelling activation gate.

    Only layers with windows have the gate. Date B takes from a date A that has already taken from
    B, so the dates are not treated alike.

    Args:
        args: Arguments of :class:`SAMEncoderLayer`.
        kwargs: As ``args``.
    """

    def __init__(self, embed_dims: int, *args: Any, **kwargs: Any):
        super().__init__(embed_dims, *args, **kwargs)
        if self.window_size:
            self.down_channel = nn.Conv2d(2 * embed_dims, 1, 1, bias=False)
            nn.init.constant_(self.down_channel.weight, 1 / (2 * embed_dims))
            self.soft_ffn = nn.Sequential(
                nn.Conv2d(embed_dims, embed_dims, 1),
                nn.GELU(),
                nn.Conv2d(embed_dims, embed_dims, 1),
            )

    def train_gate(self) -> None:
        """Let the gate learn, from a state in which the dates do not mix."""
        if self.window_size:
            self.down_channel.requires_grad_(True)
            self.soft_ffn.requires_grad_(True)
            for parameter in self.soft_ffn[2].parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(2N, H, W, C) to the same shape: the N maps of date A, then those of date B."""
        x = super().forward(x)
        if not self.window_size:
            return x
        if x.shape[0] % 2:  # len() would fix the batch of an exported graph
            raise UserError(
                'TimeFusionTransformerEncoderLayer needs the maps of date A and of as many of '
                f'date B, found {x.shape[0]} maps'
            )
        x1, x2 = split_dates(x.permute(0, 3, 1, 2))
        gate = self.down_channel(torch.cat((x1, x2), dim=1)).sigmoid()  # (N, 1, H, W)
        x1 = x1 + self.soft_ffn(x2 * gate)
        x2 = x2 + self.soft_ffn(x1 * gate)
        return torch.cat((x1, x2)).permute(0, 2, 3, 1)


@MODELS.register_module()
class ViTSAM_Custom(BaseModule):
    """SAM's image encoder, with layers of a registered type if wanted.

    Args:
        arch: ``base``, ``large``, ``huge``, or a dict with embed_dims, num_layers, num_heads,
            feedforward_channels, global_attn_indexes.
        img_size: Height and width for which the position embeddings are made; others are
            interpolated.
        patch_size: Side of the patches.
        in_channels: Channels of the images.
        out_channels: Channels of the outputs; 0: those of the layers.
        out_indices: Layers whose maps are returned; negative ones count from the end.
        out_type: ``raw`` or ``featmap``: (B, C, h, w) maps; ``avg_featmap``: their means (B, C).
        drop_rate: Dropout after the position embedding and in the layers.
        drop_path_rate: Stochastic depth of the last layer; it grows linearly from 0.
        qkv_bias: As in :class:`Attention`.
        use_abs_pos: Add a position embedding to the patches.
        use_rel_pos: As in :class:`Attention`.
        window_size: Side of the windows in the layers without global attention.
        norm_cfg: Norm of the layers; LN with eps 1e-6.
        frozen_stages: Freeze the patch embedding and so many layers.
        interpolate_mode: How position embeddings are interpolated.
        patch_cfg: Changes the patch embedding.
        layer_cfgs: Changes the layers; a dict for all, or one per layer. With a ``type``, layers
            come from the registry.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads a file of segment-anything's or
            mmpretrain's naming.
    """

    def __init__(
        self,
        arch: str | dict[str, Any] = 'base',
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        out_channels: int = 256,
        out_indices: int | Sequence[int] = -1,
        out_type: str = 'raw',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        qkv_bias: bool = True,
        use_abs_pos: bool = True,
        use_rel_pos: bool = True,
        window_size: int = 14,
        norm_cfg: dict[str, Any] | None = None,
        frozen_stages: int = -1,
        interpolate_mode: str = 'bicubic',
        patch_cfg: dict[str, Any] | None = None,
        layer_cfgs: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ):
        super().__init__(init_cfg)
        settings = _settings(arch)
        num_layers, embed_dims = settings['num_layers'], settings['embed_dims']
        if out_type not in ('raw', 'featmap', 'avg_featmap'):
            raise UserError(
                "ViTSAM_Custom: out_type must be 'raw', 'featmap' or 'avg_featmap', found "
                f'{out_type!r}'
            )
        self.out_type = out_type
        self.out_indices = _layer_indices(out_indices, num_layers)
        self.interpolate_mode = interpolate_mode
        grid = tuple(-(-side // patch_size) for side in _pair(img_size))
        patch_cfg = dict(kernel_size=patch_size, stride=patch_size, **(patch_cfg or {}))
        self.patch_embed = PatchEmbed(in_channels=in_channels, embed_dims=embed_dims, **patch_cfg)
        self.pos_embed = nn.Parameter(torch.zeros(1, *grid, embed_dims)) if use_abs_pos else None
        self.drop_after_pos = nn.Dropout(drop_rate)
        layer_cfgs = (
            [layer_cfgs or {}] * num_layers
            if layer_cfgs is None or isinstance(layer_cfgs, dict)
            else layer_cfgs
        )
        self.layers = nn.ModuleList()
        for i, (layer_cfg, drop_path) in enumerate(
            zip(layer_cfgs, torch.linspace(0, drop_path_rate, num_layers, device='cpu').tolist())
        ):
            layer = dict(
                embed_dims=embed_dims,
                num_heads=settings['num_heads'],
                feedforward_channels=settings['feedforward_channels'],
                drop_rate=drop_rate,
                drop_path_rate=drop_path,
                qkv_bias=qkv_bias,
                window_size=0 if i in settings['global_attn_indexes'] else window_size,
                input_size=grid,
                use_rel_pos=use_rel_pos,
                norm_cfg=norm_cfg or dict(type='LN', eps=1e-6),
            )
            layer.update(layer_cfg)
            self.layers.append(MODELS.build(layer) if 'type' in layer else SAMEncoderLayer(**layer))
        self.channel_reduction = (
            _channel_reduction(embed_dims, out_channels) if out_channels else nn.Identity()
        )
        self._freeze(frozen_stages)

    def _freeze(self, stages: int) -> None:
        if stages <= 0:
            return
        frozen = [self.patch_embed, *self.layers[:stages]] + (
            [self.channel_reduction] if stages >= len(self.layers) else []
        )
        for module in frozen:
            module.requires_grad_(False)
        if self.pos_embed is not None:
            self.pos_embed.requires_grad_(False)

    def init_weights(self) -> None:
        """Load SAM's weights if ``init_cfg`` names a file; the added layers keep their random ones.

        Raises:
            UserError: A file that cannot be read, or is of another network.
        """
        if self.init_cfg and self.init_cfg['type'] == 'Pretrained':
            checkpoint = self.init_cfg['checkpoint']
            load_published(self, sam_weights(read_weights(checkpoint)), checkpoint, optional=_ADDED)
            return
        super().init_weights()
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Weights made for images of another size.
        for name, own in self.named_parameters():
            key = f'{prefix}{name}'
            if key not in state_dict or state_dict[key].shape == own.shape:
                continue
            if name == 'pos_embed':
                state_dict[key] = _resample_grid(
                    state_dict[key], own.shape[1:3], self.interpolate_mode
                )
            elif name.endswith(('rel_pos_h', 'rel_pos_w')):
                state_dict[key] = _resample_table(state_dict[key], len(own))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter, and the number of depths, for learning rates that decay by
        depth."""
        num_depths = len(self.layers) + 2
        name = param_name.removeprefix(prefix)
        if name.startswith(('pos_embed', 'patch_embed')):
            return 0, num_depths
        if name.startswith('layers.'):
            return int(name.split('.')[1]) + 1, num_depths
        return num_depths - 1, num_depths

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) images to the outputs of the layers in ``out_indices``."""
        x, size = self.patch_embed(x)
        x = x.unflatten(1, size)  # (B, h, w, C)
        if self.pos_embed is not None:
            x = x + _resample_grid(self.pos_embed, size, self.interpolate_mode)
        x = self.drop_after_pos(x)
        outputs = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.out_indices:
                features = self.channel_reduction(x.permute(0, 3, 1, 2))
                outputs.append(
                    features.mean((2, 3)) if self.out_type == 'avg_featmap' else features
                )
        return tuple(outputs)


def sam_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the encoder's tensors out of a file of SAM's, by our names. The file may have
    segment-anything's names (``image_encoder.blocks...``) or mmpretrain's."""
    if not any(key.startswith('image_encoder.') for key in weights):
        return {key.removeprefix('backbone.'): value for key, value in weights.items()}
    renamed = {}
    for key, value in weights.items():
        if key.startswith('image_encoder.'):
            name = key.removeprefix('image_encoder.')
            for theirs, ours in _SEGMENT_ANYTHING:
                name = name.replace(theirs, ours)
            renamed[name] = value
    return renamed


def _settings(arch: str | dict[str, Any]) -> dict[str, Any]:
    settings = _ARCHS.get(arch, {}) if isinstance(arch, str) else arch
    missing = [key for key in _ARCHS['base'] if key not in settings]
    if missing:
        raise UserError(
            f'ViTSAM_Custom: arch must be one of {", ".join(_ARCHS)}, or a dict that has '
            f'{", ".join(missing)}; found {arch!r}'
        )
    return settings


def _layer_indices(indices: int | Sequence[int], num_layers: int) -> set[int]:
    wanted = [indices] if isinstance(indices, int) else indices
    found = {index + num_layers if index < 0 else index for index in wanted}
    if not all(0 <= index < num_layers for index in found):
        raise UserError(
            f'ViTSAM_Custom: out_indices must name some of the {num_layers} layers, found {indices}'
        )
    return found


def _channel_reduction(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        LN2d(out_channels, eps=1e-6),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        LN2d(out_channels, eps=1e-6),
    )
