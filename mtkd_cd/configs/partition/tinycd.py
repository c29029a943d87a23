# A specialist: mtkd-cd train configs/partition/tinycd.py --range small|medium|large
_base_ = '../origin/tinycd.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'partition', '{{fileBasenameNoExtension}}'))
