# BIT with the first three stages of ResNet-18 (arXiv:2103.00208).
_base_ = '../data_preprocessor.py'

model = dict(
    type='SiamEncoderDecoder',
    data_preprocessor={{_base_.pair_preprocessor}},
    pretrained='https://download.openmmlab.com/pretrain/third_party/resnet18_v1c-b5776b93.pth',
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        num_stages=3,
        out_indices=(2,),
        dilations=(1, 1, 1),
        strides=(1, 2, 1),
        # Not SyncBN, which needs a GPU and a process group: the tools convert BN when they train on several GPUs.
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
        contract_dilation=True,
    ),
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
