"""Decode heads under Open-CD's names; mmseg's are found without a prefix too."""

from mtkd_cd.models.decode_heads.ban import BAN_BITHead, BAN_MLPDecoder, BitemporalAdapterHead
from mtkd_cd.models.decode_heads.bit import BITHead
from mtkd_cd.models.decode_heads.changer import Changer
from mtkd_cd.models.decode_heads.changestar import ChangeStarHead
from mtkd_cd.models.decode_heads.ds_fpn_head import DS_FPNHead
from mtkd_cd.models.decode_heads.farseg_head import FarSegHead
from mtkd_cd.models.decode_heads.fcn_head import FCNHead
from mtkd_cd.models.decode_heads.identity_head import DSIdentityHead, IdentityHead
from mtkd_cd.models.decode_heads.mlp_seg_head import MLPSegHead
from mtkd_cd.models.decode_heads.ohem import OHEMPixelSampler
from mtkd_cd.models.decode_heads.stanet import STAHead

__all__ = [
    'BAN_BITHead',
    'BAN_MLPDecoder',
    'BITHead',
    'BitemporalAdapterHead',
    'ChangeStarHead',
    'Changer',
    'DSIdentityHead',
    'DS_FPNHead',
    'FCNHead',
    'FarSegHead',
    'IdentityHead',
    'MLPSegHead',
    'OHEMPixelSampler',
    'STAHead',
]
