"""The part of any data set whose labels lie in chosen CAR ranges: what a specialist is trained
on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dataset import force_full_init

from mtkd_cd.core.car import DEFAULT_THRESHOLDS, CARPartition, car_histogram, suggest_thresholds
from mtkd_cd.core.errors import UserError
from mtkd_cd.data.car_index import cars_of_data_infos
from mtkd_cd.data.subsets import DatasetPart, data_samples_of, load_sample
from mtkd_cd.registry import DATASETS


@DATASETS.register_module()
class CARPartitionDataset(DatasetPart):
    """The samples of ``dataset`` whose stored label lies in one CAR range, or in several
    (arXiv:2502.13407, section 4.1).

    Nothing is copied: the CARs come from the index of :func:`~mtkd_cd.data.car_index.label_cars`.
    Every data sample has the CAR of its stored label in its metainfo, as ``car``.
    :class:`~mtkd_cd.data.transforms.loading.MultiImgLoadAnnotations` writes it; where a pipeline
    has another loader, this class does.

    Args:
        dataset: Config or object: a data set of ours, of Open-CD, of mmseg, or mmengine's
            ``ConcatDataset``, ``RepeatDataset`` or ``ClassBalancedDataset`` round such ones.
        range: Name of the wanted range, or names of several.
        thresholds: As :class:`~mtkd_cd.core.car.CARPartition` takes them.
        names: As :class:`~mtkd_cd.core.car.CARPartition` takes them.
        lazy_init: Whether to leave reading the lists and labels for later.
        partition: What ``range`` was called once; configs may still call it so.

    Raises:
        UserError: No range, or both names of it; an unknown range; no sample lies in it (tells the
            CARs that there are); samples without labels.
    """

    def __init__(
        self,
        dataset: Any,
        range: str | Sequence[str] | None = None,
        thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
        names: Sequence[str] | None = None,
        lazy_init: bool = False,
        partition: str | Sequence[str] | None = None,
    ) -> None:
        self.car_partition = CARPartition(thresholds, names)
        if (range is None) == (partition is None):
            raise UserError(
                f'CARPartitionDataset has range={range!r} and partition={partition!r}: name the '
                f'wanted CAR range once, as range; there are {", ".join(self.car_partition.names)}'
            )
        wanted: Any = partition if range is None else range
        self.ranges = (wanted,) if isinstance(wanted, str) else tuple(wanted)
        self._wanted = [self.car_partition.index_of_name(name) for name in self.ranges]
        super().__init__(dataset, lazy_init=True)
        if not hasattr(self.dataset, 'get_data_info'):
            raise UserError(
                f'dataset of type {type(self.dataset).__name__} has no get_data_info: '
                'CARPartitionDataset wraps mmengine data sets'
            )
        if not lazy_init:
            self.full_init()

    @property
    @force_full_init
    def cars(self) -> np.ndarray:
        """(N,) CAR of each sample's stored label."""
        return self._cars

    def full_init(self) -> None:
        """Initialise the wrapped data set, look up the CARs and choose the samples."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        cars = cars_of_data_infos(
            self.dataset.get_data_info(idx) for idx in range(len(self.dataset))
        )
        self._indices = np.flatnonzero(np.isin(self.car_partition.range_of(cars), self._wanted))
        if not len(self._indices):
            raise UserError(self._empty_text(cars))
        self._cars = cars[self._indices]
        self._fully_initialized = True

    @force_full_init
    def get_data_info(self, idx: int) -> dict:
        """Info of a sample."""
        return self.dataset.get_data_info(int(self._indices[idx]))

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """Classes that occur in a sample's label (0 unchanged, 1 changed), for
        ``ClassBalancedDataset``."""
        car = self._cars[idx]
        return [label for label, occurs in ((0, car < 1), (1, car > 0)) if occurs]

    @force_full_init
    def __len__(self) -> int:
        return len(self._indices)

    def _get_ori_dataset_idx(self, idx: int) -> int:
        return int(self._indices[idx])

    @force_full_init
    def load(self, idx: int) -> Any:
        """The sample itself, with its ``car``; ``None`` where its pipeline rejects it."""
        sample = load_sample(self.dataset, int(self._indices[idx]))
        for data_sample in data_samples_of(sample):
            if 'car' not in data_sample:  # its pipeline does not load labels with our transform
                data_sample.set_metainfo({'car': float(self._cars[idx])})
        return sample

    def _empty_text(self, cars: np.ndarray) -> str:
        wanted = (
            ', '.join(f'{name} ({self.car_partition.bounds_text(name)})' for name in self.ranges)
            or 'none'
        )
        suggested = suggest_thresholds(cars, len(self.car_partition))
        advice = (
            f'; thresholds={suggested} would cut these images into {len(suggested) + 1} about '
            'equal parts'
            if suggested
            else ''
        )
        return (
            f'no image lies in the wanted CAR range: {wanted}. The CARs of the {len(cars)} '
            f'images are\n{car_histogram(cars, self.car_partition)}\n'
            f'Choose other thresholds or another range{advice}'
        )
