"""Pairs without a label in a training batch: which they are, and how far their teachers are
trusted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mtkd_cd.core.car import IGNORE_INDEX
from mtkd_cd.core.errors import UserError


@dataclass(frozen=True)
class UnlabelledPairs:
    """What a pair without a label counts in the distillation.

    Attributes:
        weight: Factor beside a labelled pair.
        confidence: Factor of a pixel by the teacher's probability p of change there.
            ``'probability'``: ``|2p - 1|``, from 0 where the teacher does not know to 1 where it is
            sure. A number in [0.5, 1]: 1 where ``max(p, 1 - p)`` reaches it, else 0. ``None``: 1.

    Raises:
        UserError: A weight that is not positive, or an unknown ``confidence``.
    """

    weight: float = 1.0
    confidence: Literal['probability'] | float | None = 'probability'

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise UserError(f'unlabelled.weight={self.weight!r}: it must be above 0')
        known = self.confidence in ('probability', None) or (
            isinstance(self.confidence, (int, float)) and 0.5 <= self.confidence <= 1
        )
        if not known:
            raise UserError(
                f"unlabelled.confidence={self.confidence!r}: choose 'probability', a number in "
                '[0.5, 1], or None'
            )

    def pixel_weight(self, log_odds: Tensor) -> Tensor:
        """The weight of each pixel, of the shape of the teacher's log-odds of change."""
        probability = log_odds.sigmoid()
        if self.confidence is None:
            return torch.full_like(probability, self.weight)
        if self.confidence == 'probability':
            return self.weight * (2 * probability - 1).abs()
        sure = torch.maximum(probability, 1 - probability) >= self.confidence
        return self.weight * sure.to(probability)


def is_unlabelled(sample: SegDataSample, ignore_index: int = IGNORE_INDEX) -> bool:
    """Whether a sample has no label. Such a sample says so (``unlabelled`` in its metainfo), or has
    no ``gt_sem_seg``, or has no CAR of a stored label and ignores every pixel."""
    if sample.metainfo.get('unlabelled') or 'gt_sem_seg' not in sample:
        return True
    if sample.metainfo.get('car') is not None:
        return False
    return bool((sample.gt_sem_seg.data == ignore_index).all())


def refuse_unlabelled(data_samples: Sequence[SegDataSample]) -> None:
    """Raise a UserError if a sample says that it has no label, or has none."""
    for sample in data_samples:
        if sample.metainfo.get('unlabelled') or 'gt_sem_seg' not in sample:
            raise UserError(
                f'{sample.metainfo.get("img_path", "a pair")} has no label: set '
                'model.unlabelled=dict() to let teachers teach such pairs, or take them out of the '
                'training data'
            )


def unchanged_label(sample: SegDataSample, size: Sequence[int], device: Any) -> SegDataSample:
    """A shallow copy of a sample under a label without change, of (H, W) pixels."""
    copy = sample.new()
    label = torch.zeros((1, *size), dtype=torch.long, device=device)
    copy.set_data({'gt_sem_seg': PixelData(data=label)})
    return copy
