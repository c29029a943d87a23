# The O-P cascade, for testing: mtkd-cd test configs/op/changestar_upernet_r18.py
_base_ = '../origin/changestar_upernet_r18.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'op', '{{fileBasenameNoExtension}}'))
