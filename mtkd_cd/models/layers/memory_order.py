"""The order in which maps lie in memory."""

from torch import Tensor


def lies_by_pixel(x: Tensor) -> bool:
    """Whether an (N, C, ...) map is in channels-last order: a pixel's channels side by side."""
    return x.stride(1) == 1


def to_order_of(pattern: Tensor, x: Tensor) -> Tensor:
    """``x``, in channels-last order where ``pattern`` lies so.

    What mixes maps of two orders reads one of them in steps of a whole row of channels, and takes
    several times as long.
    """
    # Not `memory_format=`, which vmap does not take.
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if lies_by_pixel(pattern) else x
