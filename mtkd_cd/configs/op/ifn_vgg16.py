# The O-P cascade, for testing: mtkd-cd test configs/op/ifn_vgg16.py
_base_ = '../origin/ifn_vgg16.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'op', '{{fileBasenameNoExtension}}'))
