# FC-Siam-diff (arXiv:1810.08462); trained from random weights.
_base_ = './fc_ef.py'

model = dict(backbone=dict(type='FC_Siam_diff', in_channels=3))
