"""The detector of TTP (arXiv:2312.16202)."""

from collections.abc import Sequence

from torch import Tensor

from mtkd_cd.models.detectors.encoder_decoder import SiamEncoderDecoder
from mtkd_cd.models.layers import split_dates, stack_dates
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class TimeTravellingPixels(SiamEncoderDecoder):
    """A backbone runs on both dates at once, because its layers let them meet. A neck takes its
    first output, a head the neck's.

    Takes the arguments of :class:`SiamEncoderDecoder`.
    """

    def extract_feat(self, inputs: Tensor) -> Sequence[Tensor]:
        """Feature maps of (N, 2C, H, W) image pairs."""
        features = self.backbone(stack_dates(*self.split_dates(inputs)))[
            0
        ]  # (2N, C, h, w): date A's, then date B's
        date1, date2 = split_dates(features)
        return self.neck([date1], [date2])
