# BIT with the first three stages of ResNet-18 (arXiv:2103.00208).
_base_ = ['../data_preprocessor.py', '../backbones/resnet_18.py']

model = dict(
    type='SiamEncoderDecoder',
    data_preprocessor={{_base_.pair_preprocessor}},
    backbone=dict(num_stages=3, out_indices=(2,), dilations=(1, 1, 1), strides=(1, 2, 1)),
    neck=dict(type='FeatureFusionNeck', policy='concat', out_indices=(0,)),
    decode_head=dict(
        type='BITHead',
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
        pre_upsample=2,
        upsample_size=4,
        num_classes=2,
        norm_cfg=dict(type='LN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg={},
    test_cfg=dict(mode='whole'),
)
