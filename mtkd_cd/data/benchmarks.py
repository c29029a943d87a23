"""The public binary change-detection data sets, under Open-CD's names; :mod:`mtkd_cd.data.layout`
knows their folders, suffixes and label codings."""

from typing import Any, ClassVar

from mtkd_cd.data.base import _BaseCDDataset
from mtkd_cd.data.layout import LAYOUTS, DatasetLayout
from mtkd_cd.registry import DATASETS


@DATASETS.register_module()
class CDDataset(_BaseCDDataset):
    """Any data set with folders ``A``, ``B`` and ``label``: png, jpg, tif or bmp, labels 0 / 1 or 0
    / 255.

    For other folder names, derive a class and set ``folder_names``.
    """

    METAINFO: ClassVar[dict] = {
        'classes': ('unchanged', 'changed'),
        'palette': [[0, 0, 0], [255, 255, 255]],
    }
    stored_as: ClassVar[DatasetLayout] = LAYOUTS['CDDataset']

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if 'stored_as' in vars(cls):
            cls.folder_names = cls.stored_as.folders

    def __init__(self, **kwargs: Any) -> None:
        layout = self.stored_as
        kwargs.setdefault('img_suffix', layout.img_suffix)
        kwargs.setdefault('seg_map_suffix', layout.seg_map_suffix)
        kwargs.setdefault('format_seg_map', layout.format_seg_map)
        super().__init__(**kwargs)


@DATASETS.register_module()
class JL1_CD_Dataset(CDDataset):
    """JL1-CD (arXiv:2502.13407): 512 x 512, 4,000 training and 1,000 test pairs."""

    stored_as = LAYOUTS['JL1_CD_Dataset']


@DATASETS.register_module()
class SYSU_CD_Dataset(CDDataset):
    """SYSU-CD (Shi et al., IEEE TGRS 2022): 256 x 256, 12,000 / 4,000 / 4,000 pairs."""

    stored_as = LAYOUTS['SYSU_CD_Dataset']


@DATASETS.register_module()
class LEVIR_CD_Dataset(CDDataset):
    """LEVIR-CD (Chen and Shi, Remote Sensing 2020): 1024 x 1024, or its 256 x 256 crops with
    ``list/<split>.txt``."""

    stored_as = LAYOUTS['LEVIR_CD_Dataset']


@DATASETS.register_module()
class CLCD_Dataset(CDDataset):
    """CLCD (Liu et al., IEEE JSTARS 2022): cropland, 512 x 512."""

    stored_as = LAYOUTS['CLCD_Dataset']


@DATASETS.register_module()
class S2Looking_Dataset(CDDataset):
    """S2Looking (Shen et al., Remote Sensing 2021): side-looking views, 1024 x 1024."""

    stored_as = LAYOUTS['S2Looking_Dataset']


@DATASETS.register_module()
class WHU_CD_Dataset(CDDataset):
    """WHU-CD (Ji et al., IEEE TGRS 2019): buildings, 256 x 256 crops with ``list/<split>.txt``."""

    stored_as = LAYOUTS['WHU_CD_Dataset']


@DATASETS.register_module(name=['SVCD_Dataset', 'CDD_Dataset'])
class SVCD_Dataset(CDDataset):
    """CDD, also called SVCD (Lebedev et al., ISPRS Archives 2018): season-varying, 256 x 256."""

    stored_as = LAYOUTS['SVCD_Dataset']


@DATASETS.register_module()
class DSIFN_Dataset(CDDataset):
    """DSIFN-CD (Zhang et al., ISPRS J. 2020).

    Labels stored as 0 / 1; for 0 / 255 set ``format_seg_map='to_binary'``.
    """

    stored_as = LAYOUTS['DSIFN_Dataset']


@DATASETS.register_module()
class RSIPAC_CD_Dataset(CDDataset):
    """RSIPAC 2022 contest.

    Labels stored as 0 / 1; the test split has none.
    """

    stored_as = LAYOUTS['RSIPAC_CD_Dataset']
