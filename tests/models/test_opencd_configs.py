"""Model configs as Open-CD's users have them: they build here, with Open-CD's keys, shapes and
counts, when the scope is set to ours.

Written from the descriptions of Open-CD's configs: scoped type names, SyncBN, ``pretrained=None``
and placeholders, initialisation entries, arguments at their defaults. Counts of the variants are
Open-CD's.
"""

import copy
import functools
import hashlib
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import revert_sync_batchnorm
from torch import nn

from mtkd_cd.registry import MODELS

_GOLDEN = Path(__file__).parents[1] / 'data' / 'golden'

norm_cfg = dict(type='SyncBN', requires_grad=True)
data_preprocessor = dict(
    type='DualInputSegDataPreProcessor',
    mean=[123.675, 116.28, 103.53] * 2,
    std=[58.395, 57.12, 57.375] * 2,
    bgr_to_rgb=True,
    size_divisor=32,
    pad_val=0,
    seg_pad_val=255,
    test_cfg=dict(size_divisor=32),
)
softmax_ce = dict(type='mmseg.CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)
sigmoid_ce = dict(type='mmseg.CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)
ohem = dict(type='mmseg.OHEMPixelSampler', thresh=0.7, min_kept=100000)
whole, slide = dict(mode='whole'), dict(mode='slide', crop_size=(256, 256), stride=(128, 128))
resnet18 = dict(
    type='mmseg.ResNetV1c',
    depth=18,
    num_stages=4,
    out_indices=(0, 1, 2, 3),
    dilations=(1, 1, 1, 1),
    strides=(1, 2, 2, 2),
    norm_cfg=norm_cfg,
    norm_eval=False,
    style='pytorch',
    contract_dilation=True,
)
resnet18_of_bit = {
    **resnet18,
    'num_stages': 3,
    'out_indices': (2,),
    'strides': (1, 2, 1),
    'dilations': (1, 1, 1),
}
mit_b0 = dict(
    type='mmseg.MixVisionTransformer',
    in_channels=3,
    embed_dims=32,
    num_stages=4,
    num_layers=[2, 2, 2, 2],
    num_heads=[1, 2, 5, 8],
    patch_sizes=[7, 3, 3, 3],
    sr_ratios=[8, 4, 2, 1],
    out_indices=(0, 1, 2, 3),
    mlp_ratio=4,
    qkv_bias=True,
    drop_rate=0.0,
    attn_drop_rate=0.0,
    drop_path_rate=0.1,
)
interaction_cfg = (
    None,
    dict(type='SpatialExchange', p=1 / 2),
    dict(type='ChannelExchange', p=1 / 2),
    dict(type='ChannelExchange', p=1 / 2),
)
concat = dict(type='FeatureFusionNeck', policy='concat')


def detector(type_, backbone, decode_head, test_cfg=whole, **parts):
    return dict(
        type=type_,
        data_preprocessor=data_preprocessor,
        pretrained=None,
        backbone=backbone,
        decode_head=decode_head,
        train_cfg={},
        test_cfg=test_cfg,
        **parts,
    )


siamese, dual_input = (
    functools.partial(detector, 'SiamEncoderDecoder'),
    functools.partial(detector, 'DIEncoderDecoder'),
)


def generic_head(width):
    return dict(
        type='mmseg.FCNHead',
        in_channels=width,
        in_index=-1,
        channels=width,
        num_convs=0,
        concat_input=False,
        num_classes=2,
        loss_decode=softmax_ce,
    )


def stanet(sa_mode='PAM', sa_ds=1):
    head = dict(
        type='STAHead',
        in_channels=[64, 128, 256, 512],
        in_index=[0, 1, 2, 3],
        channels=96,
        sa_mode=sa_mode,
        sa_in_channels=256,
        sa_ds=sa_ds,
        distance_threshold=1,
        out_channels=1,
        threshold=0.5,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='BCLLoss', margin=2.0, loss_weight=1.0, ignore_index=255),
    )
    return siamese(
        resnet18,
        head,
        slide,
        neck=dict(type='FeatureFusionNeck', policy='concat', out_indices=(0, 1, 2, 3)),
    )


def bit_head(type_='BITHead', **changes):
    return dict(
        type=type_,
        in_channels=256,
        channels=32,
        embed_dims=64,
        enc_depth=1,
        enc_with_pos=True,
        dec_depth=8,
        num_heads=8,
        drop_rate=0.0,
        use_tokenizer=True,
        token_len=4,
        upsample_size=4,
        num_classes=2,
        norm_cfg=dict(type='LN', requires_grad=True),
        align_corners=False,
        **changes,
    )


def segformer_head(in_channels, channels=256, **changes):
    return {
        **dict(
            type='mmseg.SegformerHead',
            in_channels=in_channels,
            in_index=[0, 1, 2, 3],
            channels=channels,
            dropout_ratio=0.1,
            num_classes=2,
            norm_cfg=norm_cfg,
            align_corners=False,
            loss_decode=softmax_ce,
        ),
        **changes,
    }


def changeformer(embed_dims=32, num_layers=(2, 2, 2, 2)):
    backbone = {**mit_b0, 'embed_dims': embed_dims, 'num_layers': list(num_layers)}
    return siamese(
        backbone, segformer_head([2 * embed_dims * heads for heads in (1, 2, 5, 8)]), neck=concat
    )


def changer(backbone, in_channels, channels=128):
    backbone = {**backbone, 'interaction_cfg': interaction_cfg}
    return dual_input(backbone, segformer_head(in_channels, channels, type='Changer', sampler=ohem))


def changer_mit(embed_dims):
    backbone = {**mit_b0, 'type': 'IA_MixVisionTransformer', 'embed_dims': embed_dims}
    return changer(backbone, [embed_dims * heads for heads in (1, 2, 5, 8)])


def changer_resnet(depth=18, type_='IA_ResNetV1c'):
    expansion = 1 if depth < 50 else 4
    return changer(
        {**resnet18, 'type': type_, 'depth': depth},
        [width * expansion for width in (64, 128, 256, 512)],
    )


def changer_resnest(depth, stem_channels):
    backbone = {**resnet18, 'type': 'IA_ResNeSt', 'depth': depth, 'stem_channels': stem_channels}
    return changer(
        {**backbone, 'radix': 2, 'reduction_factor': 4, 'avg_down_stride': True},
        [256, 512, 1024, 2048],
        256,
    )


def changestar(neck, seg_head_cfg, in_channels, loss_decode):
    head = dict(
        type='ChangeStarHead',
        in_channels=in_channels,
        in_index=list(range(len(in_channels))),
        channels=96,
        inference_mode='t1t2',
        num_classes=2,
        out_channels=1,
        threshold=0.5,
        seg_head_cfg=seg_head_cfg,
        changemixin_cfg=dict(in_channels=128 * 2, inner_channels=96, num_convs=1),
        loss_decode=loss_decode,
    )
    pretrained = dict(type='Pretrained', checkpoint='open-mmlab://resnet18_v1c')
    return siamese({**resnet18, 'init_cfg': pretrained}, head, neck=neck)


def changestar_farseg():
    neck = dict(
        type='FarSegFPN',
        policy='concat',
        in_channels=[64, 128, 256, 512],
        out_channels=256,
        num_outs=4,
    )
    seg_head = dict(
        type='FarSegHead',
        in_channels=[256, 256, 256, 256, 512],
        in_index=[0, 1, 2, 3, 4],
        fsr_channels=256,
        channels=128,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=sigmoid_ce,
    )
    losses = [sigmoid_ce, dict(type='mmseg.DiceLoss', use_sigmoid=True, loss_weight=1.0)]
    return changestar(neck, seg_head, [512, 512, 512, 512, 1024], losses)


def changestar_upernet():
    seg_head = dict(
        type='mmseg.UPerHead',
        in_channels=[64, 128, 256, 512],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=128,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=softmax_ce,
    )
    return changestar(concat, seg_head, [128, 256, 512, 1024], sigmoid_ce)


def identity_head(type_='IdentityHead', **changes):
    return {
        **dict(
            type=type_,
            in_channels=1,
            in_index=-1,
            num_classes=2,
            out_channels=1,
            loss_decode=sigmoid_ce,
        ),
        **changes,
    }


def ifn():
    side_outputs = identity_head(
        'DSIdentityHead',
        in_channels=[1, 1, 1, 1],
        in_index=[0, 1, 2, 3],
        input_transform='multiple_select',
    )
    return dual_input(dict(type='IFN'), identity_head(), auxiliary_head=side_outputs)


def cgnet():
    return dual_input(
        dict(type='CGNet'),
        identity_head(threshold=0.5),
        slide,
        auxiliary_head=identity_head(in_index=0, threshold=0.5),
    )


def tinycd():
    backbone = dict(
        type='TinyCD',
        in_channels=3,
        bkbn_name='efficientnet_b4',
        pretrained=True,
        output_layer_bkbn='3',
        freeze_backbone=False,
    )
    return dual_input(backbone, identity_head(threshold=0.5))


def lightcdnet(net_type, widths):
    neck = dict(
        type='TinyFPN',
        exist_early_x=True,
        early_x_for_fpn=True,
        custom_block='conv',
        in_channels=widths,
        out_channels=48,
        num_outs=4,
    )
    auxiliary_head = dict(
        type='mmseg.FCNHead',
        in_channels=24,
        in_index=0,
        channels=24,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=2,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode={**softmax_ce, 'loss_weight': 0.4},
    )
    head = segformer_head([48, 48, 48, 48], 48, type='DS_FPNHead', dropout_ratio=0.0, sampler=ohem)
    backbone = dict(type='LightCDNet', stage_repeat_num=[4, 8, 4], net_type=net_type)
    return dual_input(backbone, head, neck=neck, auxiliary_head=auxiliary_head)


def foundation_encoder(size, patch_size, embed_dims, num_heads, num_layers, out_indices, **changes):
    return {
        **dict(
            type='mmseg.VisionTransformer',
            img_size=(size, size),
            patch_size=patch_size,
            patch_pad=0,
            in_channels=3,
            embed_dims=embed_dims,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=4,
            out_origin=False,
            out_indices=out_indices,
            qkv_bias=True,
            drop_rate=0.0,
            attn_drop_rate=0.0,
            drop_path_rate=0.0,
            with_cls_token=True,
            output_cls_token=True,
            norm_cfg=dict(type='LN', eps=1e-5),
            act_cfg=dict(type='mmseg.QuickGELU'),
            norm_eval=False,
            interpolate_mode='bicubic',
            patch_bias=False,
            pre_norm=True,
            frozen_exclude=[],
        ),
        **changes,
    }


vit_b16 = foundation_encoder(224, 16, 768, 12, 9, (2, 5, 8))
vit_l14 = foundation_encoder(336, 14, 1024, 16, 18, (5, 11, 17))
imagenet21k = dict(
    act_cfg=dict(type='mmseg.GELU'),
    norm_cfg=dict(type='LN', eps=1e-6),
    patch_bias=True,
    init_cfg=dict(type='Pretrained', checkpoint='pretrain/vit.pth'),
)


def ban(image_encoder, side, decoder, fusion_index):
    clip_channels = image_encoder['embed_dims']
    return dict(
        type='BAN',
        data_preprocessor=data_preprocessor,
        pretrained='pretrain/clip.pth',
        asymetric_input=True,
        encoder_resolution=dict(size=image_encoder['img_size'], mode='bilinear'),
        image_encoder=image_encoder,
        decode_head=dict(
            type='BitemporalAdapterHead',
            ban_cfg=dict(clip_channels=clip_channels, fusion_index=fusion_index, side_enc_cfg=side),
            ban_dec_cfg=decoder,
            loss_decode=softmax_ce,
        ),
        train_cfg={},
        test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(256, 256)),
    )


def ban_mit(image_encoder, embed_dims, num_layers=(2, 2, 2, 2)):
    side = {**mit_b0, 'embed_dims': embed_dims, 'num_layers': list(num_layers)}
    side['init_cfg'] = dict(type='Pretrained', checkpoint='pretrain/mit.pth')
    decoder = dict(
        type='BAN_MLPDecoder',
        in_channels=[embed_dims * heads for heads in (1, 2, 5, 8)],
        channels=128,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=norm_cfg,
        align_corners=False,
    )
    return ban(image_encoder, side, decoder, [1, 2, 3])


def ban_bit(image_encoder):
    return ban(image_encoder, resnet18_of_bit, bit_head('BAN_BITHead'), [0, 1, 2])


def ttp():
    encoder_cfg = dict(
        type='ViTSAM_Custom',
        arch='large',
        img_size=(512, 512),
        patch_size=16,
        out_channels=256,
        use_abs_pos=True,
        use_rel_pos=True,
        window_size=14,
        layer_cfgs=dict(type='TimeFusionTransformerEncoderLayer'),
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/sam.pth', prefix='backbone.'),
    )
    peft_cfg = dict(
        peft_type='LORA',
        r=16,
        target_modules=['qkv'],
        lora_alpha=32,
        lora_dropout=0.01,
        bias='lora_only',
    )
    pyramid = dict(
        type='SimpleFPN',
        backbone_channel=512,
        in_channels=[128, 256, 512, 512],
        out_channels=256,
        num_outs=5,
        norm_cfg=dict(type='mmpretrain.LN2d', requires_grad=True),
    )
    fusion = dict(type='FeatureFusionNeck', policy='concat', out_indices=(0,))
    head = segformer_head(
        [256] * 5, type='MLPSegHead', out_size=(128, 128), in_index=[0, 1, 2, 3, 4], dropout_ratio=0
    )
    return detector(
        'TimeTravellingPixels',
        dict(type='VisionTransformerTurner', encoder_cfg=encoder_cfg, peft_cfg=peft_cfg),
        head,
        dict(mode='slide', crop_size=(512, 512), stride=(256, 256)),
        neck=dict(type='SequentialNeck', necks=[fusion, pyramid]),
    )


BENCHMARK = dict(
    fc_ef=dual_input(dict(type='FC_EF', in_channels=6, base_channel=16), generic_head(16)),
    fc_siam_conc=dual_input(
        dict(type='FC_Siam_conc', in_channels=3, base_channel=16), generic_head(16)
    ),
    fc_siam_diff=dual_input(
        dict(type='FC_Siam_diff', in_channels=3, base_channel=16), generic_head(16)
    ),
    stanet_r18=stanet('None'),
    ifn_vgg16=ifn(),
    snunet_c16=dual_input(
        dict(type='SNUNet_ECAM', in_channels=3, base_channel=16), generic_head(64)
    ),
    bit_r18=siamese(
        resnet18_of_bit, bit_head(loss_decode=softmax_ce), neck={**concat, 'out_indices': (0,)}
    ),
    changestar_farseg_r18=changestar_farseg(),
    changestar_upernet_r18=changestar_upernet(),
    changeformer_mitb0=changeformer(),
    changeformer_mitb1=changeformer(64),
    tinycd=tinycd(),
    hanet=dual_input(dict(type='HAN', in_channels=3, base_channel=40), generic_head(80)),
    changer_mitb0=changer_mit(32),
    changer_mitb1=changer_mit(64),
    changer_r18=changer_resnet(),
    changer_s50=changer_resnest(50, 64),
    lightcdnet_s=lightcdnet('small', [24, 48, 96, 192]),
    cgnet_vgg16=cgnet(),
    ban_vitl14_mitb2=ban_mit(vit_l14, 64, (3, 4, 6, 3)),
    ttp_vitsam_l=ttp(),
)
# Other configs of the same families: parameters, and those that are trained, where Open-CD's
# numbers are known.
VARIANTS = dict(
    stanet_bam=(stanet('BAM'), 12_846_497, None),
    stanet_pam=(stanet('PAM', sa_ds=2), 13_355_872, None),
    snunet_c32=(
        dual_input(dict(type='SNUNet_ECAM', in_channels=3, base_channel=32), generic_head(128)),
        None,
        None,
    ),
    changeformer_mitb2=(changeformer(64, (3, 4, 6, 3)), None, None),
    changer_r34=(changer_resnet(34), None, None),
    changer_r50=(changer_resnet(50, 'IA_ResNetV1d'), None, None),
    changer_s101=(changer_resnest(101, 128), None, None),
    lightcdnet_b=(lightcdnet('base', [24, 116, 232, 464]), None, None),
    lightcdnet_l=(lightcdnet('large', [24, 176, 352, 704]), None, None),
    ban_vitb16_bit=(ban_bit(vit_b16), 68_224_842, 3_690_570),
    ban_vitb16_mitb0=(ban_mit(vit_b16, 32), 68_883_622, 4_349_350),
    ban_vitb16_mitb1=(ban_mit(vit_b16, 64), 80_301_254, 15_766_982),
    ban_vitb16_mitb2=(ban_mit(vit_b16, 64, (3, 4, 6, 3)), 91_346_118, 26_811_846),
    ban_vitb32_mitb0=(ban_mit({**vit_b16, 'patch_size': 32}, 32), 70_540_198, 4_349_350),
    ban_vitl14_bit=(ban_bit(vit_l14), 231_734_858, 3_806_794),
    ban_vitl14_mitb0=(ban_mit(vit_l14, 32), 232_401_830, 4_473_766),
    ban_vitl14_mitb1=(ban_mit(vit_l14, 64), 243_942_342, 16_014_278),
    ban_vitl14_224_mitb0=(ban_mit({**vit_l14, 'img_size': (224, 224)}, 32), 232_074_150, 4_473_766),
    ban_vitb16_in21k_mitb0=(
        ban_mit(foundation_encoder(224, 16, 768, 12, 12, (5, 8, 11), **imagenet21k), 32),
        90_148_006,
        4_349_350,
    ),
    ban_vitl16_in21k_mitb0=(
        ban_mit(foundation_encoder(224, 16, 1024, 16, 24, (11, 17, 23), **imagenet21k), 32),
        307_775_398,
        4_473_766,
    ),
)
# What is small enough to train for a step; the others are the same code with more layers.
SMALL = {
    name: VARIANTS[name][0]
    for name in (
        'stanet_bam',
        'stanet_pam',
        'snunet_c32',
        'changer_r34',
        'lightcdnet_b',
        'lightcdnet_l',
    )
}
SMALL['ban_bit'] = ban_bit(foundation_encoder(64, 16, 96, 4, 3, (0, 1, 2)))


def build(model: dict) -> nn.Module:
    return MODELS.build(ConfigDict(copy.deepcopy(model)))


@pytest.fixture
def build_without_memory(monkeypatch):
    """Build on the ``meta`` device."""
    monkeypatch.setattr(
        torch, 'linspace', functools.partial(torch.linspace, device='cpu')
    )  # mmseg reads numbers from it

    def build_without_numbers(model: dict) -> nn.Module:
        with torch.device('meta'):
            return build(model)

    return build_without_numbers


def counts(model: nn.Module) -> tuple[int, int]:
    return sum(p.numel() for p in model.parameters()), sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )


def test_all_of_the_benchmark_are_here():
    assert set(BENCHMARK) == {path.stem for path in _GOLDEN.glob('*.json')}


@pytest.mark.filterwarnings(
    'ignore:threshold is not defined:UserWarning'
)  # nor is it in Open-CD's config of IFN
@pytest.mark.parametrize('name', sorted(BENCHMARK))
def test_benchmark_model_has_open_cds_keys_and_shapes(name, build_without_memory):
    model = build_without_memory(BENCHMARK[name])
    facts = json.loads((_GOLDEN / f'{name}.json').read_text())
    keys = [f'{key} {list(value.shape)}' for key, value in sorted(model.state_dict().items())]
    assert len(keys) == facts['state_dict']['count']
    assert hashlib.sha256('\n'.join(keys).encode()).hexdigest() == facts['state_dict']['sha256']
    assert (type(model).__name__, counts(model)[0]) == (facts['detector'], facts['parameters'])


@pytest.mark.parametrize('name', sorted(VARIANTS))
def test_variant_builds_with_open_cds_counts(name, build_without_memory):
    model, parameters, trainable = VARIANTS[name]
    found = counts(build_without_memory(model))
    assert found[0] == (parameters or found[0])
    assert found[1] == (trainable or found[1])


@pytest.mark.parametrize('name', sorted(SMALL))
def test_variant_gives_a_change_map_and_trains(name, make_pairs):
    model = revert_sync_batchnorm(build(SMALL[name]))
    inputs, samples = make_pairs(2, 64)
    with torch.no_grad():
        maps = model.eval()(inputs, mode='tensor')
    assert maps.shape[:2] == (2, model.out_channels)
    assert maps.isfinite().all()
    losses = model.train()(inputs, samples, mode='loss')
    model.parse_losses(losses)[0].backward()
    assert all(
        p.grad.isfinite().all() for p in model.decode_head.parameters() if p.grad is not None
    )


def test_synchronised_batch_norm_needs_no_process_group(make_pairs):
    model = build(BENCHMARK['changer_r18']).train()
    assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    inputs, samples = make_pairs(2, 64)
    model.parse_losses(model(inputs, samples, mode='loss'))[0].backward()
    assert model.backbone.stem[0].weight.grad.any()
    assert int(model.backbone.stem[1].num_batches_tracked) == 2  # one for each date
    with torch.no_grad():
        assert model.eval()(inputs, mode='tensor').shape == (2, 2, 16, 16)


def test_one_seed_gives_both_spellings_the_same_numbers(make_pairs):
    """``mmseg.X`` finds mmseg's own class where we have a faster one of that name."""
    inputs, _ = make_pairs(1, 64)
    maps = []
    for prefix in ('mmseg.', ''):
        torch.manual_seed(0)
        config = json.loads(json.dumps(BENCHMARK['changeformer_mitb0']).replace('mmseg.', prefix))
        with torch.no_grad():
            maps.append(build(config).eval()(inputs, mode='tensor'))
    torch.testing.assert_close(*maps, atol=1e-5, rtol=1e-4)
