# ChangerEx with ResNeSt-50 (arXiv:2209.08290); the paper trains it from random weights.
_base_ = './changer_r18.py'

model = dict(
    backbone=dict(
        type='IA_ResNeSt',
        depth=50,
        stem_channels=64,
        radix=2,
        reduction_factor=4,
        avg_down_stride=True,
    ),
    decode_head=dict(in_channels=[256, 512, 1024, 2048], channels=256),
)
