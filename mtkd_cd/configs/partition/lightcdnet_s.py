# A specialist: mtkd-cd train configs/partition/lightcdnet_s.py --range small|medium|large
_base_ = '../origin/lightcdnet_s.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'partition', '{{fileBasenameNoExtension}}'))
