# A specialist: mtkd-cd train configs/partition/bit_r18.py --range small|medium|large
_base_ = '../origin/bit_r18.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'partition', '{{fileBasenameNoExtension}}'))
