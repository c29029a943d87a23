"""GELU in any memory order."""

from torch import Tensor, nn

from mtkd_cd.models.layers.memory_order import lies_by_pixel


class AnyOrderGELU(nn.GELU):
    """``nn.GELU``, in place of it where bfloat16 maps lie in channels-last order: torch's takes
    twice as long on memory that is not contiguous, and it is contiguous with the channels last.

    Takes the argument of ``nn.GELU``.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4 and lies_by_pixel(x):
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)
        return super().forward(x)
