# ChangeStar 1x96 (arXiv:2108.07002) with UPerNet and ResNet-18.
_base_ = ['../data_preprocessor.py', '../backbones/resnet_18.py']

model = dict(
    type='SiamEncoderDecoder',
    data_preprocessor={{_base_.pair_preprocessor}},
    neck=dict(type='FeatureFusionNeck', policy='concat'),
    decode_head=dict(
        type='ChangeStarHead',
        inference_mode='t1t2',
        in_channels=[128, 256, 512, 1024],
        in_index=[0, 1, 2, 3],
        channels=96,
        num_classes=2,
        out_channels=1,
        threshold=0.5,
        seg_head_cfg=dict(
            type='UPerHead',
            in_channels=[64, 128, 256, 512],
            in_index=[0, 1, 2, 3],
            pool_scales=(1, 2, 3, 6),
            channels=128,
            # Not SyncBN, which needs a GPU and a process group: the tools convert BN when they
            # train on several GPUs.
            norm_cfg=dict(type='BN', requires_grad=True),
            align_corners=False,
        ),
        changemixin_cfg=dict(in_channels=2 * 128, inner_channels=96, num_convs=1),
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
    ),
    train_cfg={},
    test_cfg=dict(mode='whole'),
)
