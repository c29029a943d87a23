# SNUNet with 16 channels (DOI 10.1109/LGRS.2021.3056416); trained from random weights.
_base_ = './fc_ef.py'

model = dict(
    backbone=dict(type='SNUNet_ECAM', in_channels=3, base_channel=16),
    decode_head=dict(in_channels=4 * 16, channels=4 * 16),
)
