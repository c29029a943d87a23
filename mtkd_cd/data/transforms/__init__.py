"""Steps of data pipelines for image pairs, under Open-CD's names."""

from mtkd_cd.data.transforms.albu import MultiImgAlbu
from mtkd_cd.data.transforms.formatting import MultiImgPackSegInputs
from mtkd_cd.data.transforms.geometric import (
    MultiImgExchangeTime,
    MultiImgPad,
    MultiImgRandomCrop,
    MultiImgRandomCutOut,
    MultiImgRandomFlip,
    MultiImgRandomResize,
    MultiImgRandomRotate,
    MultiImgRandomRotFlip,
    MultiImgResize,
    MultiImgResizeShortestEdge,
    MultiImgResizeToMultiple,
)
from mtkd_cd.data.transforms.loading import (
    MultiImgLoadAnnotations,
    MultiImgLoadImageFromFile,
    MultiImgLoadInferencerLoader,
    MultiImgLoadLoadImageFromNDArray,
)
from mtkd_cd.data.transforms.photometric import (
    MultiImgAdjustGamma,
    MultiImgCLAHE,
    MultiImgNormalize,
    MultiImgPhotoMetricDistortion,
    MultiImgRerange,
    MultiImgRGB2Gray,
)

__all__ = [
    'MultiImgAdjustGamma',
    'MultiImgAlbu',
    'MultiImgCLAHE',
    'MultiImgExchangeTime',
    'MultiImgLoadAnnotations',
    'MultiImgLoadImageFromFile',
    'MultiImgLoadInferencerLoader',
    'MultiImgLoadLoadImageFromNDArray',
    'MultiImgNormalize',
    'MultiImgPackSegInputs',
    'MultiImgPad',
    'MultiImgPhotoMetricDistortion',
    'MultiImgRGB2Gray',
    'MultiImgRandomCrop',
    'MultiImgRandomCutOut',
    'MultiImgRandomFlip',
    'MultiImgRandomResize',
    'MultiImgRandomRotFlip',
    'MultiImgRandomRotate',
    'MultiImgRerange',
    'MultiImgResize',
    'MultiImgResizeShortestEdge',
    'MultiImgResizeToMultiple',
]
