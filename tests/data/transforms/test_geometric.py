"""Transforms that move pixels: the same for both dates and the label."""

import numpy as np
import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.transforms import (
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
from mtkd_cd.registry import TRANSFORMS

GEOMETRIC = [
    {'type': 'MultiImgResize', 'scale': (80, 80), 'keep_ratio': True},
    {'type': 'MultiImgResize', 'scale_factor': (0.5, 1.5)},
    {'type': 'MultiImgRandomResize', 'scale': (64, 48), 'ratio_range': (0.5, 2.0)},
    {'type': 'MultiImgResizeToMultiple', 'size_divisor': 28},
    {'type': 'MultiImgResizeShortestEdge', 'scale': 60, 'max_size': 70},
    {'type': 'MultiImgRandomRotate', 'prob': 0.8, 'degree': 180},
    {'type': 'MultiImgRandomRotate', 'prob': 0.8, 'degree': 180, 'auto_bound': True},
    {'type': 'MultiImgRandomRotate', 'prob': 0.8, 'degree': 30, 'center': (10, 20)},
    {'type': 'MultiImgRandomRotFlip'},
    {'type': 'MultiImgRandomCrop', 'crop_size': (20, 30), 'cat_max_ratio': 0.75},
    {
        'type': 'MultiImgRandomFlip',
        'prob': 0.9,
        'direction': ['horizontal', 'vertical', 'diagonal'],
    },
    {'type': 'MultiImgPad', 'size_divisor': 40},
    {
        'type': 'MultiImgRandomCutOut',
        'prob': 0.9,
        'n_holes': 2,
        'cutout_ratio': (0.3, 0.2),
        'seg_fill_in': 0,
    },
]


@pytest.mark.parametrize('config', GEOMETRIC, ids=lambda config: f'{config["type"]}-{len(config)}')
def test_one_draw_moves_both_dates_and_the_label(config, results):
    transform = TRANSFORMS.build(config)
    changed = False
    for seed in range(10):
        pair = results(same=True)
        # Changed pixels are white, the others black, so the images show where the label should be.
        pair['img'] = [np.dstack([pair['gt_seg_map'] * 255] * 3) for _ in range(2)]
        before = pair['gt_seg_map']
        np.random.seed(seed)
        pair = transform(pair)
        np.testing.assert_array_equal(*pair['img'])
        label = pair['gt_seg_map']
        assert pair['img_shape'] == pair['img'][0].shape[:2] == label.shape
        valid = label != 255
        # Images are interpolated, labels are not: they may differ along the edges of the blob.
        assert np.mean((pair['img'][0][..., 0] > 127)[valid] != label[valid]) < 0.04
        changed |= not np.array_equal(before, label)
    assert changed


def test_rotation_fills_the_label_with_255_and_leaves_the_car(results):
    pair = results()
    car = pair['car']
    np.random.seed(1)
    pair = MultiImgRandomRotate(prob=1, degree=(45, 45))(pair)
    corners = np.ix_((0, -1), (0, -1))
    assert (pair['gt_seg_map'][corners] == 255).all()
    assert all((image[corners] == 0).all() for image in pair['img'])
    assert pair['car'] == car
    assert set(np.unique(pair['gt_seg_map'])) == {0, 1, 255}


def test_fill_of_images_is_for_all_channels_or_per_channel(results):
    for pad_val, expected in ((127, (127, 127, 127)), ((1, 2, 3), (1, 2, 3))):
        for transform in (
            MultiImgRandomRotate(1, (45, 45), pad_val=pad_val, seg_pad_val=9),
            MultiImgRandomRotFlip(1, degree=(45, 45), pad_val=pad_val, seg_pad_val=9),
        ):
            pair = transform(results())
            assert tuple(pair['img'][1][0, 0]) == expected
            assert pair['gt_seg_map'][0, 0] == 9


def test_positive_angles_turn_clockwise(results):
    pair = results(40, 40)
    before = pair['gt_seg_map']
    pair = MultiImgRandomRotate(prob=1, degree=(90, 90))(pair)
    np.testing.assert_array_equal(pair['gt_seg_map'], np.rot90(before, -1))


def test_auto_bound_keeps_the_whole_image(results):
    pair = MultiImgRandomRotate(prob=1, degree=(90, 90), auto_bound=True)(results(30, 50))
    assert pair['img_shape'] == pair['img'][0].shape[:2] == (50, 30)


def test_rotate_draws_twice_whether_it_rotates_or_not(results):
    for prob in (0, 1):
        np.random.seed(3)
        MultiImgRandomRotate(prob=prob, degree=10)(results())
        following = np.random.rand()
        np.random.seed(3)
        assert following == np.random.random_sample(3)[2]


def test_turns_swap_the_sides_of_an_oblong_image(results):
    shapes = set()
    for seed in range(20):
        np.random.seed(seed)
        shapes.add(MultiImgRandomRotFlip(rotate_prob=0, flip_prob=1)(results(20, 30))['img_shape'])
    assert shapes == {(20, 30), (30, 20)}


def test_effective_rates_of_rotflip(results):
    np.random.seed(0)
    pair = results(24, 24)
    pixels = np.sort(pair['img'][0].ravel())
    counts = {'rotated': 0, 'turned': 0, 'same': 0}
    for _ in range(2000):
        image = MultiImgRandomRotFlip()(dict(pair))['img'][0]
        same_pixels = np.array_equal(np.sort(image.ravel()), pixels)
        counts['same' if image is pair['img'][0] else 'turned' if same_pixels else 'rotated'] += 1
    assert counts == {
        'rotated': pytest.approx(1000, abs=80),
        'turned': pytest.approx(500, abs=70),
        'same': pytest.approx(500, abs=70),
    }


def test_crop_with_one_place_is_taken_without_a_draw_or_a_look_at_the_label(results):
    pair = results(20, 30)
    del pair['gt_seg_map'], pair['seg_fields']
    np.random.seed(0)
    state = np.random.get_state()[1].tolist()
    cropped = MultiImgRandomCrop((20, 30), cat_max_ratio=0.5)(dict(pair))
    np.testing.assert_array_equal(cropped['img'], pair['img'])
    assert np.random.get_state()[1].tolist() == state
    assert MultiImgRandomCrop(64)(dict(pair))['img_shape'] == (20, 30)


def test_crop_uses_the_eleventh_box_untested(results):
    pair = results(20, 30)
    pair['gt_seg_map'][:] = 0
    np.random.seed(5)
    cropped = MultiImgRandomCrop(10, cat_max_ratio=0.75)(dict(pair))
    np.random.seed(5)
    for _ in range(11):
        top, left = np.random.randint(0, 11), np.random.randint(0, 21)
    np.testing.assert_array_equal(
        cropped['img'][0], pair['img'][0][top : top + 10, left : left + 10]
    )


def test_crop_accepts_by_the_share_of_valid_pixels(results):
    transform = MultiImgRandomCrop(10, cat_max_ratio=0.75)

    def is_mixed(unchanged, changed, ignored):
        return transform._is_mixed(
            np.repeat(np.uint8([0, 1, 255]), [unchanged, changed, ignored]).reshape(10, 10)
        )

    assert is_mixed(50, 20, 30)  # 71 %
    assert not is_mixed(50, 10, 40)  # 83 %
    assert not is_mixed(75, 25, 0)  # exactly 75 %
    assert not is_mixed(50, 0, 50)  # one class
    assert not is_mixed(0, 0, 100)


@pytest.mark.parametrize(
    ('direction', 'axes'), [('horizontal', 1), ('vertical', 0), ('diagonal', (0, 1))]
)
def test_flip_directions(direction, axes, results):
    pair = results()
    flipped = MultiImgRandomFlip(prob=1.0, direction=direction)(dict(pair))
    for found, image in zip(
        (*flipped['img'], flipped['gt_seg_map']), (*pair['img'], pair['gt_seg_map'])
    ):
        np.testing.assert_array_equal(found, np.flip(image, axes))
    assert (flipped['flip'], flipped['flip_direction']) == (True, direction)


def test_record_of_flips_in_a_row_tells_what_undoes_them(results):
    def run(*directions):
        pair = results()
        for direction in directions:
            pair = MultiImgRandomFlip(
                prob=float(direction is not None), direction=direction or 'vertical'
            )(pair)
        return pair['flip'], pair['flip_direction']

    assert run(None) == (False, None)
    assert run('horizontal', None) == (True, 'horizontal')
    assert run('horizontal', 'vertical') == (True, 'diagonal')
    assert run('horizontal', 'horizontal') == (False, None)
    assert run('diagonal', 'vertical') == (True, 'horizontal')


def test_resize_records_the_true_scale_factor(results):
    pair = MultiImgResize(scale=(100, 60), keep_ratio=True)(results(48, 64))
    assert pair['img_shape'] == (60, 80)
    assert pair['scale'] == (100, 60)
    assert pair['scale_factor'] == (1.25, 1.25)
    pair = MultiImgResize(scale=32)(results(48, 64))
    assert pair['scale_factor'] == (0.5, 32 / 48)
    assert pair['gt_seg_map'].shape == (32, 32)


def test_resize_to_the_same_size_keeps_the_arrays(results):
    pair = results(48, 64)
    resized = MultiImgResize(scale=(64, 64), keep_ratio=True)(dict(pair))
    assert resized['img'][0] is pair['img'][0]
    assert resized['img_shape'] == (48, 64)


def test_pad_by_divisor_square_and_size(results):
    pair = MultiImgPad(size_divisor=32, pad_val=7)(results(20, 40))
    assert pair['pad_shape'] == pair['img_shape'] == (32, 64)
    assert (pair['img'][1][20:] == 7).all()
    assert (pair['gt_seg_map'][:, 40:] == 255).all()
    assert MultiImgPad(pad_to_square=True, size_divisor=32)(results(20, 40))['pad_shape'] == (
        64,
        64,
    )
    pair = MultiImgPad(size=(50, 30), pad_val={'img': (1, 2, 3), 'seg': 0})(results(20, 40))
    assert pair['img_shape'] == (30, 50)
    assert tuple(pair['img'][0][-1, -1]) == (1, 2, 3)
    assert pair['gt_seg_map'][-1, -1] == 0


def test_padding_is_noted_through_later_flips_and_resizing(results):
    """A mark in the padded corner stays where the note says."""
    pair = results(20, 40)
    pair['img'] = [np.ones_like(image) for image in pair['img']]
    for step in (
        MultiImgPad(size_divisor=32),
        MultiImgRandomFlip(1.0, 'diagonal'),
        MultiImgResize(scale=(128, 96)),
    ):
        pair = step(pair)
    left, right, top, bottom = pair['padded']
    assert (left, right, top, bottom) == pair['label_padded'] == (48, 0, 36, 0)
    stored = pair['img'][0][top + 3 :, left + 3 :]
    assert stored.all()
    assert not pair['img'][0][: top - 3, : left - 3].any()
    unlabelled = {key: value for key, value in results(20, 40).items() if key != 'gt_seg_map'}
    padded = MultiImgPad(size_divisor=32)(dict(unlabelled, seg_fields=[]))
    assert padded['padded'] == (0, 24, 0, 12)
    assert 'label_padded' not in padded


def test_cutout_leaves_the_label_unless_told(results):
    pair = results()
    np.random.seed(0)
    cut = MultiImgRandomCutOut(prob=1, n_holes=3, cutout_shape=(8, 8), fill_in=(9, 8, 7))(
        dict(pair)
    )
    assert any((cut['img'][0] == (9, 8, 7)).all(-1).ravel())
    np.testing.assert_array_equal(cut['gt_seg_map'], pair['gt_seg_map'])


def test_exchange_swaps_dates_and_their_labels_but_not_the_change_label(results):
    pair = results()
    pair.update(gt_seg_map_from=np.uint8([[1]]), gt_seg_map_to=np.uint8([[2]]), img_path=['a', 'b'])
    pair['seg_fields'] += ['gt_seg_map_from', 'gt_seg_map_to']
    swapped = MultiImgExchangeTime(prob=1)(dict(pair))
    np.testing.assert_array_equal(swapped['img'], pair['img'][::-1])
    assert (swapped['gt_seg_map_from'], swapped['gt_seg_map_to']) == (2, 1)
    assert swapped['gt_seg_map'] is pair['gt_seg_map']
    assert swapped['img_path'] == ['a', 'b']
    assert MultiImgExchangeTime(prob=1)({'img': [0, 1]})['img'] == [1, 0]


@pytest.mark.parametrize(
    ('build', 'text'),
    [
        (lambda: MultiImgResize(), 'scale'),
        (lambda: MultiImgResize(scale=(1, 2, 3)), r'scale=\(1, 2, 3\)'),
        (lambda: MultiImgRandomResize(scale=(64, 64)), 'ratio_range'),
        (lambda: MultiImgRandomRotate(prob=0.5, degree=0), 'degree=0'),
        (lambda: MultiImgRandomRotate(prob=1.5, degree=10), r'prob=1\.5'),
        (
            lambda: MultiImgRandomRotate(prob=1, degree=10, center=(1, 1), auto_bound=True),
            'auto_bound',
        ),
        (lambda: MultiImgRandomRotFlip(flip_prob=-1), 'flip_prob=-1'),
        (lambda: MultiImgRandomCrop(crop_size=(0, 5)), 'crop_size'),
        (lambda: MultiImgRandomFlip(prob=0.5, direction='up'), "direction='up'"),
        (
            lambda: MultiImgRandomFlip(prob=[0.5, 0.6], direction=['horizontal', 'vertical']),
            '1 or less',
        ),
        (
            lambda: MultiImgRandomFlip(prob=[0.5], direction=['horizontal', 'vertical']),
            'one probability for each',
        ),
        (lambda: MultiImgPad(), 'size_divisor'),
        (lambda: MultiImgPad(size=(8, 8), size_divisor=8), 'size_divisor'),
        (lambda: MultiImgRandomCutOut(prob=0.5, n_holes=1), 'cutout_shape'),
        (lambda: MultiImgResizeShortestEdge(scale='x', max_size=5), "scale='x'"),
    ],
)
def test_wrong_settings_are_refused_by_name(build, text):
    with pytest.raises(UserError, match=text):
        build()


def test_resize_to_multiple_writes_both_shapes(results):
    pair = MultiImgResizeToMultiple(32)(results(40, 60))
    assert pair['img_shape'] == pair['pad_shape'] == (64, 64)
