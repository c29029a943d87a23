"""Where the public data sets keep the files of a split, and how they store labels: what is known
about a data set without building it."""

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from mtkd_cd.core.errors import UserError

if TYPE_CHECKING:
    from mtkd_cd.data.benchmarks import CDDataset

SPLITS = ('train', 'val', 'test')


class PairFolders(NamedTuple):
    """Where the images of date A, of date B and the labels are; ``label`` is ``None`` for pairs
    without labels."""

    date_a: str
    date_b: str
    label: str | None = None


_FOLDERS = PairFolders('A', 'B', 'label')


@dataclass(frozen=True)
class DatasetLayout:
    """A data set on disk: ``<root>/<split>/{A,B,label}``, or ``<root>/{A,B,label}`` with
    ``<root>/list/<split>.txt``.

    Attributes:
        folders: Names of the folders of date A, of date B and of the labels.
        img_suffix: Ending of the image names; ``''`` for any of png, jpg, jpeg, tif, tiff, bmp.
        seg_map_suffix: The same for labels.
        format_seg_map: How labels are stored, as :func:`mtkd_cd.data.labels.read_label` takes it.
    """

    folders: PairFolders = _FOLDERS
    img_suffix: str = ''
    seg_map_suffix: str = ''
    format_seg_map: str | None = 'to_binary'

    def place(self, data_root: str, split: str) -> tuple[PairFolders, str] | None:
        """Folders and list file of a split on disk (``''`` for no list); ``None`` where there is no
        such split."""
        list_file = os.path.join(data_root, 'list', f'{split}.txt')
        for root, ann_file in ((os.path.join(data_root, split), ''), (data_root, list_file)):
            if not os.path.isdir(os.path.join(root, self.folders.date_a)):
                continue
            if ann_file and not os.path.isfile(ann_file):
                continue
            date_a, date_b, label = (os.path.join(root, name) for name in self.folders if name)
            # A test may do without labels, in every class.
            has_labels = split in ('train', 'val') or os.path.isdir(label)
            return PairFolders(date_a, date_b, label if has_labels else None), ann_file
        return None


_PNG = DatasetLayout(img_suffix='.png', seg_map_suffix='.png')
# By the names of the registered classes.
LAYOUTS: dict[str, DatasetLayout] = {
    'CDDataset': DatasetLayout(),
    'JL1_CD_Dataset': _PNG,
    'SYSU_CD_Dataset': _PNG,
    'LEVIR_CD_Dataset': _PNG,
    'CLCD_Dataset': replace(_PNG, folders=PairFolders('time1', 'time2', 'label')),
    'S2Looking_Dataset': replace(_PNG, folders=PairFolders('Image1', 'Image2', 'label')),
    'WHU_CD_Dataset': DatasetLayout(),
    'SVCD_Dataset': DatasetLayout(PairFolders('A', 'B', 'OUT'), '.jpg', '.jpg'),
    'DSIFN_Dataset': DatasetLayout(PairFolders('t1', 't2', 'mask'), '.jpg', '.png', None),
    'RSIPAC_CD_Dataset': DatasetLayout(
        img_suffix='.tif',
        seg_map_suffix='.png',
        format_seg_map=None,
    ),
}
LAYOUTS['CDD_Dataset'] = LAYOUTS['SVCD_Dataset']


def layout_of_class(name: str) -> DatasetLayout:
    """The layout of a registered data set class.

    Raises:
        UserError: No such class.
    """
    if name in LAYOUTS:
        return LAYOUTS[name]
    found = dataset_class(name)
    dataset = found(lazy_init=True)
    return DatasetLayout(
        found.folder_names,
        dataset.img_suffix,
        dataset.seg_map_suffix,
        dataset.format_seg_map,
    )


def dataset_class(name: str) -> 'type[CDDataset]':
    """The registered data set class of this name; importing it takes seconds.

    Raises:
        UserError: No such class.
    """
    from mtkd_cd.data.benchmarks import CDDataset
    from mtkd_cd.registry import DATASETS

    found = DATASETS.get(name)
    if not isinstance(found, type) or not issubclass(found, CDDataset):
        raise UserError(
            f'unknown data set type {name!r}: it must be a class such as CDDataset, JL1_CD_Dataset '
            'or WHU_CD_Dataset'
        )
    return found
