# 25 % of the labels; the student learns from the other pairs too, without theirs.
_base_ = '../../origin/fc_siam_diff.py'
from mtkd_cd.experiments.mixture import mixture
globals().update(mixture(('gzcd', 'clcd', 'levir'), labelled_in=4))
