# HANet (DOI 10.1109/JSTARS.2023.3264802); trained from random weights.
_base_ = './fc_ef.py'

model = dict(
    backbone=dict(type='HAN', in_channels=3, base_channel=40),
    decode_head=dict(in_channels=2 * 40, channels=2 * 40),
)
