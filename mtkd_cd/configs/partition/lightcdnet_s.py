# A specialist of one CAR range: tools/train.py configs/partition/lightcdnet_s.py --range small|medium|large
_base_ = '../origin/lightcdnet_s.py'
from mtkd_cd.recipe.derive import stub
globals().update(stub(_base_, 'partition', '{{fileBasenameNoExtension}}'))
