"""Transforms of colours."""

import numpy as np
import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.transforms import (
    MultiImgAdjustGamma,
    MultiImgNormalize,
    MultiImgPhotoMetricDistortion,
    MultiImgRerange,
)

SETTINGS = {
    'brightness_delta': 10,
    'contrast_range': (0.8, 1.2),
    'saturation_range': (0.8, 1.2),
    'hue_delta': 10,
}


def test_each_date_has_its_own_draws(results):
    transform = MultiImgPhotoMetricDistortion(**SETTINGS)
    np.random.seed(0)
    equal = sum(np.array_equal(*transform(results(8, 8, same=True))['img']) for _ in range(200))
    # Equal only where neither date is changed, (1/2)^8, or by chance.
    assert equal < 20


@pytest.mark.parametrize('shift', [7.0, 3.6, -0.5, -3.6, 3.9999999, -3.0000001, 300.5, -300.5, 0.0])
def test_brightness_is_the_truncated_sum_for_every_level(shift, monkeypatch):
    coins = iter([1, 0, 0, 0, 0])  # brightness alone
    monkeypatch.setattr(np.random, 'randint', lambda *_: next(coins))
    monkeypatch.setattr(np.random, 'uniform', lambda *_: shift)
    levels = np.arange(256, dtype=np.uint8)
    image = np.stack([levels, levels[::-1], levels], axis=-1).reshape(16, 16, 3)
    expected = np.clip(image.astype(np.float32) + np.float32(shift), 0, 255).astype(np.uint8)
    # A view, as a crop gives it.
    whole = np.pad(image, ((2, 1), (3, 4), (0, 0)))
    found = MultiImgPhotoMetricDistortion(**SETTINGS)({'img': [whole[2:-1, 3:-4]]})
    np.testing.assert_array_equal(found['img'][0], expected)


def test_label_and_shape_stay(results):
    pair = results()
    distorted = MultiImgPhotoMetricDistortion(**SETTINGS)(dict(pair))
    assert distorted['gt_seg_map'] is pair['gt_seg_map']
    assert distorted['img_shape'] == pair['img_shape']


def test_consistent_contrast_mode_puts_contrast_at_the_same_place_in_both_dates(results, plain):
    transform = MultiImgPhotoMetricDistortion(**SETTINGS, consistent_contrast_mode=True)
    for seed in range(30):
        pair = results(16, 16, seed)
        np.random.seed(seed)
        found = transform(dict(pair))['img']
        np.random.seed(seed)
        early = np.random.randint(2)
        np.testing.assert_array_equal(found, [plain.distort(date, early) for date in pair['img']])


def test_float_images_stay_float_whatever_the_coins_say(results, plain):
    transform = MultiImgPhotoMetricDistortion(**SETTINGS)
    for seed in range(10):
        pair = results(16, 16)
        floats = [date.astype(np.float32) + 0.25 for date in pair['img']]
        kept = [date.copy() for date in floats]
        np.random.seed(seed)
        found = transform({**pair, 'img': floats})['img']
        np.random.seed(seed)
        np.testing.assert_array_equal(found, [plain.distort(date) for date in pair['img']])
        assert found[0].dtype == found[1].dtype == np.float32
        np.testing.assert_array_equal(floats, kept)


def test_normalize_works_on_each_date_and_records_its_settings(results):
    pair = results()
    mean, std = [120.0, 110.0, 100.0], [60.0, 55.0, 50.0]
    found = MultiImgNormalize(mean, std)(dict(pair))
    for image, date in zip(found['img'], pair['img']):
        assert image.dtype == np.float32
        np.testing.assert_allclose(
            image, (date[..., ::-1] - np.array(mean)) / std, rtol=1e-5, atol=1e-5
        )
    assert found['img_norm_cfg']['to_rgb'] is True


def test_rerange_stretches_each_date_and_survives_a_constant_one(results):
    pair = results()
    pair['img'][1][:] = 3
    found = MultiImgRerange(0, 1)(pair)['img']
    assert (found[0].min(), found[0].max()) == (0, 1)
    assert (found[1] == 0).all()


@pytest.mark.parametrize(
    ('build', 'text'),
    [(lambda: MultiImgRerange(5, 5), 'min_value=5'), (lambda: MultiImgAdjustGamma(0), 'gamma=0')],
)
def test_wrong_settings_are_refused_by_name(build, text):
    with pytest.raises(UserError, match=text):
        build()
