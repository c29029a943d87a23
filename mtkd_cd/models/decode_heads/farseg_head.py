"""FarSeg's head (arXiv:2011.09766): the scene weighs the foreground of every level, a light decoder
adds the levels up."""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.decode_heads.base import DecodeHead
from mtkd_cd.registry import MODELS


class FSRelation(BaseModule):
    """Foreground-scene relation: each pixel of a level is weighed by how well it agrees with the
    scene.

    Args:
        scene_channels: Channels of the scene embedding.
        in_channels: Channels of the levels.
        channels: Channels in which scene and pixels are compared, and of the results.
        norm_cfg: Norm of the convolutions on the levels.
    """

    def __init__(
        self,
        scene_channels: int,
        in_channels: Sequence[int],
        channels: int,
        norm_cfg: dict[str, Any] | None,
    ):
        super().__init__()
        self.scene_encoder = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(scene_channels, channels, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 1),
            )
            for _ in in_channels
        )
        # Published checkpoints number the convolution inside each encoder too.
        self.content_encoders, self.feature_reencoders = (
            nn.ModuleList(
                nn.Sequential(ConvModule(width, channels, 1, norm_cfg=norm_cfg))
                for width in in_channels
            )
            for _ in range(2)
        )

    def forward(self, scene: Tensor, levels: Sequence[Tensor]) -> list[Tensor]:
        """A scene embedding (N, scene_channels, 1, 1) and levels (N, C_i, h_i, w_i) to levels (N,
        channels, h_i, w_i)."""
        branches = zip(self.scene_encoder, self.content_encoders, self.feature_reencoders, levels)
        return [
            (encode_scene(scene) * encode_content(level)).sum(1, keepdim=True).sigmoid()
            * reencode(level)
            for encode_scene, encode_content, reencode, level in branches
        ]


class LightDecoder(BaseModule):
    """Bring levels, each half as large as the one before, to the size of the first, and average
    them.

    Args:
        in_channels: Channels of every level.
        channels: Channels of the result.
        num_levels: Number of levels.
        norm_cfg: Norm of the convolutions.
    """

    def __init__(self, in_channels: int, channels: int, num_levels: int, norm_cfg: dict[str, Any]):
        super().__init__()
        self.blocks = nn.ModuleList()
        for level in range(num_levels):
            steps = []
            for width in [in_channels] + [channels] * (max(level, 1) - 1):
                convolution = ConvModule(width, channels, 3, padding=1, norm_cfg=norm_cfg)
                enlarge = nn.UpsamplingBilinear2d(scale_factor=2) if level else nn.Identity()
                steps.append(nn.Sequential(convolution, enlarge))
            self.blocks.append(nn.Sequential(*steps))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels (N, in_channels, h / 2^i, w / 2^i) to (N, channels, h, w)."""
        maps = [block(level) for block, level in zip(self.blocks, levels)]
        return torch.stack(maps).mean(0)


@MODELS.register_module()
class FarSegHead(DecodeHead):
    """FarSeg's head, for one date.

    Args:
        fsr_channels: Channels in which the scene and the pixels are compared.
        kwargs: Arguments of mmseg's ``BaseDecodeHead``. The last input is the scene embedding (N,
            C, 1, 1), the others are levels, each half as large as the one before. Without
            ``norm_cfg`` the decoder alone has batch norm, as in Open-CD.
    """

    def __init__(self, fsr_channels: int, **kwargs: Any):
        super().__init__(input_transform='multiple_select', **kwargs)
        *in_channels, scene_channels = self.in_channels
        self._fsr = FSRelation(scene_channels, in_channels, fsr_channels, self.norm_cfg)
        self._decoder = LightDecoder(
            fsr_channels, self.channels, len(in_channels), self.norm_cfg or dict(type='BN')
        )
        self.conv_seg = nn.Conv2d(self.channels, self.out_channels, 3)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (N, out_channels, h - 2, w - 2), (h, w) being the size of the first level.

        Raises:
            UserError: A level that is not half as large as the one before.
        """
        *levels, scene = self._transform_inputs(inputs)
        height, width = levels[0].shape[2:]
        divisor = 2 ** (len(levels) - 1)
        if height % divisor or width % divisor:
            raise UserError(
                f'FarSegHead needs its {len(levels)} levels to halve exactly, so sides of the '
                f'first in multiples of {divisor}, found '
                f'{height} x {width}: pad the images to multiples of 32 (size_divisor=32 of the '
                'data preprocessor and of its test_cfg; '
                'for sliding windows, crop_size)'
            )
        return self.cls_seg(self._decoder(self._fsr(scene, levels)))
