# ChangerEx with MiT-b0 (arXiv:2209.08290).
_base_ = '../data_preprocessor.py'

model = dict(
    type='DIEncoderDecoder',
    data_preprocessor={{_base_.pair_preprocessor}},
    pretrained='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/mit_b0_20220624-7e0fe6dd.pth',
    backbone=dict(
        type='IA_MixVisionTransformer',
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
        interaction_cfg=(
            None,
            dict(type='SpatialExchange', p=1 / 2),
            dict(type='ChannelExchange', p=1 / 2),
            dict(type='ChannelExchange', p=1 / 2),
        ),
    ),
    decode_head=dict(
        type='Changer',
        in_channels=[32, 64, 160, 256],
        in_index=[0, 1, 2, 3],
        channels=128,
        dropout_ratio=0.1,
        num_classes=2,
        # Not SyncBN, which needs a GPU and a process group: the tools convert BN when they train on several GPUs.
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100000),
    ),
    train_cfg={},
    test_cfg=dict(mode='whole'),
)
