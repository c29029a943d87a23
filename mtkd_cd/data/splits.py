"""The pairs of a split on disk, found without building a data set, and the tenth of the training
pairs that stands in for a missing validation split."""

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.data.car_index import cars_of_data_infos
from mtkd_cd.data.layout import DatasetLayout
from mtkd_cd.data.pairs import list_pairs, raise_if_any

_HELD_OUT_EVERY = 10
# Fine enough that the held-out tenth has the CAR distribution of the whole, coarse enough that
# rounding moves no image.
_STRATA = CARPartition((0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7))


def split_infos(
    layout: DatasetLayout, data_root: str, split: str, name: str = 'CDDataset'
) -> list[dict]:
    """The samples of a split, as the data set class of this layout finds them.

    Args:
        layout: Of the data set.
        data_root: Folder with the splits.
        split: ``'train'``, ``'val'`` or ``'test'``.
        name: Of the data set class, for the error.

    Returns:
        For each pair ``img_path``, the paths of both dates, and, where there are labels,
        ``seg_map_path`` and ``format_seg_map``.

    Raises:
        UserError: No such folder or split; files without a partner.
    """
    held_out = split in ('train', 'val') and layout.place(data_root, 'val') is None
    on_disk = 'train' if held_out else split
    place = layout.place(data_root, on_disk)
    if place is None:
        raise no_such_split(name, data_root, on_disk, layout.folders.date_a)
    pairs, problems = list_pairs(*place, layout.img_suffix, layout.seg_map_suffix)
    raise_if_any(problems)
    infos = []
    for pair in pairs:
        info: dict = {'img_path': [pair.date_a, pair.date_b]}
        if pair.label is not None:
            info |= {'seg_map_path': pair.label, 'format_seg_map': layout.format_seg_map}
        infos.append(info)
    if not held_out:
        return infos
    names = [pair.name for pair in pairs]
    chosen = held_out_tenth(names, cars_of_data_infos(infos), data_root)
    return [info for info, is_val in zip(infos, chosen) if is_val == (split == 'val')]


def no_such_split(name: str, data_root: str, split: str, date_a: str) -> UserError:
    """What to raise where a data set has no such split.

    Args:
        name: Of the data set class.
        data_root: Folder with the splits.
        split: The one that was looked for.
        date_a: Name of the folder of date A.
    """
    if not os.path.isdir(data_root):
        return UserError(f'data_root {data_root} does not exist (current folder: {os.getcwd()})')
    present = ', '.join(sorted(os.listdir(data_root))[:10]) or 'nothing'
    return UserError(
        f'{name} has no split {split!r} in {data_root}: looked for the folder '
        f'{os.path.join(data_root, split, date_a)} and the list '
        f'{os.path.join("list", split)}.txt; found {present}'
    )


def held_out_tenth(names: Sequence[str], cars: np.ndarray, data_root: str) -> np.ndarray:
    """Choose a tenth of the pairs, spread evenly over the CARs, by names and CARs alone.

    Args:
        names: Of the pairs.
        cars: (N,) their CARs.
        data_root: Folder of the data set, for messages.

    Returns:
        (N,) bool, true for the held-out pairs.

    Raises:
        UserError: Fewer than two pairs.
    """
    if len(names) < 2:
        raise UserError(
            f'{data_root} has no val split, and none can be held out of {len(names)} training '
            'pair: at least 2 are needed'
        )
    strata = _STRATA.range_of(cars)
    digests = [hashlib.sha256(name.encode()).digest() for name in names]
    order = sorted(range(len(names)), key=lambda row: (strata[row], digests[row]))
    chosen = np.zeros(len(names), bool)
    chosen[order[min(_HELD_OUT_EVERY, len(names)) // 2 :: _HELD_OUT_EVERY]] = True
    return chosen
