"""The vision transformer of CLIP (arXiv:2103.00020), BAN's image encoder: mmseg's, with fused
attention."""

import math
from typing import Any

from mmseg.models.backbones import VisionTransformer as MMSegVisionTransformer
from torch import Tensor

from mtkd_cd.core.checkpoint import read_weights
from mtkd_cd.models.layers import fuse_attention
from mtkd_cd.models.pretrained import load_published
from mtkd_cd.registry import MODELS

# Parts of OpenAI's names and mmseg's.
_OPENAI = (
    ('transformer.resblocks.', 'layers.'),
    ('.ln_1.', '.ln1.'),
    ('.ln_2.', '.ln2.'),
    ('.attn.', '.attn.attn.'),
    ('.mlp.c_fc.', '.ffn.layers.0.0.'),
    ('.mlp.c_proj.', '.ffn.layers.1.'),
    ('conv1.', 'patch_embed.projection.'),
    ('class_embedding', 'cls_token'),
    ('positional_embedding', 'pos_embed'),
)


@MODELS.register_module()
class VisionTransformer(MMSegVisionTransformer):
    """mmseg's encoder, which loads CLIP's weights in OpenAI's naming too, and refuses a file that
    lacks some.

    Takes the arguments of mmseg's ``VisionTransformer``. ``init_cfg`` of type ``Pretrained_Part``
    loads what a file holds under ``image_encoder.``; layers that the encoder does not have are left
    out.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        fuse_attention(self)

    def init_weights(self) -> None:
        """Initialise at random, or load the file that ``init_cfg`` names.

        Raises:
            UserError: A file that cannot be read, or is of another network.
        """
        if not isinstance(self.init_cfg, dict) or self.init_cfg.get('type') not in (
            'Pretrained',
            'Pretrained_Part',
        ):
            super().init_weights()
            return
        checkpoint = self.init_cfg['checkpoint']
        weights = clip_weights(read_weights(checkpoint))
        if 'pos_embed' in weights:
            weights['pos_embed'] = self._fit_pos_embed(weights['pos_embed'])
        # Open-CD's encoders of supervised weights have CLIP's first norm, which those weights lack,
        # and leave it at 1 and 0.
        load_published(self, weights, checkpoint, optional=('ln_pre',))

    def _fit_pos_embed(self, pos_embed: Tensor) -> Tensor:
        if pos_embed.shape == self.pos_embed.shape:
            return pos_embed
        side = math.isqrt(pos_embed.shape[1] - 1)
        height, width = (length // self.patch_size for length in self.img_size)
        return self.resize_pos_embed(
            pos_embed.float(), (height, width), (side, side), self.interpolate_mode
        )

    def train(self, mode: bool = True) -> 'VisionTransformer':
        """As in torch; mmseg's forgets to return the module."""
        super().train(mode)
        return self


def clip_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the image encoder's tensors out of a file of CLIP's, by mmseg's names. The file may have
    OpenAI's names (``visual.transformer...``) or mmseg's, with or without ``image_encoder.`` before
    them."""
    if not any(key.startswith('visual.') for key in weights):
        prefix = (
            'image_encoder.' if any(key.startswith('image_encoder.') for key in weights) else ''
        )
        return {
            key.removeprefix(prefix): value
            for key, value in weights.items()
            if key.startswith(prefix)
        }
    renamed = {}
    for key, value in weights.items():
        if key.startswith('visual.'):
            name = key.removeprefix('visual.')
            for theirs, ours in _OPENAI:
                name = name.replace(theirs, ours)
            # One axis more: (C) to (1, 1, C), (1 + P, C) to (1, 1 + P, C)
            renamed[name] = (
                value.expand(1, 1, -1)
                if name == 'cls_token'
                else value[None]
                if name == 'pos_embed'
                else value
            )
    return renamed
