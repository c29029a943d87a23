# A specialist: mtkd-cd train configs/partition/changeformer_mitb0.py --range small|medium|large
_base_ = '../origin/changeformer_mitb0.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'partition', '{{fileBasenameNoExtension}}'))
