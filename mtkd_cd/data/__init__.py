"""Data sets, the CAR index and partition, labels, transforms; importing it registers the data sets and transforms."""

from mtkd_cd.data import transforms
from mtkd_cd.data.base import SPLITS
from mtkd_cd.data.benchmarks import (
    CDDataset,
    CLCD_Dataset,
    DSIFN_Dataset,
    JL1_CD_Dataset,
    LEVIR_CD_Dataset,
    RSIPAC_CD_Dataset,
    S2Looking_Dataset,
    SVCD_Dataset,
    SYSU_CD_Dataset,
    WHU_CD_Dataset,
)
from mtkd_cd.data.car_index import car_of_file, label_cars
from mtkd_cd.data.car_partition import CARPartitionDataset
from mtkd_cd.data.labels import read_label

__all__ = [
    'SPLITS',
    'CARPartitionDataset',
    'CDDataset',
    'CLCD_Dataset',
    'DSIFN_Dataset',
    'JL1_CD_Dataset',
    'LEVIR_CD_Dataset',
    'RSIPAC_CD_Dataset',
    'S2Looking_Dataset',
    'SVCD_Dataset',
    'SYSU_CD_Dataset',
    'WHU_CD_Dataset',
    'car_of_file',
    'label_cars',
    'read_label',
    'transforms',
]
