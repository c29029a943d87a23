"""What our decode heads share: mmseg's losses, and an accuracy for which the host does not wait."""

from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.models.utils import resize
from mmseg.utils import SampleList
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError


class DecodeHead(BaseDecodeHead):
    """mmseg's head. Losses and accuracy are mmseg's; on an accelerator mmseg's accuracy makes the
    host wait twice for the device, to learn how many pixels are valid."""

    def loss_by_feat(self, seg_logits: Any, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses, summed where two have one name, and ``acc_seg`` in percent.

        Args:
            seg_logits: (N, C, h, w); heads that give several maps extend this method.
            batch_data_samples: N samples with ``gt_sem_seg``, (1, H, W).

        Raises:
            UserError: One channel, and a cross-entropy that is not binary.
        """
        if self.out_channels == 1 and any(map(_is_softmax, self.loss_modules)):
            raise UserError(
                f'num_classes={self.num_classes}, out_channels=1: a softmax over one channel is '
                'always 1. Set num_classes=2, and for one channel out_channels=1 with '
                'CrossEntropyLoss(use_sigmoid=True)'
            )
        label = self._stack_batch_gt(batch_data_samples)  # (N, 1, H, W)
        logits = resize(
            seg_logits, label.shape[2:], mode='bilinear', align_corners=self.align_corners
        )
        weight = self.sampler.sample(logits, label) if self.sampler is not None else None
        label = label.squeeze(1)
        losses: dict[str, Tensor] = {}
        for module in self.loss_modules:
            value = module(logits, label, weight=weight, ignore_index=self.ignore_index)
            name = str(module.loss_name)
            losses[name] = losses[name] + value if name in losses else value
        losses['acc_seg'] = pixel_accuracy(logits, label, self.ignore_index)
        return losses

    @property
    def loss_modules(self) -> list[nn.Module]:
        """The losses of the config, of which it may have one or several."""
        several = isinstance(self.loss_decode, nn.ModuleList)
        return list(self.loss_decode) if several else [self.loss_decode]


def _is_softmax(loss: nn.Module) -> bool:
    return isinstance(loss, CrossEntropyLoss) and not (loss.use_sigmoid or loss.use_mask)


def pixel_accuracy(logits: Tensor, label: Tensor, ignore_index: int) -> Tensor:
    """(1,) share of the valid pixels, in percent, whose class has the largest of the (N, C, H, W)
    logits, as mmseg's ``accuracy`` gives it.

    Args:
        logits: The logits.
        label: (N, H, W) class numbers.
        ignore_index: Label of pixels that are not valid.
    """
    valid = label != ignore_index
    correct = (predicted_class(logits.detach()) == label) & valid
    eps = torch.finfo(torch.float32).eps  # 0 where no pixel is valid
    return (correct.sum().float() + eps).mul(100).div(valid.sum() + eps).reshape(1)


def predicted_class(scores: Tensor) -> Tensor:
    """(N, H, W) int64: the class with the largest of (N, C, H, W) scores, C at least 2. Of two
    classes one comparison tells, in a fraction of argmax's time."""
    return (scores[:, 1] > scores[:, 0]).long() if scores.shape[1] == 2 else scores.argmax(1)
