"""Losses that mmseg does not have."""

from mtkd_cd.models.losses.change_map_mse import ChangeMapMSELoss

__all__ = ['ChangeMapMSELoss']
