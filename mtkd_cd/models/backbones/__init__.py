"""Backbones under Open-CD's names; mmseg's are found without a prefix too."""

from mtkd_cd.models.backbones.fcn import FC_EF, FC_Siam_conc, FC_Siam_diff
from mtkd_cd.models.backbones.mit import IA_MixVisionTransformer, MixVisionTransformer
from mtkd_cd.models.backbones.tinycd import TinyCD

__all__ = [
    'FC_EF',
    'FC_Siam_conc',
    'FC_Siam_diff',
    'IA_MixVisionTransformer',
    'MixVisionTransformer',
    'TinyCD',
]
