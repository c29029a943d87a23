# TinyCD (arXiv:2207.13159), its trunk from ImageNet's EfficientNet-B4.
_base_ = '../data_preprocessor.py'

model = dict(
    type='DIEncoderDecoder',
    data_preprocessor={{_base_.pair_preprocessor}},
    pretrained='https://download.pytorch.org/models/efficientnet_b4_rwightman-23ab8bcd.pth',
    backbone=dict(
        type='TinyCD',
        in_channels=3,
        bkbn_name='efficientnet_b4',
        pretrained=False,
        output_layer_bkbn='3',
    ),
    decode_head=dict(
        type='IdentityHead',
        in_channels=1,
        in_index=-1,
        num_classes=2,
        out_channels=1,
        threshold=0.5,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
    ),
    train_cfg={},
    test_cfg=dict(mode='whole'),
)
