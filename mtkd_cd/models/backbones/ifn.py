"""IFN (DOI 10.1016/j.isprsjprs.2020.06.003): a frozen VGG16 sees either date, a decoder with
attention sees the difference."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtkd_cd.models.backbones.vgg import vgg16_features
from mtkd_cd.models.layers import check_divisible, on_both_dates
from mtkd_cd.models.pretrained import PretrainedBackbone
from mtkd_cd.registry import MODELS

_TAPS = (3, 8, 15, 22, 29)  # the last ReLU before each pooling layer, and the last of all
_CHANNELS = (512, 512, 256, 128, 64)  # of the taps, deepest first
# Channels of the convolutions of each level of the decoder, deepest first.
_LEVELS = ((512, 512), (512, 256, 256), (256, 128, 128), (128, 64, 64), (64, 32, 16))


class VGG16Encoder(nn.Module):
    """The maps of VGG16 (arXiv:1409.1556) at strides 1, 2, 4, 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.features = vgg16_features()

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in _TAPS:
                maps.append(x)
        return maps


def _conv_prelu_bn(in_channels: int, out_channels: int, use_dropout: bool) -> nn.Sequential:
    dropout = [nn.Dropout(0.6)] if use_dropout else []
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.PReLU(),
        nn.BatchNorm2d(out_channels),
        *dropout,
    )


class _Seq(nn.Module):
    """A sequence under the name that published checkpoints have for it."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.seq = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class ChannelAttention(nn.Module):
    """Weights (N, C, 1, 1) of the channels of (N, C, h, w), from their means and maxima."""

    def __init__(self, channels: int, ratio: int = 8):
        super().__init__()
        self.fc1 = _Seq(nn.Conv2d(channels, channels // ratio, 1, bias=False))
        self.fc2 = _Seq(nn.Conv2d(channels // ratio, channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        pooled = (F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1))
        mean, largest = (self.fc2(self.fc1(values).relu()) for values in pooled)
        return (mean + largest).sigmoid()


class SpatialAttention(nn.Module):
    """Weights (N, 1, h, w) of the positions of (N, C, h, w), from the mean and the maximum over the
    channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = _Seq(
            nn.Identity(), nn.Conv2d(2, 1, 7, padding=3, bias=False)
        )  # padding is a layer in published checkpoints

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(
            torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)
        ).sigmoid()


@MODELS.register_module()
class IFN(PretrainedBackbone):
    """The whole network, up to the logits. The encoder, VGG16 up to its last ReLU, is not trained.

    Args:
        use_dropout: Dropout (0.6) behind every convolution of the decoder.
        pretrained: ImageNet weights of the encoder, in torchvision's layout. A path or URL; True:
            the usual file; False: none.

    Raises:
        UserError: In ``forward``, sides that are no multiples of 16.
    """

    weights_url = 'https://download.pytorch.org/models/vgg16-397923af.pth'

    def __init__(self, use_dropout: bool = False, pretrained: bool | str | None = True):
        super().__init__(pretrained)
        # One encoder under two names: published checkpoints hold it twice, and the second copy
        # counts.
        self.encoder1 = self.encoder2 = VGG16Encoder().requires_grad_(False)
        # In published checkpoints, and in no formula.
        self.ca1 = ChannelAttention(1024).requires_grad_(False)
        self.bn_ca1 = nn.BatchNorm2d(1024).requires_grad_(False)
        self.bn_ca2 = nn.BatchNorm2d(1536).requires_grad_(False)
        above = 0
        for level, (encoded, widths) in enumerate(zip(_CHANNELS, _LEVELS), start=1):
            channels = above + 2 * encoded
            if level > 1:
                setattr(
                    self, f'trans_conv{level - 1}', nn.ConvTranspose2d(above, above, 2, stride=2)
                )
                setattr(self, f'ca{level}', ChannelAttention(channels))
            for i, width in enumerate(widths, start=1):
                setattr(self, f'o{level}_conv{i}', _conv_prelu_bn(channels, width, use_dropout))
                channels = width
            setattr(self, f'sa{level}', SpatialAttention())
            setattr(self, f'bn_sa{level}', nn.BatchNorm2d(channels))
            setattr(self, f'o{level}_conv{len(widths) + 1}', _Seq(nn.Conv2d(channels, 1, 1)))
            above = channels

    def published_keys(self) -> dict[str, str]:
        encoder = 'encoder1.'
        return {
            key: key.removeprefix(encoder) for key in self.state_dict() if key.startswith(encoder)
        }

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, ...]:
        """Logits (N, 1, ...) at strides 16, 8, 4, 2 and 1 of two (N, 3, H, W) images."""
        check_divisible('IFN', x1, 16)
        maps1, maps2 = on_both_dates(self.encoder1, x1, x2, weights=self.encoder1)
        x, logits = None, []
        for level, (map1, map2) in enumerate(zip(maps1[::-1], maps2[::-1]), start=1):
            x = self._decode(level, x, map1, map2)
            logits.append(getattr(self, f'o{level}_conv{len(_LEVELS[level - 1]) + 1}')(x))
        return tuple(logits)

    def _decode(self, level: int, above: Tensor | None, map1: Tensor, map2: Tensor) -> Tensor:
        x = torch.cat((map1, map2), dim=1)
        if above is not None:
            x = torch.cat((getattr(self, f'trans_conv{level - 1}')(above), x), dim=1)
            x = getattr(self, f'ca{level}')(x) * x
        for i in range(1, len(_LEVELS[level - 1]) + 1):
            x = getattr(self, f'o{level}_conv{i}')(x)
        x = getattr(self, f'sa{level}')(x) * x
        return getattr(self, f'bn_sa{level}')(x)
