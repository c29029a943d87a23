_base_ = '../../origin/tinycd.py'
from mtkd_cd.experiments.mixture import mixture
globals().update(mixture(('gzcd', 'clcd', 'levir')))
