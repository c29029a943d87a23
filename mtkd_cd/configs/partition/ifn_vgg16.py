# A specialist: mtkd-cd train configs/partition/ifn_vgg16.py --range small|medium|large
_base_ = '../origin/ifn_vgg16.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'partition', '{{fileBasenameNoExtension}}'))
