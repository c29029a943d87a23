# FC-EF (arXiv:1810.08462); trained from random weights.
_base_ = '../data_preprocessor.py'

model = dict(
    type='DIEncoderDecoder',
    data_preprocessor={{_base_.pair_preprocessor}},
    pretrained=None,
    backbone=dict(type='FC_EF', in_channels=6, base_channel=16),
    decode_head=dict(
        type='FCNHead',
        in_channels=16,
        in_index=-1,
        channels=16,
        num_convs=0,
        concat_input=False,
        num_classes=2,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg={},
    test_cfg=dict(mode='whole'),
)
