# The O-P cascade, for testing: mtkd-cd test configs/op/changer_mitb1.py
_base_ = '../origin/changer_mitb1.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'op', '{{fileBasenameNoExtension}}'))
