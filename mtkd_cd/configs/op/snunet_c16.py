# The O-P cascade, for testing: mtkd-cd test configs/op/snunet_c16.py
_base_ = '../origin/snunet_c16.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'op', '{{fileBasenameNoExtension}}'))
