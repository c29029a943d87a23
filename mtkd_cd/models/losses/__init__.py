"""Losses that mmseg does not have."""

from mtkd_cd.models.losses.bcl import BCLLoss
from mtkd_cd.models.losses.change_map_mse import ChangeMapMSELoss
from mtkd_cd.models.losses.dice import DiceLoss

__all__ = [
    'BCLLoss',
    'ChangeMapMSELoss',
    'DiceLoss',
]
