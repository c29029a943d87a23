"""Backbones under Open-CD's names; mmseg's are found without a prefix too."""

from mtkd_cd.models.backbones.cgnet import CGNet
from mtkd_cd.models.backbones.fcn import FC_EF, FC_Siam_conc, FC_Siam_diff
from mtkd_cd.models.backbones.hanet import HAN
from mtkd_cd.models.backbones.ia_resnet import IA_ResNeSt, IA_ResNet, IA_ResNetV1c, IA_ResNetV1d
from mtkd_cd.models.backbones.ifn import IFN
from mtkd_cd.models.backbones.lightcdnet import LightCDNet
from mtkd_cd.models.backbones.mit import IA_MixVisionTransformer, MixVisionTransformer
from mtkd_cd.models.backbones.snunet import SNUNet_ECAM
from mtkd_cd.models.backbones.tinycd import TinyCD
from mtkd_cd.models.backbones.vit import VisionTransformer
from mtkd_cd.models.backbones.vit_sam import TimeFusionTransformerEncoderLayer, ViTSAM_Custom
from mtkd_cd.models.backbones.vit_turner import VisionTransformerTurner

__all__ = [
    'FC_EF',
    'HAN',
    'IFN',
    'CGNet',
    'FC_Siam_conc',
    'FC_Siam_diff',
    'IA_MixVisionTransformer',
    'IA_ResNeSt',
    'IA_ResNet',
    'IA_ResNetV1c',
    'IA_ResNetV1d',
    'LightCDNet',
    'MixVisionTransformer',
    'SNUNet_ECAM',
    'TimeFusionTransformerEncoderLayer',
    'TinyCD',
    'ViTSAM_Custom',
    'VisionTransformer',
    'VisionTransformerTurner',
]
