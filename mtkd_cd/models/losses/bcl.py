"""STANet's loss (DOI 10.3390/rs12101662)."""

from typing import Any

import torch
from torch import Tensor, nn

from mtkd_cd.core.car import IGNORE_INDEX
from mtkd_cd.registry import MODELS

_LABELS_IGNORE = 255


@MODELS.register_module()
class BCLLoss(nn.Module):
    """Batch-balanced contrastive loss: distances of unchanged pixels shrink, those of changed ones
    grow up to a margin.

    Args:
        margin: Distance from which a changed pixel costs nothing.
        loss_weight: Factor of the loss.
        ignore_index: Label of the pixels that don't count.
        loss_name: Name in the log.
        exact_means: Divide either sum by the number of pixels in it. Open-CD, which this follows by
            default, adds ``ignore_index`` to both numbers, counts ignored pixels as unchanged ones,
            and ignores the label 255 whatever ``ignore_index`` is.
        kwargs: Not used; Open-CD takes any.
    """

    def __init__(
        self,
        margin: float = 2.0,
        loss_weight: float = 1.0,
        ignore_index: int = IGNORE_INDEX,
        loss_name: str = 'bcl_loss',
        exact_means: bool = False,
        **kwargs: Any,
    ):
        super().__init__()
        self.margin = margin
        self.loss_weight = loss_weight
        self.ignore_index = ignore_index
        self.loss_name = loss_name
        self.exact_means = exact_means

    def forward(self, pred: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """The loss of distances (N, 1, H, W) under labels (N, H, W) of 0, 1 and ignored; what
        mmseg's heads pass beside is not used."""
        distance = pred.squeeze(1).to(
            torch.promote_types(pred.dtype, torch.float32)
        )  # autocast's half is too coarse for the sums
        valid = target != (self.ignore_index if self.exact_means else _LABELS_IGNORE)
        changed, unchanged = (target == 1) & valid, (target != 1) & valid
        num_changed, num_unchanged = changed.sum(), unchanged.sum()
        if self.exact_means:
            num_changed, num_unchanged = num_changed.clamp(min=1), num_unchanged.clamp(min=1)
        else:
            num_changed, num_unchanged = (
                num_changed + self.ignore_index,
                (~changed).sum() + self.ignore_index,
            )
        pull = (distance.square() * unchanged).sum() / num_unchanged
        push = ((self.margin - distance).clamp(min=0).square() * changed).sum() / num_changed
        return self.loss_weight * (pull + push)
