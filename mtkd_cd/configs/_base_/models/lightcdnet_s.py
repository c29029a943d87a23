# LightCDNet, small (DOI 10.1109/LGRS.2023.3304309); trained from random weights.
_base_ = '../data_preprocessor.py'

# Not SyncBN, which needs a GPU and a process group: the tools convert BN when they train on several
# GPUs.
_norm_cfg = dict(type='BN', requires_grad=True)

model = dict(
    type='DIEncoderDecoder',
    data_preprocessor={{_base_.pair_preprocessor}},
    pretrained=None,
    backbone=dict(type='LightCDNet', stage_repeat_num=[4, 8, 4], net_type='small'),
    neck=dict(
        type='TinyFPN',
        exist_early_x=True,
        early_x_for_fpn=True,
        custom_block='conv',
        in_channels=[24, 48, 96, 192],
        out_channels=48,
        num_outs=4,
    ),
    decode_head=dict(
        type='DS_FPNHead',
        in_channels=[48, 48, 48, 48],
        in_index=[0, 1, 2, 3],
        channels=48,
        dropout_ratio=0.0,
        num_classes=2,
        norm_cfg=_norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100000),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=24,
        in_index=0,
        channels=24,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=2,
        norm_cfg=_norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg={},
    test_cfg=dict(mode='whole'),
)
