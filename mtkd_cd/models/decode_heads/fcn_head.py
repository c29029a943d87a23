"""mmseg's FCN head (arXiv:1411.4038), which the FC networks, SNUNet and HANet have."""

from mmseg.models.decode_heads import FCNHead as MMSegFCNHead

from mtkd_cd.models.decode_heads.base import DecodeHead
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class FCNHead(DecodeHead, MMSegFCNHead):
    """mmseg's head. Its accuracy does not make the host wait for the device, and costs a tenth."""
