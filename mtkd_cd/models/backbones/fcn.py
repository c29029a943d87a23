"""FC-EF, FC-Siam-conc and FC-Siam-diff, the fully convolutional change detectors of
arXiv:1810.08462, up to the last feature map."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtkd_cd.models.layers import norm_relu_conv, on_both_dates
from mtkd_cd.registry import MODELS

_UNITS = {1: 2, 2: 2, 3: 3, 4: 3}  # convolutions in each stage of the encoder and of the decoder


class _FCNet(nn.Module):
    """The U-shaped network that the three share. Layer names are those of the published
    checkpoints.

    Args:
        in_channels: Channels the encoder sees.
        base_channel: Width C of the first stage; the later ones have 2C, 4C and 8C.
        skips: How many encoder maps join the upsampled one in each stage of the decoder.
        dropout: Probability of a channel of every layer to be left out in training.
    """

    conv11d: nn.ConvTranspose2d
    upconv4: nn.ConvTranspose2d

    def __init__(self, in_channels: int, base_channel: int, skips: int = 1, dropout: float = 0.2):
        super().__init__()
        widths = {stage: base_channel * 2 ** (stage - 1) for stage in _UNITS}
        for stage, units in _UNITS.items():
            for unit in range(1, units + 1):
                self._add(f'{stage}{unit}', nn.Conv2d(in_channels, widths[stage], 3, padding=1))
                in_channels = widths[stage]
        for stage, units in _UNITS.items():
            width = widths[stage]
            setattr(
                self,
                f'upconv{stage}',
                nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1),
            )
            for unit in range(units, 0, -1):
                wide = width * (1 + skips) if unit == units else width
                narrow = widths[max(stage - 1, 1)] if unit == 1 else width
                self._add(f'{stage}{unit}d', nn.ConvTranspose2d(wide, narrow, 3, padding=1))
        del self.bn11d  # the last layer is a bare convolution
        self.dropout = nn.Dropout2d(dropout)

    def _add(self, unit: str, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        setattr(self, f'conv{unit}', conv)
        setattr(self, f'bn{unit}', nn.BatchNorm2d(conv.out_channels))

    def _run(self, x: Tensor, units: Sequence[str], after: Sequence[nn.Module] = ()) -> Tensor:
        """Convolve, normalise, drop channels and activate, unit by unit. What comes after the last
        unit is a convolution, or nothing."""
        convs = [getattr(self, f'conv{unit}') for unit in units]
        x = convs[0](x)
        for unit, conv in zip(units, [*convs[1:], *(after or [nn.Identity()])]):
            x = norm_relu_conv(self, x, getattr(self, f'bn{unit}'), self.dropout, conv)
        return x

    def encode(self, x: Tensor) -> list[Tensor]:
        """The last map of the stages 1 to 4, at strides 1, 2, 4 and 8."""
        maps: list[Tensor] = []
        for stage, units in _UNITS.items():
            if maps:
                x = F.max_pool2d(x, 2)
            x = self._run(x, [f'{stage}{unit}' for unit in range(1, units + 1)])
            maps.append(x)
        return maps

    def decode(self, x: Tensor, skips: list[Tensor]) -> tuple[Tensor]:
        """From the pooled last map and one (joined) map per stage to (N, C, H, W)."""
        x = self.upconv4(x)
        for stage in sorted(_UNITS, reverse=True):
            skip = skips[stage - 1]
            if (
                x.shape[2:] != skip.shape[2:]
            ):  # pooling dropped the last row or column of an odd size
                x = F.pad(
                    x,
                    (0, skip.shape[3] - x.shape[3], 0, skip.shape[2] - x.shape[2]),
                    mode='replicate',
                )
            x = torch.cat((x, skip), dim=1)
            units = [f'{stage}{unit}d' for unit in range(_UNITS[stage], 0, -1)]
            # A stage ends in the convolution that leads up; the first in the bare last one.
            after = getattr(self, f'upconv{stage - 1}') if stage > 1 else self.conv11d
            x = self._run(x, units[: None if stage > 1 else -1], [after])
        return (x,)


@MODELS.register_module()
class FC_EF(_FCNet):
    """Early fusion: both dates, stacked, through one encoder.

    Args:
        in_channels: Channels of both dates together.
        base_channel: Channels C of the returned feature map (N, C, H, W), a 1-tuple.
        dropout: Probability of a channel of every layer to be left out in training.
    """

    def __init__(self, in_channels: int, base_channel: int = 16, dropout: float = 0.2):
        super().__init__(in_channels, base_channel, dropout=dropout)

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor]:
        maps = self.encode(torch.cat((x1, x2), dim=1))
        return self.decode(F.max_pool2d(maps[-1], 2), maps)


@MODELS.register_module()
class FC_Siam_conc(_FCNet):
    """A Siamese encoder; the decoder gets the maps of both dates.

    Args:
        in_channels: Channels of one date.
        base_channel: Channels C of the returned feature map (N, C, H, W), a 1-tuple.
        dropout: Probability of a channel of every layer to be left out in training.
    """

    def __init__(self, in_channels: int, base_channel: int = 16, dropout: float = 0.2):
        super().__init__(in_channels, base_channel, skips=2, dropout=dropout)

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor]:
        maps1, maps2 = on_both_dates(self.encode, x1, x2, weights=self)
        # The decoder starts from date B alone, as in the published model.
        return self.decode(
            F.max_pool2d(maps2[-1], 2), [torch.cat(pair, dim=1) for pair in zip(maps1, maps2)]
        )


@MODELS.register_module()
class FC_Siam_diff(_FCNet):
    """A Siamese encoder; the decoder gets the absolute difference of the dates' maps.

    Args:
        in_channels: Channels of one date.
        base_channel: Channels C of the returned feature map (N, C, H, W), a 1-tuple.
        dropout: Probability of a channel of every layer to be left out in training.
    """

    def __init__(self, in_channels: int, base_channel: int = 16, dropout: float = 0.2):
        super().__init__(in_channels, base_channel, dropout=dropout)

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor]:
        maps1, maps2 = on_both_dates(self.encode, x1, x2, weights=self)
        return self.decode(
            F.max_pool2d(maps2[-1], 2), [(map1 - map2).abs() for map1, map2 in zip(maps1, maps2)]
        )
