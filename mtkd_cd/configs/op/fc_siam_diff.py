# The O-P cascade, for testing: mtkd-cd test configs/op/fc_siam_diff.py
_base_ = '../origin/fc_siam_diff.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'op', '{{fileBasenameNoExtension}}'))
