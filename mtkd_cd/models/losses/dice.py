"""The Dice loss for one-channel change maps."""

from typing import Any

from mmseg.models.losses import DiceLoss as MMSegDiceLoss
from mmseg.models.losses.dice_loss import dice_loss
from torch import Tensor

from mtkd_cd.core.car import IGNORE_INDEX
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class DiceLoss(MMSegDiceLoss):
    """mmseg's Dice loss (arXiv:1606.04797), and a corrected one for one-channel logits.

    For those, mmseg takes the one-hot map of class 0 as the target: 1 where nothing changed, 0 at
    changed and ignored pixels. It pulls against the cross-entropy on the same logits.
    ChangeStar-FarSeg's published scores come from that, so it is the default.

    Args:
        change_target: With one-channel logits, compare with the changed pixels and leave ignored
            ones out.
        kwargs: Arguments of mmseg's ``DiceLoss``.
    """

    def __init__(self, change_target: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.change_target = change_target

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        **kwargs: Any,
    ) -> Tensor:
        """Loss of logits (N, C, H, W) against labels (N, H, W); ``weight`` has one entry per
        sample."""
        if not self.change_target or pred.shape[1] != 1:
            return super().forward(pred, target, weight=weight, ignore_index=ignore_index, **kwargs)
        target = target.unsqueeze(1)
        probability = (pred.sigmoid() if self.activate else pred) * (target != ignore_index)
        loss = dice_loss(
            probability,
            target == 1,
            weight,
            self.eps,
            self.reduction,
            self.naive_dice,
            ignore_index=None,
        )
        return self.loss_weight * loss
