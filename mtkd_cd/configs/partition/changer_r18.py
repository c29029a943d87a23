# A specialist: mtkd-cd train configs/partition/changer_r18.py --range small|medium|large
_base_ = '../origin/changer_r18.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'partition', '{{fileBasenameNoExtension}}'))
