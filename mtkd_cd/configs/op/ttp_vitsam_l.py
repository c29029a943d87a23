# The O-P cascade, for testing: mtkd-cd test configs/op/ttp_vitsam_l.py
_base_ = '../origin/ttp_vitsam_l.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'op', '{{fileBasenameNoExtension}}'))
