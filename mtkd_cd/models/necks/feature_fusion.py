"""The neck without parameters that makes one feature pyramid of two."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor

from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import MODELS

_FUSIONS = {
    'concat': lambda x1, x2: torch.cat((x1, x2), dim=1),
    'sum': lambda x1, x2: x1 + x2,
    'diff': lambda x1, x2: x2 - x1,
    'abs_diff': lambda x1, x2: (x1 - x2).abs(),
}


@MODELS.register_module()
class FeatureFusionNeck(BaseModule):
    """Fuse the feature maps of the two dates, level by level.

    Args:
        policy: ``concat`` [date A; date B] (2C channels), ``sum``, ``diff`` (date B - date A) or
            ``abs_diff`` (C channels).
        in_channels: Not used; accepted because Open-CD's configs give it.
        channels: As ``in_channels``.
        out_indices: The levels to return, in this order.

    Raises:
        UserError: Unknown policy.
    """

    def __init__(
        self,
        policy: str,
        in_channels: int | Sequence[int] | None = None,
        channels: int | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
    ):
        super().__init__()
        if policy not in _FUSIONS:
            raise UserError(
                f'FeatureFusionNeck: policy must be one of {", ".join(_FUSIONS)}, found {policy!r}'
            )
        self.policy = policy
        self.out_indices = tuple(out_indices)

    @staticmethod
    def fusion(x1: Tensor, x2: Tensor, policy: str) -> Tensor:
        """Fuse one level: two (N, C, H, W) maps to (N, C or 2C, H, W)."""
        return _FUSIONS[policy](x1, x2)

    def forward(self, x1: Sequence[Tensor], x2: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if max(self.out_indices) >= len(x1):
            raise UserError(
                f'FeatureFusionNeck: out_indices {self.out_indices} asks for more levels than the '
                f'{len(x1)} the backbone returns'
            )
        return tuple(self.fusion(x1[i], x2[i], self.policy) for i in self.out_indices)
