# ChangerEx with MiT-b0 (arXiv:2209.08290).
_base_ = ['../data_preprocessor.py', '../backbones/mit_b0.py']

model = dict(
    type='DIEncoderDecoder',
    data_preprocessor={{_base_.pair_preprocessor}},
    backbone=dict(
        type='IA_MixVisionTransformer',
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
        # Not SyncBN, which needs a GPU and a process group: the tools convert BN when they train on
        # several GPUs.
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100000),
    ),
    train_cfg={},
    test_cfg=dict(mode='whole'),
)
