"""Packing a pair for the model."""

import numpy as np
import torch

from mtkd_cd.data.transforms import MultiImgPackSegInputs


def test_dates_follow_each_other_on_the_channel_axis(results):
    pair = results(6, 9)
    inputs = MultiImgPackSegInputs()(pair)['inputs']
    assert inputs.dtype == torch.uint8
    assert inputs.shape == (6, 6, 9)
    for channel in range(6):
        np.testing.assert_array_equal(inputs[channel], pair['img'][channel // 3][..., channel % 3])


def test_views_floats_and_gray_images_are_packed_too(results):
    pair = results(6, 9)
    pair['img'] = [image[::-1, 2:].astype(np.float32) for image in pair['img']]
    inputs = MultiImgPackSegInputs()(dict(pair))['inputs']
    assert inputs.dtype == torch.float32
    np.testing.assert_array_equal(inputs[4], pair['img'][1][..., 1])
    assert MultiImgPackSegInputs()({'img': [np.zeros((4, 5), np.uint8)] * 2})['inputs'].shape == (
        2,
        4,
        5,
    )


def test_labels_become_int64_fields(results):
    pair = results(6, 9)
    pair.update(
        gt_seg_map_from=pair['gt_seg_map'] + 1,
        gt_seg_map_to=pair['gt_seg_map'] + 2,
        gt_edge_map=pair['gt_seg_map'] + 3,
    )
    pair['gt_seg_map'] = pair['gt_seg_map'][::-1]
    sample = MultiImgPackSegInputs()(pair)['data_samples']
    assert set(sample.keys()) == {'gt_sem_seg', 'gt_edge_map', 'gt_sem_seg_from', 'gt_sem_seg_to'}
    assert sample.gt_sem_seg.data.dtype == torch.int64
    np.testing.assert_array_equal(sample.gt_sem_seg.data, pair['gt_seg_map'][None])
    np.testing.assert_array_equal(sample.gt_sem_seg_to.data, pair['gt_seg_map_to'][None])


def test_metainfo_holds_the_keys_there_are_and_the_car(results):
    pair = {**results(6, 9), 'img_path': ['a', 'b'], 'flip': False, 'unknown': 1}
    sample = MultiImgPackSegInputs()(pair)['data_samples']
    assert sample.metainfo == {
        'img_path': ['a', 'b'],
        'ori_shape': (6, 9),
        'img_shape': (6, 9),
        'flip': False,
        'car': pair['car'],
    }
    assert set(MultiImgPackSegInputs(meta_keys=['unknown'])(pair)['data_samples'].metainfo) == {
        'unknown'
    }
    assert 'gt_sem_seg' not in MultiImgPackSegInputs()({'img': pair['img']})['data_samples']
