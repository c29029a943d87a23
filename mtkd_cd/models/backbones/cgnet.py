"""CGNet (DOI 10.1109/JSTARS.2023.3310208): a coarse guide map of the change steers attention on the
way back up."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtkd_cd.models.backbones.vgg import vgg16_features
from mtkd_cd.models.layers import attend_everywhere, check_divisible, on_both_dates
from mtkd_cd.models.pretrained import PretrainedBackbone
from mtkd_cd.registry import MODELS


def _conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(
        OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels), relu=nn.ReLU(inplace=True))
    )


def _enlarge(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size, mode='bilinear', align_corners=True)


class ChangeGuide(nn.Module):
    """Attention over all positions, whose queries, keys and values are stronger where the guide map
    sees change.

    Args:
        channels: Channels C of the features.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Features (N, C, h, w) and guide logits (N, 1, ...) to features of the same shape."""
        strength = 1 + _enlarge(guide, x.shape[2:]).sigmoid()
        query, key, value = (
            conv(x) * strength for conv in (self.query_conv, self.key_conv, self.value_conv)
        )
        return self.gamma * attend_everywhere(query, key, value, scale=1.0) + x


@MODELS.register_module()
class CGNet(PretrainedBackbone):
    """The whole network, up to the logits. mmseg's backbone of this name is found as
    ``mmseg.CGNet``.

    Args:
        pretrained: ImageNet weights of VGG16-BN, in torchvision's layout. A path or URL; True: the
            usual file; False: none.

    Raises:
        UserError: In ``forward``, sides that are no multiples of 16.
    """

    weights_url = 'https://download.pytorch.org/models/vgg16_bn-6c64b313.pth'

    def __init__(self, pretrained: bool | str | None = True):
        super().__init__(pretrained)
        # Each part ends behind a ReLU, and so gives its map, but the last: its map goes on with
        # negative values.
        vgg = vgg16_features(with_bn=True)
        self.inc, self.down1, self.down2, self.down3, self.down4 = (
            vgg[:6],
            vgg[6:13],
            vgg[13:23],
            vgg[23:33],
            vgg[33:42],
        )
        self.conv_reduce_1 = _conv_bn_relu(256, 128)
        self.conv_reduce_2 = _conv_bn_relu(512, 256)
        self.conv_reduce_3 = _conv_bn_relu(1024, 512)
        self.conv_reduce_4 = _conv_bn_relu(1024, 512)
        # In published checkpoints, and in no formula.
        self.up_layer4 = _conv_bn_relu(512, 512).requires_grad_(False)
        self.up_layer3 = _conv_bn_relu(512, 512).requires_grad_(False)
        self.up_layer2 = _conv_bn_relu(256, 256).requires_grad_(False)
        self.decoder = nn.Sequential(_conv_bn_relu(512, 64), nn.Conv2d(64, 1, 3, padding=1))
        self.decoder_final = nn.Sequential(_conv_bn_relu(128, 64), nn.Conv2d(64, 1, 1))
        self.cgm_2 = ChangeGuide(256)
        self.cgm_3 = ChangeGuide(512)
        self.cgm_4 = ChangeGuide(512)
        self.decoder_module4 = _conv_bn_relu(1024, 512)
        self.decoder_module3 = _conv_bn_relu(768, 256)
        self.decoder_module2 = _conv_bn_relu(384, 128)

    def published_keys(self) -> dict[str, str]:
        parts = ('inc.', 'down1.', 'down2.', 'down3.', 'down4.')
        return {
            key: 'features.' + key.split('.', 1)[1]
            for key in self.state_dict()
            if key.startswith(parts)
        }

    def _encode(self, x: Tensor) -> list[Tensor]:
        maps = [self.inc(x)]
        for part in (self.down1, self.down2, self.down3, self.down4):
            maps.append(part(maps[-1]))
        return maps[1:]

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the guide map and of the change map, (N, 1, H, W) each, of two (N, 3, H, W)
        images."""
        check_divisible('CGNet', x1, 16)
        maps1, maps2 = on_both_dates(self._encode, x1, x2, weights=self)
        reduces = (self.conv_reduce_1, self.conv_reduce_2, self.conv_reduce_3, self.conv_reduce_4)
        # Date B's channels come first. Strides 2, 4, 8 and 16.
        maps = [
            reduce(torch.cat((map2, map1), dim=1))
            for reduce, map1, map2 in zip(reduces, maps1, maps2)
        ]
        x = maps.pop()
        guide = self.decoder(_enlarge(x, maps[0].shape[2:]))
        steps = (
            (self.cgm_4, self.decoder_module4),
            (self.cgm_3, self.decoder_module3),
            (self.cgm_2, self.decoder_module2),
        )
        for attend, decode in steps:
            skip = maps.pop()
            x = decode(torch.cat((_enlarge(attend(x, guide), skip.shape[2:]), skip), dim=1))
        size = x1.shape[2:]
        return _enlarge(guide, size), _enlarge(self.decoder_final(x), size)
