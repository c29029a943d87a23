"""The base of all change-detection data sets: finds pairs, checks them before training starts, and
knows train, val and test on disk."""

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset

from mtkd_cd.core.car import IGNORE_INDEX
from mtkd_cd.core.errors import UserError
from mtkd_cd.data.car_index import cars_of_data_infos
from mtkd_cd.data.images import sample_values
from mtkd_cd.data.labels import (
    LABEL_FORMATS,
    check_change_is_not_nodata,
    read_label,
)
from mtkd_cd.data.layout import SPLITS, DatasetLayout, PairFolders
from mtkd_cd.data.pairs import Pair, header_problems, list_pairs, raise_if_any
from mtkd_cd.data.radiometry import Rule, from_spec
from mtkd_cd.data.splits import held_out_tenth, no_such_split
from mtkd_cd.registry import DATASETS

# A percentile rule is taken of that many training pairs, evenly spaced over their names.
_FITTED_PAIRS = 64


@DATASETS.register_module()
class _BaseCDDataset(BaseSegDataset):
    """Image pairs with change labels.

    Either ``data_prefix`` names the folders (``img_path_from``, ``img_path_to`` and, unless there
    are no labels, ``seg_map_path``), as in Open-CD; or ``split`` does, by the class's own layout:
    ``<data_root>/<split>/{A,B,label}``, else ``<data_root>/{A,B,label}`` with
    ``<data_root>/list/<split>.txt`` (folder names as in :attr:`folder_names`). Where there is no
    ``val``, ``split='val'`` is a fixed tenth of ``train``, stratified by CAR, and ``split='train'``
    the rest; ``test`` is never touched.

    A sample has ``img_path`` (date A, date B), ``seg_map_path``, ``label_map``,
    ``reduce_zero_label``, ``format_seg_map`` and an empty ``seg_fields``.

    Args:
        ann_file: List of names, one per line, with or without suffix; relative to ``data_root``.
            Without it: all pairs, sorted by path.
        img_suffix: Ending of the image names; ``''`` for any of png, jpg, jpeg, tif, tiff, bmp.
        seg_map_suffix: The same for labels.
        format_seg_map: How labels are stored: ``'to_binary'`` for 0 / 1, 0 / 255 and gray, ``None``
            for 0, 1 and 255 = ignored, ``'with_ignored'`` for the same where no label may have a
            changed pixel.
        metainfo: Overrides ``classes`` and ``palette`` of the class.
        data_root: Joined with the folders and with ``ann_file``.
        data_prefix: The folders.
        split: ``'train'``, ``'val'`` or ``'test'``; then without ``data_prefix`` and ``ann_file``.
        reduce_zero_label: Whether labels are stored as 0 ignored, 1 unchanged, 2 changed.
        bands: Numbers of the bands that the model takes, from 1; three are red, green, blue.
            Default: those of RGB or gray images.
        radiometry: Rule that brings values to 0..255 (:func:`~mtkd_cd.data.radiometry.from_spec`);
            needed for other than 8-bit images. Percentiles are taken once, over both dates of the
            training split.
        ignore_index, filter_cfg, indices, serialize_data, pipeline, test_mode, lazy_init,
            max_refetch, backend_args: As in mmengine.

    Raises:
        UserError: Files or folders are missing; files have no partner, another size or four
            channels; labels have another coding. Names the first ones. Raised when the data set is
            initialised, which ``lazy_init`` postpones.
    """

    folder_names = PairFolders('A', 'B', 'label')

    def __init__(
        self,
        ann_file: str = '',
        img_suffix: str = '.jpg',
        seg_map_suffix: str = '.png',
        format_seg_map: str | None = None,
        metainfo: dict | None = None,
        data_root: str | None = None,
        data_prefix: dict | None = None,
        filter_cfg: dict | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        lazy_init: bool = False,
        max_refetch: int = 1000,
        ignore_index: int = IGNORE_INDEX,
        reduce_zero_label: bool = False,
        backend_args: dict | None = None,
        split: str | None = None,
        bands: Sequence[int] | None = None,
        radiometry: Any = None,
    ) -> None:
        for key, value in (('data_root', data_root), ('ann_file', ann_file)):
            if value is not None and not isinstance(value, (str, os.PathLike)):
                raise UserError(
                    f'{key}={value!r} is no path: --cfg-options takes a value with a comma for a '
                    'list; give the folder by --data-root, '
                    'or write it in the config'
                )
        if format_seg_map not in LABEL_FORMATS:
            raise UserError(f'format_seg_map={format_seg_map!r}: must be one of {LABEL_FORMATS}')
        if split is not None:
            _check_split(split, data_root, data_prefix, ann_file)
        self.split = split
        self.format_seg_map = format_seg_map
        self.bands = None if bands is None else tuple(bands)
        self.radiometry = None if radiometry is None else from_spec(radiometry)
        super().__init__(
            ann_file=ann_file,
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            metainfo=metainfo,
            data_root=data_root,
            data_prefix=data_prefix or {},
            filter_cfg=filter_cfg,
            indices=indices,
            serialize_data=serialize_data,
            pipeline=pipeline,
            test_mode=test_mode,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
            ignore_index=ignore_index,
            reduce_zero_label=reduce_zero_label,
            backend_args=backend_args,
        )

    @classmethod
    def layout(cls, data_root: str, split: str) -> tuple[PairFolders, str] | None:
        """Folders and list file of a split on disk (``''`` for no list), by the class's layout;
        ``None`` where there is no such split."""
        layout = DatasetLayout(cls.folder_names)
        return layout.place(data_root, split)

    def load_data_list(self) -> list[dict]:
        """Find the pairs and check the headers of the images and the coding of the labels.

        Returns:
            One info per sample, sorted by the path of date A, or in the order of the list.
        """
        held_out = self.split in ('train', 'val') and self.layout(self.data_root, 'val') is None
        folders, ann_file = self._place('train' if held_out else self.split)
        pairs = self._load_pairs(folders, ann_file)
        self.radiometry = self._fitted_radiometry(pairs)
        if folders.label is None:
            _log_unlabelled(folders.date_a, len(pairs))
        data_list = [self._data_info(pair) for pair in pairs]
        if not held_out and (folders.label is None or self.backend_args is not None):
            return data_list
        # The first time this reads all labels, so that a broken or oddly coded one ends the run at
        # its start; then it is a look-up.
        cars = cars_of_data_infos(data_list)
        if self.format_seg_map == 'to_binary' and self.backend_args is None and not cars.any():
            check_change_is_not_nodata([info['seg_map_path'] for info in data_list])
        if not held_out:
            return data_list
        chosen = held_out_tenth([pair.name for pair in pairs], cars, self.data_root)
        _log_held_out(self.data_root, int(chosen.sum()), len(chosen))
        return [info for info, is_val in zip(data_list, chosen) if is_val == (self.split == 'val')]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Classes that occur in a sample's label (read from the file), for
        ``ClassBalancedDataset``."""
        info = self.get_data_info(idx)
        coding = {key: info[key] for key in ('format_seg_map', 'reduce_zero_label', 'label_map')}
        label = read_label(info['seg_map_path'], **coding, backend_args=self.backend_args)
        return [value for value in np.unique(label).tolist() if value != self.ignore_index]

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """{stored class: class}, where ``metainfo`` chooses or reorders classes; two other names
        are names for the same two.

        Raises:
            UserError: Classes that are neither.
        """
        own = cls.METAINFO.get('classes')
        if new_classes is not None and own is not None and not set(new_classes) <= set(own):
            if len(new_classes) == len(own) and not set(new_classes) & set(own):
                return None
            raise UserError(
                f'metainfo.classes={tuple(new_classes)}: there are {tuple(own)}; choose among '
                f'them, or give {len(own)} other names, that of '
                'the unchanged first'
            )
        return super().get_label_map(new_classes)

    def _fitted_radiometry(self, pairs: Sequence[Pair]) -> Rule | None:
        """The rule, its percentiles taken of training pairs."""
        if self.radiometry is None or self.radiometry.fitted:
            return self.radiometry
        if self.split is None:
            raise UserError(
                f'radiometry={self.radiometry}: with data_prefix it is not known which pairs are '
                'for training; set split instead, or give '
                'the numbers, for instance linear(low=0, high=3000)'
            )
        has_val = self.layout(self.data_root, 'val') is not None
        if self.split == 'test' or (self.split == 'val' and has_val):
            pairs = self._load_pairs(*self._layout_on_disk('train'))
        step = max(1, -(-len(pairs) // _FITTED_PAIRS))
        chosen = sorted(pairs)[::step]
        files = tuple(path for pair in chosen for path in (pair.date_a, pair.date_b))
        return _fit_radiometry(self.radiometry, files, self.bands)

    def _place(self, split: str | None) -> tuple[PairFolders, str]:
        """Folders and list file of the data."""
        return (
            (self._prefixed_folders(), self.ann_file)
            if split is None
            else self._layout_on_disk(split)
        )

    def _prefixed_folders(self) -> PairFolders:
        missing = [key for key in ('img_path_from', 'img_path_to') if not self.data_prefix.get(key)]
        if missing:
            raise UserError(
                f'data_prefix lacks {" and ".join(missing)}: name the folders, as in '
                "data_prefix=dict(img_path_from='train/A', "
                "img_path_to='train/B', seg_map_path='train/label'), or set split='train'"
            )
        return PairFolders(
            self.data_prefix['img_path_from'],
            self.data_prefix['img_path_to'],
            self.data_prefix.get('seg_map_path'),
        )

    def _layout_on_disk(self, split: str) -> tuple[PairFolders, str]:
        found = self.layout(self.data_root, split)
        if found is None:
            raise no_such_split(
                type(self).__name__, self.data_root, split, self.folder_names.date_a
            )
        return found

    def _load_pairs(self, folders: PairFolders, ann_file: str) -> list[Pair]:
        pairs, problems = list_pairs(
            folders, ann_file, self.img_suffix, self.seg_map_suffix, self.backend_args
        )
        raise_if_any(problems)
        if self.backend_args is None:
            raise_if_any(header_problems(pairs, self.bands, self.radiometry))
        return pairs

    def _data_info(self, pair: Pair) -> dict:
        info = {
            'img_path': [pair.date_a, pair.date_b],
            'label_map': self.label_map,
            'format_seg_map': self.format_seg_map,
            'reduce_zero_label': self.reduce_zero_label,
            'seg_fields': [],
        }
        if self.bands is not None:
            info['bands'] = self.bands
        if self.radiometry is not None:
            info['radiometry'] = self.radiometry
        if pair.label is not None:
            info['seg_map_path'] = pair.label
        elif self.split == 'test' or self.test_mode:
            info['unlabelled'] = True
        return info


def _check_split(
    split: str, data_root: str | None, data_prefix: dict | None, ann_file: str
) -> None:
    if split not in SPLITS:
        raise UserError(f'split={split!r}: must be one of {", ".join(SPLITS)}')
    if not data_root:
        raise UserError(f'split={split!r} needs data_root, the folder that holds the data set')
    if data_prefix or ann_file:
        raise UserError(
            f'split={split!r} and {"data_prefix" if data_prefix else "ann_file"} both say where '
            'the data are: leave one out. For other '
            'folder names, derive a class and set its folder_names'
        )


@cache
def _log_held_out(data_root: str, held_out: int, total: int) -> None:
    """Say it once per process, not for the training and the validation set each."""
    print_log(
        f'{data_root} has no val split: {held_out} of the {total} training pairs, stratified by '
        'CAR, are held out for validation and not '
        'trained on; the test split is not used for it',
        logger='current',
    )


@cache
def _log_unlabelled(folder: str, count: int) -> None:
    print_log(
        f'{folder}: {count} pairs without labels: they are predicted, not scored', logger='current'
    )


@cache
def _fit_radiometry(rule: Rule, files: tuple[str, ...], bands: tuple[int, ...] | None) -> Rule:
    """Once per process, for the training, validation and test set together."""
    samples = [sample_values(file, bands) for file in files]
    fitted = rule.fit(samples[::2], samples[1::2])  # date A, date B
    print_log(
        f'radiometry {rule}: taken of {len(files)} training images: {fitted.describe()}',
        logger='current',
    )
    return fitted
