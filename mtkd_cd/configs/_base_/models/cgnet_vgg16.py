# CGNet (DOI 10.1109/JSTARS.2023.3310208), its encoder from ImageNet's VGG16 with batch norm.
_base_ = '../data_preprocessor.py'

_head = dict(
    type='IdentityHead',
    in_channels=1,
    num_classes=2,
    out_channels=1,
    threshold=0.5,
    loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
)

model = dict(
    type='DIEncoderDecoder',
    data_preprocessor={{_base_.pair_preprocessor}},
    pretrained='https://download.pytorch.org/models/vgg16_bn-6c64b313.pth',
    backbone=dict(type='CGNet', pretrained=False),
    decode_head=dict(in_index=-1, **_head),
    auxiliary_head=dict(in_index=0, **_head),  # the guide map
    train_cfg={},
    test_cfg=dict(mode='slide', crop_size=(256, 256), stride=(128, 128)),
)
