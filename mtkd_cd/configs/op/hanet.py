# The O-P cascade, for testing: mtkd-cd test configs/op/hanet.py
_base_ = '../origin/hanet.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'op', '{{fileBasenameNoExtension}}'))
