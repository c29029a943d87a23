"""Necks: what happens to the features of both dates between backbone and head."""

from mtkd_cd.models.necks.farseg_fpn import FarSegFPN
from mtkd_cd.models.necks.feature_fusion import FeatureFusionNeck
from mtkd_cd.models.necks.sequential import SequentialNeck
from mtkd_cd.models.necks.simple_fpn import SimpleFPN
from mtkd_cd.models.necks.tiny_fpn import TinyFPN

__all__ = [
    'FarSegFPN',
    'FeatureFusionNeck',
    'SequentialNeck',
    'SimpleFPN',
    'TinyFPN',
]
