import itertools

import numpy as np
import pytest
import torch

from mtkd_cd.core.car import (
    THRESHOLD_RULES,
    CARPartition,
    car_histogram,
    change_area_ratio,
    propose_thresholds,
    suggest_thresholds,
)
from mtkd_cd.core.errors import UserError


def test_car_counts_changed_among_valid_pixels():
    label = np.array([[0, 0, 1, 1], [0, 255, 255, 1]])  # 3 of 6 valid
    assert change_area_ratio(label) == 0.5
    assert change_area_ratio(torch.tensor(label)).item() == 0.5


def test_car_of_a_batch_is_per_image_and_zero_without_valid_pixels():
    labels = torch.stack(
        [torch.full((2, 2), 255), torch.ones(2, 2).long(), torch.tensor([[1, 0], [0, 0]])]
    )
    assert change_area_ratio(labels).tolist() == [0.0, 1.0, 0.25]
    assert change_area_ratio(labels.numpy()).tolist() == [0.0, 1.0, 0.25]


def test_default_partition_is_the_papers():
    partition = CARPartition()
    assert partition.names == ('small', 'medium', 'large')
    assert str(partition) == 'small: CAR <= 0.05, medium: 0.05 < CAR <= 0.2, large: CAR > 0.2'


@pytest.mark.parametrize(
    ('car', 'name'),
    [
        (0.0, 'small'),
        (0.05, 'small'),
        (0.05 + 1e-9, 'medium'),
        (0.2, 'medium'),
        (0.2 + 1e-9, 'large'),
        (1.0, 'large'),
    ],
)
def test_a_range_contains_its_upper_threshold(car, name):
    partition = CARPartition()
    assert partition.names[partition.range_of(car)] == name
    assert partition.names[partition.range_of(np.array([car]))[0]] == name
    assert partition.names[partition.range_of(torch.tensor([car], dtype=torch.float64))[0]] == name


def test_exact_threshold_stays_in_the_lower_range_in_single_precision():
    """8,000 of 160,000 pixels are exactly 1/20, though float32(0.05) > float64(0.05)."""
    label = torch.zeros(400, 400, dtype=torch.uint8)
    label.view(-1)[:8000] = 1
    car = change_area_ratio(label)
    assert car.dtype == torch.float32
    assert float(car) > 0.05
    assert CARPartition().range_of(car).item() == 0
    assert CARPartition().range_of(change_area_ratio(label.numpy())) == 0
    label.view(-1)[8000] = 1
    assert CARPartition().range_of(change_area_ratio(label)).item() == 1


def test_opencds_boundary_excludes_the_threshold():
    partition = CARPartition()
    assert partition.range_of(0.05, right=False) == 1
    assert partition.range_of(torch.tensor([0.05, 0.0499, 0.2]), right=False).tolist() == [1, 0, 2]


def test_shapes_and_kinds_are_kept():
    partition = CARPartition((0.1,))
    assert isinstance(partition.range_of(0.3), int)
    assert partition.range_of(np.array([[0.05, 0.3]])).tolist() == [[0, 1]]
    assert partition.range_of(torch.tensor([[0.05], [0.3]])).shape == (2, 1)
    assert partition.range_of(1) == 1


@pytest.mark.parametrize(
    ('thresholds', 'names'),
    [
        ((0.1,), ('small', 'large')),
        ((0.1, 0.2, 0.3), ('range0', 'range1', 'range2', 'range3')),
        (0.5, ('small', 'large')),
    ],
)
def test_default_names(thresholds, names):
    assert CARPartition(thresholds).names == names


def test_own_names_and_bounds():
    partition = CARPartition((0.1, 0.4), names=('few', 'some', 'many'))
    assert partition.bounds('some') == (0.1, 0.4)
    assert partition.bounds('few') == (0.0, 0.1)
    assert partition.bounds('many') == (0.4, 1.0)
    assert partition.counts(np.array([0.1, 0.1, 0.9])) == dict(few=2, some=0, many=1)


@pytest.mark.parametrize(
    'thresholds',
    [
        (),
        (0.2, 0.05),
        (0.1, 0.1),
        (0.0, 0.5),
        (0.5, 1.0),
        (-0.1,),
        ('a',),
        (float('nan'),),
        (True,),
    ],
)
def test_bad_thresholds_are_refused(thresholds):
    with pytest.raises(UserError, match='increasing order'):
        CARPartition(thresholds)


@pytest.mark.parametrize('names', [('a', 'b'), ('a', 'a', 'b'), ('a', 'b', 'c', 'd')])
def test_bad_names_are_refused(names):
    with pytest.raises(UserError, match='3 different names'):
        CARPartition((0.05, 0.2), names)


def test_unknown_name_lists_the_ranges():
    with pytest.raises(UserError, match=r"'tiny'.*small, medium, large"):
        CARPartition().bounds('tiny')


@pytest.mark.parametrize(
    'car', [-0.1, 1.1, float('nan'), np.array([0.5, 2.0]), torch.tensor([float('nan')])]
)
def test_a_car_outside_zero_to_one_is_refused(car):
    with pytest.raises(UserError, match=r'\[0, 1\]'):
        CARPartition().range_of(car)


@pytest.mark.parametrize('num_ranges', [2, 3, 4])
def test_suggested_thresholds_cut_into_about_equal_parts(num_ranges):
    cars = np.random.default_rng(0).uniform(size=3000) ** 3
    thresholds = suggest_thresholds(cars, num_ranges)
    counts = CARPartition(thresholds, None).counts(cars)
    assert len(counts) == num_ranges
    assert all(abs(count / 3000 - 1 / num_ranges) < 0.03 for count in counts.values())


def test_suggestion_never_leaves_a_range_empty():
    assert suggest_thresholds(np.full(10, 0.3), 3) == ()
    cars = np.array([0.0, 0.1, 0.1, 0.7])
    thresholds = suggest_thresholds(cars, 2)
    assert thresholds
    assert all(CARPartition(thresholds).counts(cars).values())
    assert suggest_thresholds(np.array([]), 3) == ()


def test_histogram_counts_add_up():
    cars = np.array([0.0, 0.001, 0.03, 0.05, 0.06, 0.9])
    lines = car_histogram(cars, CARPartition()).splitlines()
    assert sum(int(line.split('%')[0].split()[-2]) for line in lines[:11]) == 6
    assert [line.split()[:2] for line in lines[11:]] == [
        ['small', '4'],
        ['medium', '1'],
        ['large', '1'],
    ]


def test_thresholds_of_equal_changed_pixels_weigh_images_by_their_pixels():
    cars = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    # Of 100 changed pixels: 0, 10, 20, 30, 40 where all images are equally large; half of them lie
    # up to 0.3.
    assert suggest_thresholds(cars, 2, 'pixels') == (0.3,)
    assert suggest_thresholds(cars, 2, 'pixels', np.array([0, 70, 10, 10, 10])) == (0.1,)
    assert suggest_thresholds(cars, 2, 'images') == (0.2,)


def test_log_thresholds_are_equal_steps_between_the_quantiles_of_the_changed_images():
    cars = np.concatenate([np.zeros(50), np.logspace(-4, 0, 1001)])
    low, middle, high = suggest_thresholds(cars, 4, 'log')
    # 5 % and 95 % of the changed ones are 10^-3.8 and 10^-0.2: steps of 10^0.9.
    assert (low, middle, high) == pytest.approx((10**-2.9, 10**-2, 10**-1.1), rel=0.05)


@pytest.mark.parametrize('rule', THRESHOLD_RULES)
@pytest.mark.parametrize('seed', range(20))
def test_proposals_have_as_many_ranges_as_wanted_and_none_is_empty(rule, seed):
    rng = np.random.default_rng(seed)
    cars = rng.choice([0.0, 0.0, 1e-5, 0.003, 0.0031, 0.2, 0.9, 1.0], rng.integers(8, 30))
    for num_ranges in range(2, len(set(cars)) + 1):
        thresholds = propose_thresholds(cars, num_ranges)[rule]
        edges = [-1, *thresholds, 1]
        assert len(thresholds) == num_ranges - 1
        assert all(
            any(low < car <= high for car in cars) for low, high in itertools.pairwise(edges)
        )


def test_rounding_moves_at_most_one_image_in_a_hundred():
    cars = 0.5 + np.random.default_rng(0).uniform(size=1000) / 1000
    (threshold,) = suggest_thresholds(cars, 2)
    assert abs(np.mean(cars <= threshold) - 0.5) <= 0.01
    assert len(str(threshold)) <= len('0.50053')


@pytest.mark.parametrize(
    ('cars', 'num_ranges', 'message'),
    [
        (
            [0.1, 0.1, 0.4],
            3,
            '3 labels have 2 different CARs, so that they can be cut into 2 to 2 ranges',
        ),
        ([0.1, 0.4], 1, '1 CAR ranges'),
        ([0.3, 0.3], 2, '1 different CARs.*no ranges'),
        ([], 2, '0 different CARs'),
    ],
)
def test_more_ranges_than_different_cars_are_refused(cars, num_ranges, message):
    with pytest.raises(UserError, match=message):
        propose_thresholds(np.array(cars), num_ranges)


def test_an_unknown_rule_is_refused():
    with pytest.raises(UserError, match='images, pixels, log'):
        suggest_thresholds(np.array([0.1, 0.2]), 2, 'median')


@pytest.mark.parametrize(
    ('thresholds', 'tag'), [((0.05, 0.2), ''), ((0.1,), '0.1'), ((0.1, 0.35), '0.1_0.35')]
)
def test_partition_has_a_name_for_folders(thresholds, tag):
    assert CARPartition(thresholds).tag == tag
