"""The models: detectors and their parts, and the two that make them a method, the cascade (O-P) and
the distiller (MTKD)."""

from mtkd_cd.models import backbones, decode_heads, detectors, layers, necks
from mtkd_cd.models.data_preprocessor import DualInputSegDataPreProcessor
from mtkd_cd.models.losses import ChangeMapMSELoss
from mtkd_cd.models.mtkd.cascade import OriginPartitionCascade
from mtkd_cd.models.mtkd.distiller import MultiTeacherDistiller

__all__ = [
    'ChangeMapMSELoss',
    'DualInputSegDataPreProcessor',
    'MultiTeacherDistiller',
    'OriginPartitionCascade',
    'backbones',
    'decode_heads',
    'detectors',
    'layers',
    'necks',
]
