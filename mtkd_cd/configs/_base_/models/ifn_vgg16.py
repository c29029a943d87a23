# IFN (DOI 10.1016/j.isprsjprs.2020.06.003), its encoder ImageNet's VGG16.
_base_ = '../data_preprocessor.py'

_head = dict(
    num_classes=2,
    out_channels=1,
    threshold=0.3,  # mmseg's default for one channel, which the published scores are at
    loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
)

model = dict(
    type='DIEncoderDecoder',
    data_preprocessor={{_base_.pair_preprocessor}},
    pretrained='https://download.pytorch.org/models/vgg16-397923af.pth',
    backbone=dict(type='IFN', pretrained=False),
    decode_head=dict(type='IdentityHead', in_channels=1, in_index=-1, **_head),
    auxiliary_head=dict(
        type='DSIdentityHead',
        in_channels=[1, 1, 1, 1],
        in_index=[0, 1, 2, 3],
        input_transform='multiple_select',
        **_head,
    ),
    train_cfg={},
    test_cfg=dict(mode='whole'),
)
