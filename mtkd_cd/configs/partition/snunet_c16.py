# A specialist: mtkd-cd train configs/partition/snunet_c16.py --range small|medium|large
_base_ = '../origin/snunet_c16.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'partition', '{{fileBasenameNoExtension}}'))
