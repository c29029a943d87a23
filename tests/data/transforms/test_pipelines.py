"""The two training pipelines of the benchmark against a plain implementation of the
specification."""

import pickle

import cv2
import numpy as np
import pytest
from mmengine.dataset import Compose
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS

from mtkd_cd.registry import TRANSFORMS

DISTORTION = {
    'type': 'MultiImgPhotoMetricDistortion',
    'brightness_delta': 10,
    'contrast_range': (0.8, 1.2),
    'saturation_range': (0.8, 1.2),
    'hue_delta': 10,
}


def make_pipeline(name, crop):
    crop_step = {'type': 'MultiImgRandomCrop', 'crop_size': (crop, crop), 'cat_max_ratio': 0.75}
    if name == 'p1':
        steps = [
            {'type': 'MultiImgRandomRotate', 'prob': 0.5, 'degree': 180},
            crop_step,
            {'type': 'MultiImgRandomFlip', 'prob': 0.5, 'direction': 'horizontal'},
            {'type': 'MultiImgRandomFlip', 'prob': 0.5, 'direction': 'vertical'},
        ]
    else:
        steps = [
            {
                'type': 'MultiImgRandomRotFlip',
                'rotate_prob': 0.5,
                'flip_prob': 0.5,
                'degree': (-20, 20),
            },
            crop_step,
            {'type': 'MultiImgExchangeTime', 'prob': 0.5},
        ]
    loading = [{'type': 'MultiImgLoadImageFromFile'}, {'type': 'MultiImgLoadAnnotations'}]
    return Compose([*loading, *steps, DISTORTION, {'type': 'MultiImgPackSegInputs'}])


@pytest.mark.parametrize(('size', 'crop'), [(512, 512), (400, 256)])
@pytest.mark.parametrize('name', ['p1', 'p2'])
def test_samples_and_generator_state_equal_the_specification(
    name, size, crop, scene, plain, tmp_path
):
    date_a, date_b, label = scene(size, size)
    paths = [str(tmp_path / file) for file in ('a.png', 'b.png', 'label.png')]
    for path, image in zip(paths, (date_a, date_b, label * 255)):
        cv2.imwrite(path, image)
    pipeline = make_pipeline(name, crop)
    outcomes = set()
    for seed in range(22):
        np.random.seed(seed)
        packed = pipeline(
            {'img_path': paths[:2], 'seg_map_path': paths[2], 'format_seg_map': 'to_binary'}
        )
        state = np.random.get_state()
        np.random.seed(seed)
        inputs, target = getattr(plain, name)([date_a, date_b], label, crop)
        np.testing.assert_array_equal(packed['inputs'], inputs)
        np.testing.assert_array_equal(packed['data_samples'].gt_sem_seg.data, target)
        assert pickle.dumps(state) == pickle.dumps(np.random.get_state())
        assert packed['data_samples'].car == label.mean()
        outcomes.add(inputs.tobytes())
    assert len(outcomes) == 22


@pytest.mark.parametrize(
    'config',
    [
        {'type': 'RandomRotate', 'prob': 0.7, 'degree': (-50, 100)},
        {'type': 'RandomCrop', 'crop_size': (30, 40), 'cat_max_ratio': 0.75},
        {'type': 'RandomFlip', 'prob': [0.3, 0.4], 'direction': ['horizontal', 'diagonal']},
        {'type': 'PhotoMetricDistortion'},
        {'type': 'RandomResize', 'scale': (70, 60), 'ratio_range': (0.5, 2.0), 'keep_ratio': True},
        {'type': 'RandomResize', 'scale': [(30, 20), (90, 80)], 'keep_ratio': False},
        {'type': 'ResizeToMultiple', 'size_divisor': 20},
        {'type': 'ResizeShortestEdge', 'scale': 30, 'max_size': 35},
        {'type': 'Pad', 'size': (80, 70)},
        {
            'type': 'RandomCutOut',
            'prob': 0.8,
            'n_holes': (1, 4),
            'cutout_shape': [(8, 4), (5, 9)],
            'seg_fill_in': 255,
        },
        {'type': 'CLAHE', 'clip_limit': 2.0, 'tile_grid_size': (4, 4)},
        {'type': 'AdjustGamma', 'gamma': 1.7},
        {'type': 'Rerange', 'min_value': -1, 'max_value': 1},
        {'type': 'RGB2Gray'},
        {'type': 'Normalize', 'mean': [120.0, 110.0, 100.0], 'std': [60.0, 55.0, 50.0]},
    ],
    ids=lambda config: config['type'],
)
def test_each_step_does_to_one_date_what_mmseg_does_to_its_image(config, results):
    theirs, ours = (
        MMSEG_TRANSFORMS.build(config),
        TRANSFORMS.build({**config, 'type': f'MultiImg{config["type"]}'}),
    )
    for seed in range(8):
        pair = results(seed=seed)
        np.random.seed(seed)
        expected = theirs(
            {
                'img': pair['img'][1].copy(),
                'gt_seg_map': pair['gt_seg_map'].copy(),
                'seg_fields': ['gt_seg_map'],
            }
        )
        state = np.random.get_state()
        np.random.seed(seed)
        found = ours({**pair, 'img': pair['img'][1:]})
        np.testing.assert_array_equal(
            found['img'][0], expected['img'].astype(found['img'][0].dtype)
        )
        np.testing.assert_array_equal(found['gt_seg_map'], expected['gt_seg_map'])
        assert pickle.dumps(state) == pickle.dumps(np.random.get_state())


@pytest.mark.parametrize('name', ['p1', 'p2'])
def test_pipelines_leave_the_arrays_of_the_user_alone(name, results):
    steps = Compose(make_pipeline(name, 32).transforms[2:])
    for seed in range(8):
        pair = results()
        kept = [array.copy() for array in (*pair['img'], pair['gt_seg_map'])]
        arrays = (*pair['img'], pair['gt_seg_map'])
        np.random.seed(seed)
        steps(pair)
        assert all(np.array_equal(array, copy) for array, copy in zip(arrays, kept))


def test_every_transform_shows_its_settings():
    text = repr(TRANSFORMS.build({'type': 'MultiImgRandomRotate', 'prob': 0.25, 'degree': 7}))
    assert text.startswith('MultiImgRandomRotate(')
    assert 'prob=0.25' in text
    assert 'degree=(-7, 7)' in text
