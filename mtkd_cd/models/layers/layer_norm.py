"""Layer norm over the channels of a map."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtkd_cd.registry import MODELS


@MODELS.register_module()
class LN2d(nn.LayerNorm):
    """Normalise every pixel of an (N, C, H, W) map over its channels (the norm of SAM's and
    ConvNeXt's convolutions).

    Args:
        num_channels: C.
        eps: Added to the variance.
        elementwise_affine: Scale and shift every channel.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5, elementwise_affine: bool = True):
        super().__init__(num_channels, eps, elementwise_affine)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(
            x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps
        ).permute(0, 3, 1, 2)


class ChannelNorm(nn.Module):
    """Layer norm over channels, written out. LightCDNet and BAN's projections compute it so, and
    the paper's counts of operations leave it out.

    Args:
        channels: C.
        eps: Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        return (x - mean) / (variance + self.eps).sqrt() * self.weight[:, None, None] + self.bias[
            :, None, None
        ]
