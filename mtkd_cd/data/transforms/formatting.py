"""The last step of a pipeline: what the data preprocessor and the models take."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mtkd_cd.data.transforms.base import PADDINGS, MultiImgTransform
from mtkd_cd.registry import TRANSFORMS

# Result key of each label -> field of the data sample.
_FIELDS = {
    'gt_seg_map': 'gt_sem_seg',
    'gt_edge_map': 'gt_edge_map',
    'gt_seg_map_from': 'gt_sem_seg_from',
    'gt_seg_map_to': 'gt_sem_seg_to',
}


@TRANSFORMS.register_module()
class MultiImgPackSegInputs(MultiImgTransform):
    """Pack a pair: ``inputs``, both dates on the channel axis, (6, H, W), and ``data_samples``, a
    ``SegDataSample``.

    The labels that are there become the sample's fields ``gt_sem_seg``, ``gt_edge_map``,
    ``gt_sem_seg_from`` and ``gt_sem_seg_to``, (1, H, W) int64.

    Args:
        meta_keys: Results that become metainfo, where they exist; ``padded`` and ``label_padded``
            of :class:`~mtkd_cd.data.transforms.geometric.MultiImgPad` do in any case.
    """

    def __init__(
        self,
        meta_keys: Sequence[str] = (
            'img_path',
            'seg_map_path',
            'seg_map_path_from',
            'seg_map_path_to',
            'ori_shape',
            'img_shape',
            'pad_shape',
            'scale_factor',
            'flip',
            'flip_direction',
            'car',
        ),
    ) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        packed = {}
        if 'img' in results:
            packed['inputs'] = torch.from_numpy(_stacked(results['img']))
        # Without the paddings a prediction cannot be brought back to the stored image.
        keys = (*self.meta_keys, *PADDINGS)
        sample = SegDataSample(metainfo={key: results[key] for key in keys if key in results})
        for key, field in _FIELDS.items():
            if key in results:
                sample.set_data(
                    {field: PixelData(data=torch.from_numpy(results[key].astype(np.int64)[None]))}
                )
        packed['data_samples'] = sample
        return packed


def _stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """The channels of all (H, W, C) or (H, W) images as (channels, H, W)."""
    images = [np.atleast_3d(image) for image in images]
    channels = [image.shape[2] for image in images]
    stacked = np.empty((sum(channels), *images[0].shape[:2]), images[0].dtype)
    parts = np.split(stacked, np.cumsum(channels)[:-1])
    for image, part in zip(images, parts):
        cv2.split(image, list(part))  # straight into its place
    return stacked
