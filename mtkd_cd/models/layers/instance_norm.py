"""Instance norm in any memory order."""

import torch
from torch import Tensor, nn


class AnyOrderInstanceNorm(nn.Module):
    """What ``nn.InstanceNorm2d`` without weights and running statistics computes, in place of it
    where maps lie in channels-last order: torch's own copies them into plain order, and the
    convolution after it copies them back.

    For prediction; it keeps more for a gradient than torch's.

    Args:
        eps: Added to the variance.
    """

    def __init__(self, eps: float = 1e-5):
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each image of (N, C, H, W) over its pixels."""
        # Statistics of bfloat16 are float32, as torch's.
        centred = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = centred - centred.mean((2, 3), keepdim=True)
        variance = centred.square().mean((2, 3), keepdim=True)
        return (centred * (variance + self.eps).rsqrt()).to(x.dtype)
