# The O-P cascade, for testing: mtkd-cd test configs/op/lightcdnet_s.py
_base_ = '../origin/lightcdnet_s.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'op', '{{fileBasenameNoExtension}}'))
