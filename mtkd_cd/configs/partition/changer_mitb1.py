# A specialist: mtkd-cd train configs/partition/changer_mitb1.py --range small|medium|large
_base_ = '../origin/changer_mitb1.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'partition', '{{fileBasenameNoExtension}}'))
