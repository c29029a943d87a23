"""Data sets, the CAR index and partition, labels, transforms."""

from mtkd_cd.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        'transforms': (),
        'layout': ('LAYOUTS', 'SPLITS', 'DatasetLayout'),
        'benchmarks': (
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
        ),
        'car_index': ('car_of_file', 'label_cars'),
        'car_partition': ('CARPartitionDataset',),
        'labels': ('read_label',),
    },
)
