"""The public binary change-detection data sets, under Open-CD's names: each class knows its suffixes, label coding and folders."""

from typing import Any, ClassVar

from mtkd_cd.data.base import _BaseCDDataset
from mtkd_cd.data.pairs import PairFolders
from mtkd_cd.registry import DATASETS


@DATASETS.register_module()
class CDDataset(_BaseCDDataset):
    """Any data set with folders ``A``, ``B`` and ``label``: png, jpg, tif or bmp, labels 0 / 1 or 0 / 255.

    For other folder names, derive a class and set ``folder_names``.
    """

    METAINFO: ClassVar[dict] = {
        'classes': ('unchanged', 'changed'),
        'palette': [[0, 0, 0], [255, 255, 255]],
    }

    def __init__(
        self,
        img_suffix: str = '',
        seg_map_suffix: str = '',
        format_seg_map: str | None = 'to_binary',
        **kwargs: Any,
    ) -> None:
        super().__init__(
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            format_seg_map=format_seg_map,
            **kwargs,
        )


class _PNGDataset(CDDataset):
    def __init__(
        self, img_suffix: str = '.png', seg_map_suffix: str = '.png', **kwargs: Any
    ) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)


@DATASETS.register_module()
class JL1_CD_Dataset(_PNGDataset):
    """JL1-CD (arXiv:2502.13407): 512 x 512, 4,000 training and 1,000 test pairs."""


@DATASETS.register_module()
class SYSU_CD_Dataset(_PNGDataset):
    """SYSU-CD (Shi et al., IEEE TGRS 2022): 256 x 256, 12,000 / 4,000 / 4,000 pairs."""


@DATASETS.register_module()
class LEVIR_CD_Dataset(_PNGDataset):
    """LEVIR-CD (Chen and Shi, Remote Sensing 2020): 1024 x 1024, or its 256 x 256 crops with ``list/<split>.txt``."""


@DATASETS.register_module()
class CLCD_Dataset(_PNGDataset):
    """CLCD (Liu et al., IEEE JSTARS 2022): cropland, 512 x 512."""

    folder_names = PairFolders('time1', 'time2', 'label')


@DATASETS.register_module()
class S2Looking_Dataset(_PNGDataset):
    """S2Looking (Shen et al., Remote Sensing 2021): side-looking views, 1024 x 1024."""

    folder_names = PairFolders('Image1', 'Image2', 'label')


@DATASETS.register_module()
class WHU_CD_Dataset(CDDataset):
    """WHU-CD (Ji et al., IEEE TGRS 2019): buildings, 256 x 256 crops with ``list/<split>.txt``."""


@DATASETS.register_module(name=['SVCD_Dataset', 'CDD_Dataset'])
class SVCD_Dataset(CDDataset):
    """CDD, also called SVCD (Lebedev et al., ISPRS Archives 2018): season-varying, 256 x 256."""

    folder_names = PairFolders('A', 'B', 'OUT')

    def __init__(
        self, img_suffix: str = '.jpg', seg_map_suffix: str = '.jpg', **kwargs: Any
    ) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)


@DATASETS.register_module()
class DSIFN_Dataset(CDDataset):
    """DSIFN-CD (Zhang et al., ISPRS J. 2020). Labels stored as 0 / 1; for 0 / 255 set ``format_seg_map='to_binary'``."""

    folder_names = PairFolders('t1', 't2', 'mask')

    def __init__(
        self,
        img_suffix: str = '.jpg',
        seg_map_suffix: str = '.png',
        format_seg_map: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            format_seg_map=format_seg_map,
            **kwargs,
        )


@DATASETS.register_module()
class RSIPAC_CD_Dataset(CDDataset):
    """RSIPAC 2022 contest. Labels stored as 0 / 1; the test split has none."""

    unlabelled_splits = ('test',)

    def __init__(
        self,
        img_suffix: str = '.tif',
        seg_map_suffix: str = '.png',
        format_seg_map: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            format_seg_map=format_seg_map,
            **kwargs,
        )
