# A specialist: mtkd-cd train configs/partition/ttp_vitsam_l.py --range small|medium|large
_base_ = '../origin/ttp_vitsam_l.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'partition', '{{fileBasenameNoExtension}}'))
