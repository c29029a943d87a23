# A specialist: mtkd-cd train configs/partition/cgnet_vgg16.py --range small|medium|large
_base_ = '../origin/cgnet_vgg16.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'partition', '{{fileBasenameNoExtension}}'))
