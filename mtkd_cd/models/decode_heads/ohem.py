"""Online hard example mining without sorting all pixels."""

import torch
from mmseg.structures.sampler import OHEMPixelSampler as MMSegOHEMPixelSampler
from torch import Tensor

from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import TASK_UTILS


@TASK_UTILS.register_module()
class OHEMPixelSampler(MMSegOHEMPixelSampler):
    """mmseg's sampler, with the same weights but without its sort of all pixels. A mask finds the
    hard pixels; where they are too few, one order statistic finds the rest.

    Args:
        context: The head, whose ``ignore_index`` and losses are used.
        thresh: Pixels whose true class has a lower probability are hard. None: the pixels of the
            highest loss are hard.
        min_kept: Hard pixels per image to keep at least, over the batch.
    """

    def sample(self, seg_logit: Tensor, seg_label: Tensor) -> Tensor:
        """Weights (N, H, W), 1 for hard pixels and 0 elsewhere, of logits (N, C, H, W) and labels
        (N, 1, H, W).

        Raises:
            UserError: One-channel logits with ``thresh``.
        """
        if self.thresh is None:
            return super().sample(seg_logit, seg_label)
        if seg_logit.shape[1] == 1:
            raise UserError(
                'OHEMPixelSampler with thresh needs a head with out_channels=2, found 1: set '
                'thresh=None'
            )
        with torch.no_grad():
            ignored = seg_label == self.context.ignore_index
            true_class = seg_logit.softmax(dim=1).gather(
                1, seg_label.long().masked_fill(ignored, 0)
            )
            true_class = true_class.masked_fill(ignored, 2).squeeze(
                1
            )  # above any probability: never hard
            hard = true_class < self.thresh
            kept = self.min_kept * len(seg_label)
            # Only the CPU's numbers are read without waiting for the device.
            if hard.device.type != 'cpu' or int(hard.sum()) <= kept:
                hard = true_class < _limit(true_class, kept).clamp(min=self.thresh)
            return hard.to(seg_logit.dtype)


def _limit(probabilities: Tensor, kept: int) -> Tensor:
    """The probability below which at most ``kept`` pixels lie, of those up to 1; the largest of
    them where they are fewer."""
    flat = probabilities.flatten()
    smallest = min(kept + 1, flat.numel())
    if flat.device.type == 'cpu':
        limit = flat.kthvalue(smallest).values
    else:  # where kthvalue uses one block of threads
        limit = flat.topk(smallest, largest=False, sorted=False).values.max()
    largest = flat.masked_fill(flat > 1, -1).max()
    return torch.where(limit > 1, largest, limit)
