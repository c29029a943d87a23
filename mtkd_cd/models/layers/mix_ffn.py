"""SegFormer's feed-forward block (arXiv:2105.15203)."""

from mmseg.models.backbones.mit import MixFFN
from torch import Tensor


class MapMixFFN(MixFFN):
    """The block on (N, C, H, W) maps instead of tokens.

    Takes the arguments of mmseg's ``MixFFN``.
    """

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """Add what the block makes of ``x`` to ``identity``, by default ``x``."""
        return (x if identity is None else identity) + self.dropout_layer(self.layers(x))
