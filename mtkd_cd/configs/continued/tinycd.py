# The control for MTKD: the origin trained on for the student's iterations, on labels alone.
_base_ = '../origin/tinycd.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'continued', '{{fileBasenameNoExtension}}'))
