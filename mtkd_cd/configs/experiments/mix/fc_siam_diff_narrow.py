# The small student of fc_siam_diff: half the channels, a quarter of the parameters.
_base_ = './fc_siam_diff.py'
model = dict(backbone=dict(base_channel=8), decode_head=dict(in_channels=8, channels=8))
