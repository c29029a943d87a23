"""BAN and TTP, whose encoders are too large for every test: keys and counts at full size without
memory, the rest with few layers."""

import functools
import hashlib
import itertools
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper
from mmseg.models.backbones import VisionTransformer as MMSegVisionTransformer
from torch import nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.backbones import (
    TimeFusionTransformerEncoderLayer,
    VisionTransformer,
    VisionTransformerTurner,
    ViTSAM_Custom,
)
from mtkd_cd.models.backbones.vit_sam import Attention, SAMEncoderLayer
from mtkd_cd.models.decode_heads import MLPSegHead
from mtkd_cd.models.decode_heads.ban import Bridge
from mtkd_cd.models.layers import LN2d
from mtkd_cd.models.layers.lora import adapt
from mtkd_cd.models.necks import SequentialNeck, SimpleFPN

_GOLDEN = Path(__file__).parents[1] / 'data' / 'golden'
_TRAINABLE = dict(ban_vitl14_mitb2=27_059_142, ttp_vitsam_l=6_210_178)
_SAM = dict(
    arch=dict(
        embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32, global_attn_indexes=(1,)
    ),
    img_size=(64, 96),
    window_size=3,
    out_channels=8,
)
_CLIP = dict(
    img_size=(28, 42),
    patch_size=14,
    patch_pad=0,
    embed_dims=16,
    num_layers=2,
    num_heads=2,
    pre_norm=True,
    act_cfg=dict(type='QuickGELU'),
)


@pytest.fixture
def build_without_memory(build_model, monkeypatch):
    """Build a model of full size on the ``meta`` device."""
    monkeypatch.setattr(
        torch, 'linspace', functools.partial(torch.linspace, device='cpu')
    )  # mmseg reads numbers from it

    def build(name):
        with torch.device('meta'):
            return build_model(name)

    return build


@pytest.mark.parametrize('name', sorted(_TRAINABLE))
def test_full_size_has_open_cds_keys_shapes_and_counts(name, build_without_memory):
    model = build_without_memory(name)
    facts = json.loads((_GOLDEN / f'{name}.json').read_text())
    keys = [f'{key} {list(value.shape)}' for key, value in sorted(model.state_dict().items())]
    assert len(keys) == facts['state_dict']['count']
    assert hashlib.sha256('\n'.join(keys).encode()).hexdigest() == facts['state_dict']['sha256']
    assert sum(p.numel() for p in model.parameters()) == facts['parameters']
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == _TRAINABLE[name]


@pytest.mark.parametrize('name', sorted(_TRAINABLE))
def test_a_training_step_leaves_the_frozen_encoder_as_it_is(
    name, build_model, seed_weights, make_pairs
):
    torch.manual_seed(0)
    model = build_model(name, shallow=True).train()
    seed_weights(model)
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = build_optim_wrapper(
        model, dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
    )
    losses = model(*make_pairs(2, 64), mode='loss')
    optimizer.update_params(sum(value for key, value in losses.items() if 'loss' in key))
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad != torch.equal(parameter, before[key]), key


@pytest.mark.parametrize('name', sorted(_TRAINABLE))
def test_any_image_size_and_batch_gives_finite_predictions(name, build_model, seed_weights):
    model = build_model(
        name, shallow=True, test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(40, 40))
    ).eval()
    seed_weights(model)
    with torch.no_grad():
        logits = model.inference(torch.randn(2, 6, 100, 72), [{}, {}])
    assert logits.shape == (2, 2, 100, 72)
    assert logits.isfinite().all()


def test_layer_norm_over_channels_is_that_of_each_pixel():
    layer = LN2d(5)
    layer.weight.data, layer.bias.data = torch.randn(2, 5)
    x = torch.randn(2, 5, 3, 4)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(
        layer(x), expected * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)
    )


# TTP


@pytest.fixture
def attention():
    torch.manual_seed(0)
    layer = Attention(8, 2, qkv_bias=True, use_rel_pos=True, input_size=(3, 4))
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def test_scores_are_products_plus_terms_of_row_and_column_distance(attention):
    x = torch.randn(1, 3, 4, 8)
    q, k, v = (part.view(12, 2, 4) for part in attention.qkv(x).view(12, 24).split(8, dim=1))
    attended = torch.empty(12, 2, 4)
    for head in range(2):
        scores = torch.empty(12, 12)
        for query in range(12):
            for key in range(12):
                down, right = query // 4 - key // 4, query % 4 - key % 4
                positions = attention.rel_pos_h[down + 2] + attention.rel_pos_w[right + 3]
                scores[query, key] = q[query, head] @ (k[key, head] / 2 + positions)
        attended[:, head] = scores.softmax(dim=1) @ v[:, head]
    torch.testing.assert_close(
        attention(x), attention.proj(attended.view(1, 3, 4, 8)), atol=1e-5, rtol=1e-5
    )


def test_windows_see_themselves_and_the_zeros_that_fill_them():
    torch.manual_seed(0)
    layer = SAMEncoderLayer(8, 2, 16, use_rel_pos=True, window_size=3).eval()
    for parameter in layer.attn.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, 3, 4, 8)
    normed = layer.ln1(x)
    last = F.pad(normed[:, :, 3:], (0, 0, 0, 2))  # the second window has one column of the map
    expected = x + torch.cat((layer.attn(normed[:, :, :3]), layer.attn(last)[:, :, :1]), dim=2)
    torch.testing.assert_close(
        layer(x), layer.ffn(layer.ln2(expected), identity=expected), atol=1e-5, rtol=1e-5
    )


def test_gate_adds_the_other_date_and_date_b_sees_the_changed_a():
    torch.manual_seed(0)
    layer = TimeFusionTransformerEncoderLayer(8, 2, 16, window_size=2).eval()
    assert torch.equal(layer.down_channel.weight, torch.full((1, 16, 1, 1), 1 / 16))
    x = torch.randn(4, 2, 2, 8)
    first, second = SAMEncoderLayer.forward(layer, x).chunk(2)  # (2, 2, 2, 8), channels last
    gate = torch.cat((first, second), dim=-1).mean(-1, keepdim=True).sigmoid()
    mix = lambda z: F.linear(  # noqa: E731
        F.gelu(F.linear(z, hidden.weight[..., 0, 0], hidden.bias)), out.weight[..., 0, 0], out.bias
    )
    hidden, _, out = layer.soft_ffn
    first = first + mix(second * gate)
    second = second + mix(first * gate)
    torch.testing.assert_close(layer(x), torch.cat((first, second)), atol=1e-6, rtol=1e-5)
    with pytest.raises(UserError, match='found 3 maps'):
        layer(x[:3])


def test_layers_with_global_attention_have_no_gate():
    layer = TimeFusionTransformerEncoderLayer(
        8, 2, 16, window_size=0, input_size=(2, 2), use_rel_pos=True
    )
    assert not [key for key in layer.state_dict() if 'down_channel' in key or 'soft_ffn' in key]


def test_lora_starts_as_its_base_layer_and_adds_a_scaled_product():
    torch.manual_seed(0)
    model = nn.ModuleDict(dict(qkv=nn.Linear(6, 9))).eval()
    weight, bias = (parameter.clone() for parameter in model.qkv.parameters())
    x = torch.randn(3, 6)
    adapt(model, dict(r=2, lora_alpha=4, lora_dropout=0.5))
    layer = model.qkv.eval()
    assert torch.equal(layer(x), F.linear(x, weight, bias))
    nn.init.normal_(layer.lora_B['default'].weight)
    merged = weight + 2 * layer.lora_B['default'].weight @ layer.lora_A['default'].weight
    torch.testing.assert_close(layer(x), F.linear(x, merged, bias))
    assert not torch.allclose(layer.train()(x), layer.eval()(x))


def test_lora_without_arguments_is_open_cds():
    model = nn.ModuleDict(dict(qkv=nn.Linear(6, 9), other=nn.Linear(6, 9)))
    adapt(model, {})
    assert model.qkv.lora_A['default'].weight.shape == (16, 6)
    assert (model.qkv.scaling['default'], model.qkv.lora_dropout['default'].p) == (2, 0.05)
    assert [key for key, parameter in model.named_parameters() if parameter.requires_grad] == [
        'qkv.lora_A.default.weight',
        'qkv.lora_B.default.weight',
    ]


@pytest.mark.parametrize(('bias', 'trained'), [('none', 0), ('lora_only', 2), ('all', 4)])
def test_lora_trains_the_biases_asked_for(bias, trained):
    model = nn.ModuleDict(
        {
            name: nn.ModuleDict(dict(qkv=nn.Linear(4, 12), other=nn.Linear(4, 4)))
            for name in ('a', 'b')
        }
    )
    adapt(model, dict(r=2, bias=bias))
    names = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert sum('lora_' in key for key in names) == 4
    assert sum('bias' in key for key in names) == trained == len(names) - 4


@pytest.mark.parametrize(
    ('peft_cfg', 'message'),
    [
        (dict(peft_type='IA3'), "found 'IA3'"),
        (dict(rank=4), "'rank'"),
        (dict(target_modules=['query']), "'query'"),
        (dict(bias='some'), "'bias': 'some'"),
        (dict(r=0), "'r': 0"),
    ],
)
def test_wrong_peft_cfg_is_named(peft_cfg, message):
    with pytest.raises(UserError, match=message):
        VisionTransformerTurner(dict(type='ViTSAM_Custom', **_SAM), peft_cfg)


def test_only_lora_needs_peft(monkeypatch):
    monkeypatch.setitem(sys.modules, 'peft', None)  # as if it were not installed
    runpy.run_module('mtkd_cd.models.layers.lora')  # what an import does
    encoder_cfg = dict(type='ViTSAM_Custom', **_SAM)
    VisionTransformerTurner(encoder_cfg)
    with pytest.raises(UserError, match=r"pip install 'mtkd-cd\[ttp\]'"):
        VisionTransformerTurner(encoder_cfg, dict(r=2))


def test_checkpoints_of_old_peft_load():
    turner = VisionTransformerTurner(dict(type='ViTSAM_Custom', **_SAM), dict(bias='lora_only'))
    weights = {
        key.replace('.base_layer.', '.'): torch.randn_like(value)
        for key, value in turner.state_dict().items()
    }
    turner.load_state_dict(weights)
    loaded = turner.encoder.layers[0].attn.qkv.base_layer.weight
    assert torch.equal(loaded, weights['vision_encoder.base_model.model.layers.0.attn.qkv.weight'])


def test_an_exported_layer_of_two_dates_takes_any_number_of_pairs():
    torch.manual_seed(0)
    layer = TimeFusionTransformerEncoderLayer(8, 2, 16, window_size=2).eval()
    maps = torch.randn(6, 4, 4, 8)
    free = dict(x={0: 2 * torch.export.Dim('pairs')})
    program = torch.export.export(layer, (maps[:4],), dynamic_shapes=free).module()
    with torch.no_grad():
        for count in (4, 6):
            torch.testing.assert_close(program(maps[:count]), layer(maps[:count]))


def test_without_lora_all_is_frozen_and_gates_train_when_asked():
    encoder_cfg = dict(
        type='ViTSAM_Custom', layer_cfgs=dict(type='TimeFusionTransformerEncoderLayer'), **_SAM
    )
    frozen = VisionTransformerTurner(encoder_cfg)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(
        key.startswith('vision_encoder.') and 'base_model' not in key for key in frozen.state_dict()
    )
    gated = VisionTransformerTurner(encoder_cfg, train_gates=True)
    assert {key.split('.')[3] for key, p in gated.named_parameters() if p.requires_grad} == {
        'down_channel',
        'soft_ffn',
    }
    image = torch.randn(1, 3, 64, 96)
    features = gated.eval()(torch.cat((image, torch.randn_like(image))))[0]
    torch.testing.assert_close(
        features[:1], gated(torch.cat((image, torch.randn_like(image))))[0][:1]
    )  # dates do not mix at first


def _as_segment_anything(weights):
    names = {
        'patch_embed.projection': 'patch_embed.proj',
        '.ln1.': '.norm1.',
        '.ln2.': '.norm2.',
        'ffn.layers.0.0': 'mlp.lin1',
    }
    names |= {'ffn.layers.1': 'mlp.lin2', 'channel_reduction': 'neck'}
    renamed = {'mask_decoder.x': torch.zeros(1)}
    for key, value in weights.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        renamed[
            'image_encoder.'
            + (f'blocks{key.removeprefix("layers")}' if key.startswith('layers') else key)
        ] = value
    return renamed


@pytest.mark.parametrize('layout', ['segment-anything', 'mmpretrain'])
def test_sams_weights_load_into_an_encoder_with_lora_for_another_size(layout, tmp_path):
    torch.manual_seed(0)
    published = ViTSAM_Custom(**{**_SAM, 'img_size': (128, 192)})
    for parameter in published.parameters():
        nn.init.normal_(parameter)
    weights = published.state_dict()
    renamed = (
        _as_segment_anything(weights)
        if layout == 'segment-anything'
        else {f'backbone.{key}': v for key, v in weights.items()}
    )
    torch.save(dict(state_dict=renamed), tmp_path / 'sam.pth')

    layers = dict(type='TimeFusionTransformerEncoderLayer')
    turner = VisionTransformerTurner(
        dict(type='ViTSAM_Custom', layer_cfgs=layers, **_SAM), dict(bias='lora_only')
    )
    turner.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'sam.pth'))
    gate = turner.encoder.layers[0].soft_ffn[0].weight.clone()
    turner.init_weights()
    own = turner.encoder.state_dict()
    assert torch.equal(
        own['layers.1.attn.qkv.base_layer.weight'], weights['layers.1.attn.qkv.weight']
    )
    assert torch.equal(own['channel_reduction.3.bias'], weights['channel_reduction.3.bias'])
    assert torch.equal(
        own['layers.0.attn.rel_pos_h'], weights['layers.0.attn.rel_pos_h']
    )  # of windows, which stay as large
    grid = F.interpolate(
        weights['pos_embed'].permute(0, 3, 1, 2), size=(4, 6), mode='bicubic'
    ).permute(0, 2, 3, 1)
    torch.testing.assert_close(own['pos_embed'], grid)
    table = F.interpolate(weights['layers.1.attn.rel_pos_w'].t()[None], size=11, mode='linear')[
        0
    ].t()
    torch.testing.assert_close(own['layers.1.attn.rel_pos_w'], table)
    assert torch.equal(turner.encoder.layers[0].soft_ffn[0].weight, gate)


def test_weights_of_another_encoder_are_refused_by_name(tmp_path):
    torch.save(ViTSAM_Custom(**_SAM).state_dict(), tmp_path / 'sam.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'sam.pth'))
    wide = ViTSAM_Custom(**{**_SAM, 'out_channels': 4}, init_cfg=init_cfg)
    with pytest.raises(UserError, match=r'sam\.pth.*channel_reduction\.0\.weight'):
        wide.init_weights()
    deep = ViTSAM_Custom(**{**_SAM, 'arch': {**_SAM['arch'], 'num_layers': 3}}, init_cfg=init_cfg)
    with pytest.raises(UserError, match=r'sam\.pth.*layers\.2\..* is missing'):
        deep.init_weights()


def test_encoder_returns_the_layers_asked_for():
    torch.manual_seed(0)
    both = ViTSAM_Custom(**_SAM, out_indices=[0, -1]).eval()
    last = ViTSAM_Custom(**_SAM, out_type='avg_featmap').eval()
    last.load_state_dict(both.state_dict())
    images = torch.randn(
        1, 3, 50, 80
    )  # neither a multiple of the patches nor the size it was made for
    first, second = both(images)
    assert first.shape == second.shape == (1, 8, 4, 5)
    torch.testing.assert_close(last(images)[0], second.mean((2, 3)))
    assert both.get_layer_depth('encoder.layers.1.ln1.weight', 'encoder.') == (2, 4)


def test_frozen_stages_freeze_from_the_input_on():
    names = [
        key
        for key, p in ViTSAM_Custom(**_SAM, frozen_stages=1).named_parameters()
        if not p.requires_grad
    ]
    assert {key.split('.')[0] for key in names} == {'pos_embed', 'patch_embed', 'layers'}
    assert {key.split('.')[1] for key in names if key.startswith('layers')} == {'0'}


def test_simple_pyramid_of_a_sequential_neck_has_five_strides():
    fpn = dict(
        type='SimpleFPN',
        backbone_channel=16,
        in_channels=[4, 8, 16, 16],
        out_channels=6,
        num_outs=5,
    )
    fpn['norm_cfg'] = dict(type='mmpretrain.LN2d')  # as in Open-CD's config
    neck = SequentialNeck([dict(type='FeatureFusionNeck', policy='concat', out_indices=(0,)), fpn])
    levels = neck([torch.randn(1, 8, 8, 12)], [torch.randn(1, 8, 8, 12)])
    assert [tuple(level.shape[2:]) for level in levels] == [
        (32, 48),
        (16, 24),
        (8, 12),
        (4, 6),
        (2, 3),
    ]
    assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])
    with pytest.raises(UserError, match='norm_cfg'):
        SimpleFPN(16, [4, 8, 16, 16], 6, 5)


@pytest.mark.parametrize(
    ('settings', 'size'),
    [(dict(out_size=(5, 7)), (5, 7)), (dict(out_size=None), (8, 12)), ({}, (8, 12))],
)
def test_mlp_head_works_at_its_own_size_or_the_first_levels(settings, size):
    head = MLPSegHead(in_channels=[3, 3], in_index=[0, 1], channels=4, num_classes=3, **settings)
    assert head([torch.randn(1, 3, 8, 12), torch.randn(1, 3, 4, 6)]).shape == (1, 3, *size)


def _plain_ttp(weights, inputs, num_heads, window, global_layers, out_size):
    """The change map of TTP for (N, 6, H, W) pairs, written out from the paper and the names of its
    tensors."""

    def encoder(key):
        return weights[f'backbone.vision_encoder.base_model.model.{key}']

    def linear(x, name):
        return x @ encoder(f'{name}.weight').flatten(1).T + encoder(f'{name}.bias')

    def normed(x, weight, bias, eps):  # over the last axis
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias

    def gelu(x):
        return x * (1 + torch.erf(x / 2**0.5)) / 2

    def attended(x, name):  # one map or window (h, w, C)
        height, width, channels = x.shape
        lora = (
            x
            @ encoder(f'{name}.qkv.lora_A.default.weight').T
            @ encoder(f'{name}.qkv.lora_B.default.weight').T
        )
        q, k, v = (
            (linear(x, f'{name}.qkv.base_layer') + 32 / 16 * lora)
            .view(height, width, 3, num_heads, -1)
            .unbind(2)
        )
        out = torch.empty_like(q)
        for i, j in itertools.product(range(height), range(width)):
            rows = encoder(f'{name}.rel_pos_h')[[i - other + height - 1 for other in range(height)]]
            columns = encoder(f'{name}.rel_pos_w')[
                [j - other + width - 1 for other in range(width)]
            ]
            products = torch.einsum('hd,klhd->hkl', q[i, j], k) / q.shape[-1] ** 0.5
            scores = products + (q[i, j] @ rows.T)[:, :, None] + (q[i, j] @ columns.T)[:, None]
            out[i, j] = torch.einsum(
                'hkl,klhd->hd', scores.flatten(1).softmax(1).view_as(scores), v
            )
        return linear(out.reshape(height, width, channels), f'{name}.proj')

    def attention(x, i):
        if i in global_layers:
            return attended(x, f'layers.{i}.attn')
        height, width, channels = x.shape
        padded = x.new_zeros(-(-height // window) * window, -(-width // window) * window, channels)
        padded[:height, :width] = x
        for top, left in itertools.product(
            range(0, len(padded), window), range(0, padded.shape[1], window)
        ):
            part = padded[top : top + window, left : left + window]
            part[:] = attended(part.clone(), f'layers.{i}.attn')
        return padded[:height, :width]

    def layer(x, i):
        norm = [
            (encoder(f'layers.{i}.ln{n}.weight'), encoder(f'layers.{i}.ln{n}.bias'), 1e-6)
            for n in (1, 2)
        ]
        x = x + torch.stack([attention(one, i) for one in normed(x, *norm[0])])
        x = x + linear(
            gelu(linear(normed(x, *norm[1]), f'layers.{i}.ffn.layers.0.0')),
            f'layers.{i}.ffn.layers.1',
        )
        if i in global_layers:
            return x
        date1, date2 = x.chunk(2)
        gate = (
            torch.cat((date1, date2), dim=-1) @ encoder(f'layers.{i}.down_channel.weight').flatten()
        ).sigmoid()[..., None]

        def mixed(other):
            return linear(
                gelu(linear(other * gate, f'layers.{i}.soft_ffn.0')), f'layers.{i}.soft_ffn.2'
            )

        date1 = date1 + mixed(date2)
        return torch.cat((date1, date2 + mixed(date1)))

    def pixelwise(x, weight):  # 1 x 1 convolution of (N, C, H, W)
        return torch.einsum('nchw,oc->nohw', x, weight[..., 0, 0])

    def normed_pixels(x, name, eps):
        return normed(
            x.movedim(1, -1), weights[f'{name}.weight'], weights[f'{name}.bias'], eps
        ).movedim(-1, 1)

    def doubled(x, name):  # transposed 2 x 2 convolution of stride 2: each pixel becomes four
        fine = torch.einsum('nchw,coab->nohawb', x, weights[f'{name}.weight'])
        return fine.flatten(4).flatten(2, 3) + weights[f'{name}.bias'][:, None, None]

    def block(x, name):  # of the head: convolution, batch norm, ReLU
        mean, var, weight, bias = (
            weights[f'{name}.bn.{part}'][:, None, None]
            for part in ('running_mean', 'running_var', 'weight', 'bias')
        )
        return (
            (pixelwise(x, weights[f'{name}.conv.weight']) - mean) / (var + 1e-5).sqrt() * weight
            + bias
        ).clamp(min=0)

    images = torch.cat((inputs[:, :3], inputs[:, 3:]))
    patches = (
        images.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).flatten(3)
    )  # (2N, h, w, 3 * 16 * 16)
    x = linear(patches, 'patch_embed.projection') + encoder('pos_embed')
    for i in range(3):
        x = layer(x, i)
    prefix = 'backbone.vision_encoder.base_model.model.channel_reduction'
    x = normed_pixels(
        pixelwise(x.movedim(-1, 1), weights[f'{prefix}.0.weight']), f'{prefix}.1', 1e-6
    )
    x = normed_pixels(F.conv2d(x, weights[f'{prefix}.2.weight'], padding=1), f'{prefix}.3', 1e-6)

    neck, x = 'neck.necks.1', torch.cat(x.chunk(2), dim=1)
    fine = gelu(normed_pixels(doubled(x, f'{neck}.fpn1.0'), f'{neck}.fpn1.1', 1e-5))
    levels = [
        doubled(fine, f'{neck}.fpn1.3'),
        doubled(x, f'{neck}.fpn2.0'),
        x,
        x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)),
    ]
    for i, level in enumerate(levels):
        level = normed_pixels(
            pixelwise(level, weights[f'{neck}.lateral_convs.{i}.conv.weight']),
            f'{neck}.lateral_convs.{i}.ln',
            1e-5,
        )
        level = F.conv2d(level, weights[f'{neck}.fpn_convs.{i}.conv.weight'], padding=1)
        levels[i] = normed_pixels(level, f'{neck}.fpn_convs.{i}.ln', 1e-5)
    levels.append(levels[3][:, :, ::2, ::2])
    blocks = [block(level, f'decode_head.convs.{i}') for i, level in enumerate(levels)]
    maps = torch.cat(
        [F.interpolate(level, out_size, mode='bilinear', align_corners=False) for level in blocks],
        dim=1,
    )
    logits = pixelwise(
        block(maps, 'decode_head.fusion_conv'), weights['decode_head.conv_seg.weight']
    )
    return logits + weights['decode_head.conv_seg.bias'][:, None, None]


def test_ttp_is_what_its_plain_description_gives_in_double_precision(build_model, seed_weights):
    # At full size rounding hides small errors (tests/models/test_golden.py); three layers in double
    # precision hide none.
    model = build_model('ttp_vitsam_l', shallow=True).eval()
    seed_weights(model)
    model = model.double()
    inputs = torch.randn(2, 6, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        change_map = model(inputs, mode='tensor')
        expected = _plain_ttp(
            model.state_dict(), inputs, num_heads=4, window=3, global_layers=(2,), out_size=(16, 16)
        )
    assert (change_map - expected).abs().max() < 1e-10 * expected.abs().max()


# BAN


def test_bridge_is_attention_feed_forward_and_the_resized_map():
    torch.manual_seed(0)
    bridge = Bridge(8, 2).eval()
    x, foundation = torch.randn(2, 8, 4, 6), torch.randn(2, 8, 3, 3)
    q, kv = bridge.norm1(x).flatten(2).transpose(1, 2), foundation.flatten(2).transpose(1, 2)
    attended = (
        bridge.attn.attn(q.transpose(0, 1), kv.transpose(0, 1), kv.transpose(0, 1))[0]
        .permute(1, 2, 0)
        .view(x.shape)
    )
    expected = x + attended
    expected = expected + bridge.ffn.layers(bridge.norm2(expected))
    expected = expected + F.interpolate(foundation, (4, 6), mode='bilinear', align_corners=False)
    torch.testing.assert_close(bridge(x, foundation), expected, atol=1e-5, rtol=1e-5)
    assert bridge.ffn.layers[0].out_channels == 4


def test_stage_without_bridge_is_the_side_encoders_own(build_model, seed_weights):
    branch = build_model('ban_vitl14_mitb2', shallow=True).decode_head.side_adapter_network.eval()
    image = torch.randn(1, 3, 64, 64)
    levels = branch([image, *torch.randn(3, 1, 32, 3, 4)])
    plain = branch.side_encoder(image)
    torch.testing.assert_close(levels[0], plain[0])
    assert [level.shape for level in levels] == [level.shape for level in plain]
    assert not torch.allclose(levels[1], plain[1], atol=0.1)


def test_encoder_sees_both_dates_at_its_own_size_without_gradients(build_model):
    model = build_model('ban_vitl14_mitb2', shallow=True)
    seen = []
    model.image_encoder.register_forward_pre_hook(
        lambda module, inputs: seen.append((inputs[0], torch.is_grad_enabled()))
    )
    pairs = torch.randn(2, 6, 64, 64)
    image1, _, maps1, maps2 = model.extract_feat(pairs)
    ((images, with_grad),) = seen
    assert (tuple(images.shape), with_grad) == ((4, 3, 42, 56), False)
    torch.testing.assert_close(images[3], F.interpolate(pairs[:, 3:], (42, 56), mode='bilinear')[1])
    assert torch.equal(image1, pairs[:, :3])
    assert (
        [level.shape for level in maps1] == [level.shape for level in maps2] == [(2, 32, 3, 4)] * 3
    )


def test_encoder_without_a_resolution_is_refused(build_model):
    with pytest.raises(UserError, match='encoder_resolution, found None'):
        build_model('ban_vitl14_mitb2', shallow=True, encoder_resolution=None)


def _as_openai(weights):
    renamed = {'visual.proj': torch.zeros(3), 'logit_scale': torch.zeros(())}
    for key, value in weights.items():
        layer = key.replace('layers.', 'transformer.resblocks.', 1)
        layer = layer.replace('ln1', 'ln_1').replace('ln2', 'ln_2').replace('attn.attn', 'attn')
        layer = (
            layer.replace('ffn.layers.0.0', 'mlp.c_fc')
            .replace('ffn.layers.1', 'mlp.c_proj')
            .replace('patch_embed.projection', 'conv1')
        )
        renamed[f'visual.{layer}'] = value
    renamed['visual.class_embedding'] = renamed.pop('visual.cls_token')[0, 0]
    renamed['visual.positional_embedding'] = renamed.pop('visual.pos_embed')[0]
    return {key: value.half() for key, value in renamed.items()}


def _as_open_cd(weights):
    return {f'image_encoder.{key}': value for key, value in weights.items()} | {
        'text_encoder.x': torch.zeros(1)
    }


@pytest.mark.parametrize('layout', [_as_openai, _as_open_cd])
def test_clips_weights_load_into_fewer_layers_for_another_size(layout, tmp_path):
    torch.manual_seed(0)
    published = MMSegVisionTransformer(**{**_CLIP, 'img_size': (42, 42), 'num_layers': 3})
    for parameter in published.parameters():
        nn.init.normal_(parameter)
    weights = published.state_dict()
    torch.save(layout(weights), tmp_path / 'clip.pth')
    encoder = VisionTransformer(
        **_CLIP, init_cfg=dict(type='Pretrained_Part', checkpoint=str(tmp_path / 'clip.pth'))
    )
    encoder.init_weights()
    precision = dict(atol=4e-3, rtol=1e-2)  # of OpenAI's half precision
    pos_embed = published.resize_pos_embed(weights['pos_embed'], (2, 3), (3, 3), 'bicubic')
    for key, value in encoder.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(
            value, pos_embed if key == 'pos_embed' else weights[key], **precision, msg=key
        )


def test_fused_attention_of_the_clip_encoder_gives_mmsegs_features():
    torch.manual_seed(0)
    ours, theirs = VisionTransformer(**_CLIP).eval(), MMSegVisionTransformer(**_CLIP)
    theirs.eval()  # returns None
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 28, 42)
    torch.testing.assert_close(ours(images)[0], theirs(images)[0], atol=1e-5, rtol=1e-4)


def test_missing_files_name_the_option_that_does_without(build_model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    url = 'http://127.0.0.1:9/x.pth'
    with pytest.raises(UserError, match=r'--cfg-options model\.pretrained=None'):
        build_model('ban_vitl14_mitb2', shallow=True, pretrained=url).init_weights()
    with pytest.raises(UserError, match=r'--cfg-options model\.pretrained=None'):
        build_model('ttp_vitsam_l', shallow=True, pretrained=url).init_weights()
    side = dict(
        ban_cfg=dict(
            side_enc_cfg=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint=url))
        )
    )
    with pytest.raises(
        UserError, match=r'--cfg-options model\.decode_head\.ban_cfg\.side_enc_cfg\.init_cfg=None'
    ):
        build_model('ban_vitl14_mitb2', shallow=True, decode_head=side).init_weights()
    encoder = dict(encoder_cfg=dict(init_cfg=dict(type='Pretrained', checkpoint=url)))
    with pytest.raises(
        UserError, match=r'--cfg-options model\.backbone\.encoder_cfg\.init_cfg=None'
    ):
        build_model('ttp_vitsam_l', shallow=True, backbone=encoder).init_weights()
