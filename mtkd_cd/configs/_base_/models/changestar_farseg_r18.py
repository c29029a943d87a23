# ChangeStar 1x96 (arXiv:2108.07002) with FarSeg (arXiv:2011.09766) and ResNet-18.
_base_ = './changestar_upernet_r18.py'

model = dict(
    neck=dict(
        _delete_=True,
        type='FarSegFPN',
        policy='concat',
        in_channels=[64, 128, 256, 512],
        out_channels=256,
        num_outs=4,
    ),
    decode_head=dict(
        in_channels=[512, 512, 512, 512, 1024],
        in_index=[0, 1, 2, 3, 4],
        seg_head_cfg=dict(
            _delete_=True,
            type='FarSegHead',
            in_channels=[256, 256, 256, 256, 512],
            in_index=[0, 1, 2, 3, 4],
            fsr_channels=256,
            channels=128,
            norm_cfg=dict(type='BN', requires_grad=True),
            align_corners=False,
        ),
        loss_decode=[
            dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
            dict(type='DiceLoss', use_sigmoid=True, loss_weight=1.0),
        ],
    ),
)
