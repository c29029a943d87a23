_base_ = '../../origin/lightcdnet_s.py'
from mtkd_cd.experiments.mixture import mixture
globals().update(mixture(('gzcd', 'clcd', 'levir')))
