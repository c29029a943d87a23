"""The detector of BAN (arXiv:2312.01163)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.detectors.encoder_decoder import BitemporalEncoderDecoder
from mtkd_cd.models.layers import split_dates, stack_dates
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class BAN(BitemporalEncoderDecoder):
    """A frozen image encoder of a foundation model, and a head that holds a change detector and
    takes what the encoder sees.

    Args:
        image_encoder: Config of the encoder.
        decode_head: Config of the head, for instance a ``BitemporalAdapterHead``.
        pretrained: Checkpoint (path or URL) for the encoder, of which the tensors under
            ``image_encoder.`` are taken.
        asymetric_input: The encoder sees the images at a size of its own (Open-CD's spelling).
        encoder_resolution: That size: arguments of ``torch.nn.functional.interpolate``.
        kwargs: Further arguments of :class:`BitemporalEncoderDecoder`.

    Raises:
        UserError: ``asymetric_input`` without ``encoder_resolution``.
    """

    def __init__(
        self,
        image_encoder: dict[str, Any],
        decode_head: dict[str, Any],
        pretrained: str | None = None,
        asymetric_input: bool = True,
        encoder_resolution: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(image_encoder, decode_head, **kwargs)
        if asymetric_input and encoder_resolution is None:
            raise UserError(
                'BAN with asymetric_input needs encoder_resolution, found None; '
                "for instance encoder_resolution=dict(size=(336, 336), mode='bilinear')"
            )
        # Its name in published checkpoints; mmseg's parent class builds it as `backbone`.
        self.image_encoder = self.backbone
        del self.backbone
        self.encoder_resolution = encoder_resolution if asymetric_input else None
        if pretrained is not None:
            self.image_encoder.init_cfg = dict(type='Pretrained_Part', checkpoint=pretrained)
            self.image_encoder.pretrained_switch = 'model.pretrained=None'

    def extract_feat(self, inputs: Tensor) -> list[Any]:
        """What the head takes of (N, 2C, H, W) pairs: the image of date A, that of date B, and the
        encoder's maps of A and of B."""
        date1, date2 = self.split_dates(inputs)
        images = stack_dates(date1, date2)
        if self.encoder_resolution:
            images = F.interpolate(images, **self.encoder_resolution)
        with torch.set_grad_enabled(
            torch.is_grad_enabled()
            and any(p.requires_grad for p in self.image_encoder.parameters())
        ):
            features = self.image_encoder(images)
        maps = [
            level if isinstance(level, Tensor) else level[0] for level in features
        ]  # beside a map comes its class token
        return [date1, date2, *split_dates(maps)]
