"""Test-time augmentation: the mean prediction over views of a pair."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mtkd_cd.models.decode_heads.base import predicted_class
from mtkd_cd.models.mtkd.routing import ORIGIN
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class ChangeTTAModel(BaseTTAModel):
    """A detector, or a cascade, that predicts every view of a pair and averages the probabilities.

    Each view is predicted as a pair of its own, and its prediction turned back. Of a cascade, each
    view finds its own specialist, by the CAR of the map that the origin's threshold makes; what the
    sample says about that (``coarse_car``, ``range``) is of the view as it is stored. The mean is
    decided by the threshold of the detector that served, the mean one where several did.
    """

    def merge_preds(self, data_samples_list: Sequence[Sequence[SegDataSample]]) -> list[Any]:
        """Average the views of each pair.

        Args:
            data_samples_list: Of each pair its predicted views, with ``seg_logits`` at the size of
                the label: logits of two channels, the probability of change of one, as mmseg's
                detectors give them.

        Returns:
            Of each pair the sample of the view as it is stored, with the mean prediction.
        """
        return [self._merge(views) for views in data_samples_list]

    def _merge(self, views: Sequence[SegDataSample]) -> SegDataSample:
        probabilities = torch.stack([_probabilities(view.seg_logits.data) for view in views])
        mean = probabilities.mean(0)  # (C, H, W)
        merged = next((view for view in views if not view.metainfo.get('flip')), views[0])
        threshold = sum(self._threshold(view) for view in views) / len(views)
        if len(mean) == 1 or (len(mean) == 2 and threshold != 0.5):
            mask = (mean[-1:] > threshold).to(torch.long)
        else:
            mask = predicted_class(mean[None])
        merged.set_data({'pred_sem_seg': PixelData(data=mask)})
        return merged

    def _threshold(self, view: SegDataSample) -> float:
        """Probability from which the detector that served a view says change."""
        detector: Any = self.module
        if hasattr(detector, 'specialists'):
            name = view.metainfo.get('detector', ORIGIN)
            detector = detector.origin if name == ORIGIN else detector.specialists[name]
        head = detector.decode_head
        # Of two channels the larger one decides, whatever threshold the head was given.
        is_one = getattr(head, 'out_channels', 1) == 1
        threshold = getattr(head, 'threshold', None) if is_one else None
        return 0.5 if threshold is None else threshold


def _probabilities(scores: Tensor) -> Tensor:
    return scores if len(scores) == 1 else scores.softmax(0)
