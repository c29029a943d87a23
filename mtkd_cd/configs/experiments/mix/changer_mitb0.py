_base_ = '../../origin/changer_mitb0.py'
from mtkd_cd.experiments.mixture import mixture
globals().update(mixture(('gzcd', 'clcd', 'levir')))
