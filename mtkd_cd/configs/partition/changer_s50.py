# A specialist: mtkd-cd train configs/partition/changer_s50.py --range small|medium|large
_base_ = '../origin/changer_s50.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'partition', '{{fileBasenameNoExtension}}'))
