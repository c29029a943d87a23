# A Siamese SegFormer with MiT-b0, what Open-CD calls ChangeFormer (arXiv:2201.01293).
_base_ = ['../data_preprocessor.py', '../backbones/mit_b0.py']

model = dict(
    type='SiamEncoderDecoder',
    data_preprocessor={{_base_.pair_preprocessor}},
    neck=dict(type='FeatureFusionNeck', policy='concat'),
    decode_head=dict(
        type='MLPSegHead',
        in_channels=[64, 128, 320, 512],
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.1,
        num_classes=2,
        # Not SyncBN, which needs a GPU and a process group: the tools convert BN when they train on
        # several GPUs.
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg={},
    test_cfg=dict(mode='whole'),
)
