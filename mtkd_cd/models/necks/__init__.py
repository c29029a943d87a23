"""Necks: what happens to the features of both dates between backbone and head."""

from mtkd_cd.models.necks.feature_fusion import FeatureFusionNeck

__all__ = ['FeatureFusionNeck']
