"""Channel shuffle with two groups (ShuffleNet, arXiv:1707.01083)."""

import torch
from torch import Tensor


def interleave_channels(x1: Tensor, x2: Tensor) -> Tensor:
    """Two (N, C, H, W) maps to (N, 2C, H, W): channel 0 of the first, of the second, channel 1 of
    the first, ..."""
    return torch.stack((x1, x2), dim=2).flatten(1, 2)
