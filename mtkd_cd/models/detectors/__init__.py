"""Change detectors in mmseg's form: ``forward(inputs, data_samples, mode)`` with both dates on the
channel axis of ``inputs``."""

from mtkd_cd.models.detectors.ban import BAN
from mtkd_cd.models.detectors.encoder_decoder import DIEncoderDecoder, SiamEncoderDecoder
from mtkd_cd.models.detectors.ttp import TimeTravellingPixels

__all__ = [
    'BAN',
    'DIEncoderDecoder',
    'SiamEncoderDecoder',
    'TimeTravellingPixels',
]
