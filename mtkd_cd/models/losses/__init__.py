"""Losses that mmseg does not have."""

from mtkd_cd.models.losses.bcl import BCLLoss
from mtkd_cd.models.losses.change_map import ChangeMapLoss, ChangeMapMSELoss
from mtkd_cd.models.losses.dice import DiceLoss

__all__ = [
    'BCLLoss',
    'ChangeMapLoss',
    'ChangeMapMSELoss',
    'DiceLoss',
]
