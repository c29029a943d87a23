# A specialist: mtkd-cd train configs/partition/ban_vitl14_mitb2.py --range small|medium|large
_base_ = '../origin/ban_vitl14_mitb2.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'partition', '{{fileBasenameNoExtension}}'))
