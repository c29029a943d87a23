# The student: learns from labels and from the specialist of each image's CAR range.
_base_ = '../origin/fc_ef.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'mtkd', '{{fileBasenameNoExtension}}', loss_weight=1e-4))
