"""Attention over feature maps."""

import torch.nn.functional as F
from torch import Tensor


def attend_everywhere(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None
) -> Tensor:
    """Let every position attend to all, in torch's fused kernel where it has one: no (positions,
    positions) matrix is kept.

    Args:
        query: (N, C, h, w).
        key: As ``query``.
        value: (N, D, h, w).
        scale: Factor of the scores; default: 1 / sqrt(C).

    Returns:
        (N, D, h, w).
    """
    # One head: the fused kernels want four axes.
    q, k, v = (
        x.flatten(2).transpose(1, 2).unsqueeze(1) for x in (query, key, value)
    )  # (N, 1, h * w, channels)
    attended = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return attended.squeeze(1).transpose(1, 2).unflatten(-1, value.shape[2:])
