"""Parts of a data set: folds of its pairs, and its pairs without their labels."""

import copy
import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import (
    BaseDataset,
    ClassBalancedDataset,
    Compose,
    ConcatDataset,
    RepeatDataset,
    force_full_init,
)
from mmengine.logging import print_log
from mmengine.structures import PixelData

from mtkd_cd.core.car import IGNORE_INDEX
from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import DATASETS


def image_fold(info: dict, folds: int, seed: int = 0) -> int:
    """The fold of a pair, in [0, folds): a function of its file's name alone.

    Args:
        info: Sample of a data set; its ``img_path`` is one path or one per date.
        folds: Number of folds.
        seed: Another one makes other folds.
    """
    path = info['img_path']
    name = str(path if isinstance(path, str) else path[0]).replace('\\', '/').rpartition('/')[2]
    digest = hashlib.sha256(f'{seed}/{name.rpartition(".")[0] or name}'.encode()).digest()
    return int.from_bytes(digest[:8], 'big') % folds


class DatasetPart(ABC):
    """What wrappers of a data set share that hand out some of its samples.

    Args:
        dataset: Config or object.
        lazy_init: Whether to leave reading the lists for later.
    """

    def __init__(self, dataset: Any, lazy_init: bool = False) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """That of the wrapped data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Initialise the wrapped data set."""
        if not self._fully_initialized:
            self.dataset.full_init()
            self._fully_initialized = True

    def _get_ori_dataset_idx(self, idx: int) -> int:
        # As mmengine's wrappers call it: the sample's index in the wrapped data set.
        return idx

    @abstractmethod
    def load(self, idx: int) -> Any:
        """Sample ``idx`` itself after its pipeline; ``None`` where the pipeline rejects it."""

    @abstractmethod
    def __len__(self) -> int: ...

    def __getitem__(self, idx: int) -> Any:
        """A sample after the wrapped data set's pipeline.

        A pipeline may return ``None`` to ask for another sample; that one is drawn from this part.

        Raises:
            UserError: The pipeline returns nothing else.
        """
        if not self._fully_initialized:
            print_log(
                'Call full_init() before loading, once for all workers',
                logger='current',
                level=logging.WARNING,
            )
            self.full_init()
        owner = _owner(self, idx)
        refetches = 0 if getattr(owner, 'test_mode', False) else getattr(owner, 'max_refetch', 0)
        for _ in range(refetches + 1):
            sample = self.load(idx)
            if sample is not None:
                return sample
            idx = np.random.randint(len(self))
        raise UserError(
            f'the pipeline of {type(owner).__name__} returned None {refetches + 1} times: check '
            'its images and transforms'
        )


def load_sample(dataset: Any, idx: int) -> Any:
    """Sample ``idx`` of a data set after its pipeline; ``None`` where the pipeline rejects it.

    Not ``dataset[idx]``, which replaces a rejected sample by any other of the whole data set, of
    whatever CAR range or fold.
    """
    if isinstance(dataset, DatasetPart):
        return dataset.load(idx)
    if isinstance(dataset, BaseDataset) and type(dataset).__getitem__ is BaseDataset.__getitem__:
        return dataset.prepare_data(idx)
    inner = _inside(dataset, idx)
    return dataset[idx] if inner is None else load_sample(*inner)


def _owner(dataset: Any, idx: int) -> Any:
    """The data set whose pipeline makes a sample."""
    inner = _inside(dataset, idx)
    return dataset if inner is None else _owner(*inner)


def _inside(dataset: Any, idx: int) -> tuple[Any, int] | None:
    """The data set in a wrapper that a sample comes from, and its index there; ``None`` where
    nothing is wrapped."""
    if isinstance(dataset, ConcatDataset):
        part, idx = dataset._get_ori_dataset_idx(idx)
        return dataset.datasets[part], idx
    if isinstance(dataset, RepeatDataset | ClassBalancedDataset | DatasetPart):
        return dataset.dataset, dataset._get_ori_dataset_idx(idx)
    return None


@DATASETS.register_module()
class FoldDataset(DatasetPart):
    """The pairs of some folds of a data set; each sample carries its ``fold`` in its metainfo.

    The fold of a pair depends on its file's name and the seed, not on the other pairs. So a fold of
    a small data set may be empty, and the log says so where nothing is left out. A pair that the
    pipeline rejects is replaced by one of these folds.

    Args:
        dataset: Config or object.
        folds: Number of folds.
        keep: The folds that are kept; all by default.
        leave_out: Instead of ``keep``: the folds that are not.
        seed: Another one makes other folds.
        lazy_init: Whether to leave reading the lists for later.

    Raises:
        UserError: A fold that does not exist, ``keep`` together with ``leave_out``, or no pair in
            the folds that are kept.
    """

    def __init__(
        self,
        dataset: Any,
        folds: int,
        keep: int | Sequence[int] | None = None,
        leave_out: int | Sequence[int] | None = None,
        seed: int = 0,
        lazy_init: bool = False,
    ) -> None:
        if keep is not None and leave_out is not None:
            raise UserError(f'keep={keep!r} and leave_out={leave_out!r}: give one of them')
        chosen = _as_tuple(keep if leave_out is None else leave_out)
        wrong = [fold for fold in chosen if not 0 <= fold < folds]
        if folds < 2 or wrong:
            raise UserError(f'fold {wrong}: there are {folds} folds, 0 to {folds - 1}')
        self.folds = folds
        self.seed = seed
        self.kept = tuple(
            fold for fold in range(folds) if (not chosen) or (fold in chosen) == (leave_out is None)
        )
        super().__init__(dataset, lazy_init)

    def full_init(self) -> None:
        """Initialise the wrapped data set and choose the pairs."""
        if self._fully_initialized:
            return
        super().full_init()
        infos = (self.dataset.get_data_info(index) for index in range(len(self.dataset)))
        fold = np.array([image_fold(info, self.folds, self.seed) for info in infos], int)
        self._indices = np.flatnonzero(np.isin(fold, self.kept))
        self._fold = fold[self._indices]
        if not len(self._indices):
            raise UserError(
                f'none of {len(fold)} pairs lies in the folds {self.kept} of {self.folds}: take '
                'fewer folds or another seed'
            )
        if len(self._indices) == len(fold) and len(self.kept) < self.folds:
            left_out = [number for number in range(self.folds) if number not in self.kept]
            print_log(
                f'nothing is left out: none of {len(fold)} pairs lies in the folds {left_out} of '
                f'{self.folds}. Take fewer folds or another seed',
                logger='current',
                level=logging.WARNING,
            )

    @property
    def cumulative_sizes(self) -> list[int]:
        """Where the parts of a wrapped ``ConcatDataset`` end, for a ``RatioSampler``."""
        self.full_init()
        return np.searchsorted(self._indices, self.dataset.cumulative_sizes).tolist()

    def _get_ori_dataset_idx(self, idx: int) -> int:
        return int(self._indices[idx])

    @force_full_init
    def get_data_info(self, idx: int) -> dict:
        """Info of a sample, with its ``fold``."""
        info = self.dataset.get_data_info(int(self._indices[idx]))
        return {**info, 'fold': int(self._fold[idx])}

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """Classes that occur in a sample's label, for ``ClassBalancedDataset``."""
        return self.dataset.get_cat_ids(int(self._indices[idx]))

    @force_full_init
    def __len__(self) -> int:
        return len(self._indices)

    @force_full_init
    def load(self, idx: int) -> Any:
        """The sample itself, with its ``fold``; ``None`` where its pipeline rejects it."""
        sample = load_sample(self.dataset, int(self._indices[idx]))
        _set_metainfo(sample, fold=int(self._fold[idx]))
        return sample


@DATASETS.register_module()
class UnlabelledDataset(DatasetPart):
    """Pairs whose labels are not there, or not looked at: every sample gets a label that ignores
    all pixels, and says ``unlabelled=True`` in its metainfo.

    A :class:`~mtkd_cd.models.mtkd.distiller.MultiTeacherDistiller` with ``unlabelled=dict()``
    learns from them. In the pipeline, transforms that load annotations are replaced.

    Args:
        dataset: Config or object of a data set with a pipeline of its own: one of ours, of
            Open-CD's or of mmseg's, of which no label is read in training. Give it no label
            folder (``data_prefix=dict(img_path_from=..., img_path_to=...)``) where there is none.
        lazy_init: Whether to leave reading the lists for later.

    Raises:
        UserError: A data set without a pipeline, such as a wrapper.
    """

    def __init__(self, dataset: Any, lazy_init: bool = False) -> None:
        # An object may serve elsewhere with its labels: its pipeline is changed here.
        super().__init__(
            dataset if isinstance(dataset, dict) else copy.deepcopy(dataset), lazy_init=True
        )
        base = self.dataset
        while isinstance(base, FoldDataset):
            base = base.dataset
        if not isinstance(base, BaseDataset):
            raise UserError(
                f'UnlabelledDataset wraps a data set with a pipeline, found {type(base).__name__}: '
                'wrap the data sets in it instead'
            )
        base.pipeline = Compose(
            [
                IgnoreEveryPixel() if 'LoadAnnotations' in type(transform).__name__ else transform
                for transform in base.pipeline.transforms
            ]
        )
        if not lazy_init:
            self.full_init()

    @force_full_init
    def get_data_info(self, idx: int) -> dict:
        """Info of a sample, without its label."""
        info = copy.copy(self.dataset.get_data_info(idx))
        info.pop('seg_map_path', None)
        return {**info, 'unlabelled': True}

    @force_full_init
    def __len__(self) -> int:
        return len(self.dataset)

    @force_full_init
    def load(self, idx: int) -> Any:
        """The sample itself, without its label; ``None`` where its pipeline rejects it."""
        sample = load_sample(self.dataset, idx)
        if sample is None:
            return None
        _set_metainfo(sample, unlabelled=True)
        data_sample = sample['data_samples']
        if 'gt_sem_seg' not in data_sample:
            label = torch.full((1, *sample['inputs'].shape[-2:]), IGNORE_INDEX)
            data_sample.set_data({'gt_sem_seg': PixelData(data=label)})
        return sample


class IgnoreEveryPixel(BaseTransform):
    """Writes ``gt_seg_map``, a label that ignores every pixel, where others would load one."""

    def transform(self, results: dict) -> dict:
        """Add the label to the results."""
        # Of the images as they are here: they may have been resized.
        results['gt_seg_map'] = np.full(results['img_shape'][:2], IGNORE_INDEX, np.uint8)
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results


def _as_tuple(folds: int | Sequence[int] | None) -> tuple[int, ...]:
    if folds is None:
        return ()
    return (folds,) if isinstance(folds, int) else tuple(folds)


def data_samples_of(sample: Any) -> list[Any]:
    """The data samples that a pipeline packed: one, or several for test-time augmentation."""
    found = sample.get('data_samples') if isinstance(sample, dict) else None
    if isinstance(found, list):
        return found
    return [] if found is None else [found]


def _set_metainfo(sample: Any, **metainfo: Any) -> None:
    for data_sample in data_samples_of(sample):
        data_sample.set_metainfo(metainfo)
