# The O-P cascade, for testing: mtkd-cd test configs/op/ban_vitl14_mitb2.py
_base_ = '../origin/ban_vitl14_mitb2.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'op', '{{fileBasenameNoExtension}}'))
