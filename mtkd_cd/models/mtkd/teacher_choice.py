"""Which CAR range, and so which teacher, a labelled training image belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from mmseg.structures import SegDataSample
from torch import Tensor

from mtkd_cd.core.car import IGNORE_INDEX, CARPartition, change_area_ratio
from mtkd_cd.core.errors import UserError

CarSource = Literal['auto', 'stored', 'augmented']


@dataclass(frozen=True)
class TeacherChoice:
    """How an image finds its CAR range.

    Attributes:
        partition: The ranges.
        car_source: Which CAR decides. ``'stored'``: the ``car`` in the sample's metainfo, of the
            label before augmentation, by which the specialists were partitioned. ``'augmented'``:
            that of the valid pixels of the augmented label. ``'auto'``: stored where the pipeline
            brings one, else augmented.
        compat: ``'opencd'`` chooses as Open-CD 1.1.0 does: CAR of the augmented label with ignored
            pixels counted as change, ``<`` at the thresholds.
        ignore_index: Label value of ignored pixels.

    Raises:
        UserError: An unknown ``car_source`` or ``compat``.
    """

    partition: CARPartition = field(default_factory=CARPartition)
    car_source: CarSource = 'auto'
    compat: Literal['opencd'] | None = None
    ignore_index: int = IGNORE_INDEX

    def __post_init__(self) -> None:
        check_choice('car_source', self.car_source, ('auto', 'stored', 'augmented'))
        check_choice('compat', self.compat, (None, 'opencd'))

    def ranges(self, data_samples: Sequence[SegDataSample]) -> Tensor:
        """(N,) index of the CAR range of each image; on the CPU."""
        if self.compat == 'opencd':
            changed = torch.stack(
                [(sample.gt_sem_seg.data > 0).float().mean() for sample in data_samples]
            )
            return self.partition.range_of(changed.cpu(), right=False)
        # One by one: a threshold is compared in the precision of the CAR, and these are of two.
        return torch.tensor([int(self.partition.range_of(car)) for car in self._cars(data_samples)])

    def _cars(self, data_samples: Sequence[SegDataSample]) -> list[float | Tensor]:
        """Stored ones as numbers, augmented ones as float32 tensors."""
        stored: list[Any] = [
            None if self.car_source == 'augmented' else sample.metainfo.get('car')
            for sample in data_samples
        ]
        if None in stored and self.car_source == 'stored':
            path = data_samples[stored.index(None)].metainfo.get('img_path', 'a sample')
            raise UserError(
                f"car_source='stored', but {path} carries no `car` in its metainfo. Load labels "
                "with mtkd_cd's MultiImgLoadAnnotations, wrap the data set in "
                "CARPartitionDataset, or set car_source='auto'"
            )
        labels = [
            sample.gt_sem_seg.data[0] for sample, car in zip(data_samples, stored) if car is None
        ]
        if not labels:
            return stored
        ratios = torch.stack([change_area_ratio(label, self.ignore_index) for label in labels])
        augmented = iter(ratios.cpu())  # the host waits once
        return [next(augmented) if car is None else car for car in stored]


def check_choice(argument: str, value: object, choices: tuple) -> None:
    """Raise a UserError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise UserError(f'{argument}={value!r}: choose one of {", ".join(map(repr, choices))}')
