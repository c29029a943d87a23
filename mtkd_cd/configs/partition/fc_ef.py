# A specialist: mtkd-cd train configs/partition/fc_ef.py --range small|medium|large
_base_ = '../origin/fc_ef.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'partition', '{{fileBasenameNoExtension}}'))
