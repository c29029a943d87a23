"""ChangeStar-FarSeg's neck (arXiv:2108.07002, arXiv:2011.09766): a feature pyramid and a scene
embedding per date, then their fusion."""

from collections.abc import Sequence
from typing import Any

from mmseg.models.necks import FPN
from torch import Tensor

from mtkd_cd.models.layers import on_both_dates
from mtkd_cd.models.necks.feature_fusion import FeatureFusionNeck
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class FarSegFPN(FPN):
    """mmseg's feature pyramid on either date, followed by the mean of the backbone's last level as
    the scene.

    Args:
        policy: How the dates are fused, as in :class:`FeatureFusionNeck`.
        kwargs: Arguments of mmseg's ``FPN``.
    """

    def __init__(self, policy: str = 'concat', **kwargs: Any):
        super().__init__(**kwargs)
        self.fuse = FeatureFusionNeck(policy, out_indices=range(self.num_outs + 1))

    def _pyramid_and_scene(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (*super().forward(levels), levels[-1].mean((2, 3), keepdim=True))

    def forward(self, x1: Sequence[Tensor], x2: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Levels of either date to ``num_outs`` fused levels and the fused scene embedding (N, C,
        1, 1)."""
        return self.fuse(*on_both_dates(self._pyramid_and_scene, x1, x2, weights=self))
