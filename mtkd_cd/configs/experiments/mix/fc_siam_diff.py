_base_ = '../../origin/fc_siam_diff.py'
from mtkd_cd.experiments.mixture import mixture
globals().update(mixture(('gzcd', 'clcd', 'levir')))
