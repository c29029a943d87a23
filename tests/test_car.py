import numpy as np
import pytest
import torch

from mtkd_cd.car import CARPartition, car_histogram, change_area_ratio, suggest_thresholds
from mtkd_cd.errors import UserError


def test_car_counts_changed_among_valid_pixels():
    label = np.array([[0, 0, 1, 1], [0, 255, 255, 1]])  # 3 of 6 valid
    assert change_area_ratio(label) == 0.5
    assert change_area_ratio(torch.tensor(label)).item() == 0.5


def test_car_of_a_batch_is_per_image_and_zero_without_valid_pixels():
    labels = torch.stack([torch.full((2, 2), 255), torch.ones(2, 2).long(), torch.tensor([[1, 0], [0, 0]])])
    assert change_area_ratio(labels).tolist() == [0.0, 1.0, 0.25]
    assert change_area_ratio(labels.numpy()).tolist() == [0.0, 1.0, 0.25]


def test_default_partition_is_the_papers():
    partition = CARPartition()
    assert partition.names == ('small', 'medium', 'large')
    assert str(partition) == 'small: CAR <= 0.05, medium: 0.05 < CAR <= 0.2, large: CAR > 0.2'


@pytest.mark.parametrize(
    ('car', 'name'),
    [(0.0, 'small'), (0.05, 'small'), (0.05 + 1e-9, 'medium'), (0.2, 'medium'), (0.2 + 1e-9, 'large'), (1.0, 'large')],
)
def test_a_range_contains_its_upper_threshold(car, name):
    partition = CARPartition()
    assert partition.name_of(car) == name
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
    [((0.1,), ('small', 'large')), ((0.1, 0.2, 0.3), ('range0', 'range1', 'range2', 'range3')), (0.5, ('small', 'large'))],
)
def test_default_names(thresholds, names):
    assert CARPartition(thresholds).names == names


def test_own_names_and_bounds():
    partition = CARPartition((0.1, 0.4), names=('few', 'some', 'many'))
    assert partition.bounds('some') == (0.1, 0.4)
    assert partition.bounds('few') == (0.0, 0.1)
    assert partition.bounds('many') == (0.4, 1.0)
    assert partition.counts(np.array([0.1, 0.1, 0.9])) == dict(few=2, some=0, many=1)


@pytest.mark.parametrize('thresholds', [(), (0.2, 0.05), (0.1, 0.1), (0.0, 0.5), (0.5, 1.0), (-0.1,), ('a',), (float('nan'),), (True,)])
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


@pytest.mark.parametrize('car', [-0.1, 1.1, float('nan'), np.array([0.5, 2.0]), torch.tensor([float('nan')])])
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
    assert [line.split()[:2] for line in lines[11:]] == [['small', '4'], ['medium', '1'], ['large', '1']]
