"""Heads without weights, for backbones that already return logits."""

from typing import Any

from mmseg.models.utils import resize
from torch import Tensor

from mtkd_cd.models.decode_heads.base import DecodeHead, pixel_accuracy
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class IdentityHead(DecodeHead):
    """Return the selected feature map as the change map.

    Args:
        kwargs: Arguments of mmseg's ``BaseDecodeHead`` but ``channels``.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(channels=1, init_cfg=None, **kwargs)
        del self.conv_seg

    def forward(self, inputs: Any) -> Any:
        return self._transform_inputs(inputs)


@MODELS.register_module()
class DSIdentityHead(IdentityHead):
    """Deep supervision: apply the losses to every selected map, as ``aux_<i>_<loss name>``. It is
    an auxiliary head only: it cannot predict."""

    def loss_by_feat(self, seg_logits: list[Tensor], batch_data_samples: Any) -> dict[str, Tensor]:
        """Losses of all maps, each resized to the labels, and the accuracy of the last one."""
        label = self._stack_batch_gt(batch_data_samples)  # (N, 1, H, W)
        losses: dict[str, Tensor] = {}
        for i, logits in enumerate(seg_logits):
            logits = resize(
                logits, label.shape[2:], mode='bilinear', align_corners=self.align_corners
            )
            weight = self.sampler.sample(logits, label) if self.sampler is not None else None
            for module in self.loss_modules:
                name = f'aux_{i}_{module.loss_name}'
                losses[name] = losses.get(name, 0) + module(
                    logits, label.squeeze(1), weight=weight, ignore_index=self.ignore_index
                )
        losses['acc_seg'] = pixel_accuracy(logits, label.squeeze(1), self.ignore_index)
        return losses
