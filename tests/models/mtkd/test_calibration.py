"""Routings from hand-made validation tables."""

import itertools

import numpy as np
import pytest

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.evaluation import ImageTable
from mtkd_cd.models.mtkd.calibration import calibrate_routing

PIXELS = 1000
PARTITION = CARPartition()
NAMES = ('origin', 'small', 'medium', 'large')


def table(cars, errors):
    """Images of the given CARs, predicted with the right CAR; ``errors`` pixels missed and as many
    false alarms, so fewer are better."""
    changed = np.round(np.asarray(cars) * PIXELS).astype(int)
    errors = np.broadcast_to(errors, changed.shape)
    counts = np.stack([changed - errors, errors, errors, PIXELS - changed - errors], 1)
    assert (counts >= 0).all()
    return ImageTable(
        [f'{i}.png' for i in range(len(cars))], counts, [None] * len(cars), [None] * len(cars)
    )


def tables(cars, **errors):
    return {name: table(cars, errors[name]) for name in NAMES}


def iou(counts):
    """Mean IoU of the two classes in percent, written out; no class of these images is empty."""
    tp, fp, fn, tn = counts.T.astype(float)
    return 50 * (tp / (tp + fp + fn) + tn / (tn + fp + fn))


THREE_OF_EACH = [0.02, 0.03, 0.04, 0.1, 0.11, 0.12, 0.5, 0.6, 0.7]


def test_range_is_taught_by_whoever_does_best_there():
    """small: its own; medium: the specialist of large; large: its specialist is worse than the
    origin, so never teaches."""
    given = tables(
        THREE_OF_EACH,
        origin=[5] * 9,
        small=[4] * 3 + [6] * 6,
        medium=[6] * 3 + [5] * 3 + [9] * 3,
        large=[6] * 3 + [4] * 3 + [7] * 3,
    )
    routing = calibrate_routing(given, PARTITION, min_images=3)
    assert routing.teachers == ('small', 'large', 'origin')
    small = routing.evidence['teachers']['small']
    assert small['images'] == 3
    assert small['mIoU']['small'] == pytest.approx(iou(given['small'].counts[:3]).mean(), abs=1e-4)
    assert list(small['mIoU']) == list(NAMES)


def test_equal_specialists_leave_the_range_to_its_own_and_an_equal_origin_keeps_it():
    given = tables(
        THREE_OF_EACH, origin=[5] * 6 + [4] * 3, small=[4] * 9, medium=[4] * 9, large=[4] * 9
    )
    assert calibrate_routing(given, PARTITION, min_images=3).teachers == (
        'small',
        'medium',
        'origin',
    )


def test_range_with_too_few_images_or_none_stays_with_the_origin():
    given = tables(
        [0.02] * 3 + [0.1] * 2, origin=[9] * 5, small=[1] * 5, medium=[1] * 5, large=[1] * 5
    )
    assert calibrate_routing(given, PARTITION, min_images=3).teachers == (
        'small',
        'origin',
        'origin',
    )
    assert calibrate_routing(given, PARTITION, min_images=2).teachers == (
        'small',
        'medium',
        'origin',
    )
    assert calibrate_routing(given, PARTITION, min_images=3).evidence['teachers']['large'] == {
        'images': 0,
        'mIoU': {},
    }


FORTY = np.arange(1, 41) / 50  # 0.02, 0.04, ..., 0.8


def test_cascade_is_cut_where_the_best_detector_changes():
    given = tables(
        FORTY,
        origin=[5] * 40,
        small=[4] * 15 + [9] * 25,
        medium=[9] * 40,
        large=[9] * 25 + [4] * 15,
    )
    routing = calibrate_routing(given, PARTITION)
    assert routing.detectors == ('small', 'origin', 'large')
    assert routing.cuts == pytest.approx((0.31, 0.51))  # between 0.30 and 0.32, 0.50 and 0.52
    assert [part['images'] for part in routing.evidence['cascade']] == [15, 10, 15]
    best = np.minimum.reduce([given[name].counts[:, 1] for name in NAMES])
    assert routing.evidence['mIoU']['validated'] == pytest.approx(
        iou(table(FORTY, best).counts).mean(), abs=1e-4
    )
    assert routing.evidence['mIoU']['origin'] == pytest.approx(
        iou(given['origin'].counts).mean(), abs=1e-4
    )


def test_threshold_of_the_partition_is_preferred_inside_a_gap():
    given = tables(
        FORTY, origin=[5] * 40, small=[9] * 40, medium=[9] * 40, large=[9] * 10 + [4] * 30
    )
    assert calibrate_routing(given, CARPartition((0.1, 0.2))).cuts == (
        0.2,
    )  # 0.20 is the last that large is worse on
    assert calibrate_routing(given, CARPartition((0.1, 0.23))).cuts == (pytest.approx(0.21),)


def test_papers_routing_is_scored_beside_the_origin():
    errors = dict(origin=[5] * 40, small=[1] * 40, medium=[2] * 40, large=[3] * 40)
    given = tables(FORTY, **errors)
    mixed = table(FORTY, [1] * 2 + [2] * 8 + [3] * 30)  # CAR <= 0.05, <= 0.2, above
    assert calibrate_routing(given, PARTITION).evidence['mIoU']['car'] == pytest.approx(
        iou(mixed.counts).mean(), abs=1e-4
    )


def test_origin_serves_everything_where_no_specialist_is_better():
    given = tables(FORTY, origin=[5] * 40, small=[5] * 40, medium=[6] * 40, large=[5] * 40)
    routing = calibrate_routing(given, PARTITION)
    assert (routing.cuts, routing.detectors, routing.teachers) == ((), ('origin',), ('origin',) * 3)


def test_one_lucky_image_does_not_move_the_cascade():
    """On the split a range round the lucky image gains; on images that did not take part in the
    choice it loses."""
    lucky = [6] * 20 + [0] + [6] * 19
    given = tables(
        FORTY, origin=[5] * 20 + [200] + [5] * 19, small=lucky, medium=[9] * 40, large=[9] * 40
    )
    routing = calibrate_routing(given, PARTITION)
    assert routing.detectors == ('origin',)
    assert routing.evidence['cross_validated_mIoU'][0] == max(
        routing.evidence['cross_validated_mIoU']
    )
    assert iou(given['small'].counts)[16:25].sum() > iou(given['origin'].counts)[16:25].sum()


@pytest.mark.parametrize('seed', range(6))
def test_equals_exhaustive_search(seed):
    """All cuts between images of different predicted CAR, all detectors, in and out of the folds;
    few CARs, so that many are equal."""
    rng = np.random.default_rng(seed)
    cars = rng.choice([0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6], 20)
    skill = rng.integers(0, 60, (4, 8))
    errors = np.clip(
        skill[:, np.searchsorted(np.unique(cars), cars)] + rng.integers(0, 40, (4, 20)), 0, 100
    )
    given = {name: table(cars, row) for name, row in zip(NAMES, errors)}
    given['origin'] = _with_predicted_cars(given['origin'], rng)
    scores = np.stack([iou(given[name].counts) for name in NAMES])
    predicted = given['origin'].counts[:, :2].sum(1) / PIXELS

    fold = np.empty(20, int)
    fold[np.argsort(predicted, kind='stable')] = np.arange(20) % 5
    held_out = np.zeros((4, 20))
    for index, number in itertools.product(range(5), range(4)):
        outside = fold != index
        edges, detectors = _exhaustive(predicted[outside], scores[:, outside], number, 3)
        for image in np.flatnonzero(~outside):
            held_out[number, image] = scores[
                detectors[sum(predicted[image] > edge for edge in edges)], image
            ]
    number = int(np.argmax(held_out.mean(1).round(9)))
    edges, detectors = _exhaustive(predicted, scores, number, 3)

    routing = calibrate_routing(given, CARPartition((0.7, 0.8)), min_images=3)
    assert routing.cuts == pytest.approx(edges)
    assert routing.detectors == tuple(NAMES[index] for index in detectors)
    np.testing.assert_allclose(
        routing.evidence['cross_validated_mIoU'], held_out.mean(1), atol=1e-4
    )


def _with_predicted_cars(origin, rng):
    """The origin's table with more false alarms in some images: its predicted CAR is not the
    label's."""
    extra = rng.choice([0, 50, 100], len(origin))
    origin.counts = origin.counts + extra[:, None] * np.array([0, 1, 0, -1])
    return origin


def _exhaustive(cars, scores, most, min_images):
    """(cuts, detectors) of the best sum with at most ``most`` ranges; fewer ranges first."""
    values = np.unique(cars)
    gaps = (values[:-1] + values[1:]) / 2
    best, found = scores[0].sum(), ((), (0,))
    for number in range(1, most + 1):
        for cuts in itertools.combinations(gaps, number - 1):
            served = (cars[:, None] > np.array(cuts)).sum(1)
            if np.bincount(served, minlength=number).min() < min_images:
                continue
            for detectors in itertools.product(range(4), repeat=number):
                total = scores[np.array(detectors)[served], np.arange(len(cars))].sum()
                if total > best + 1e-9:
                    best, found = total, (cuts, detectors)
    return found


def test_order_of_images_and_tables_does_not_matter():
    given = tables(
        FORTY,
        origin=[5] * 40,
        small=[4] * 15 + [9] * 25,
        medium=[9] * 40,
        large=[9] * 25 + [4] * 15,
    )
    order = np.random.default_rng(0).permutation(40)
    shuffled = {
        name: ImageTable(
            [given[name].files[i] for i in order],
            given[name].counts[order],
            [None] * 40,
            [None] * 40,
        )
        for name in reversed(NAMES[1:])
    }
    mixed = calibrate_routing({**shuffled, 'origin': given['origin']}, PARTITION)
    assert mixed == calibrate_routing(given, PARTITION)
    assert mixed.evidence == calibrate_routing(given, PARTITION).evidence


def _without(given, name):
    return {key: value for key, value in given.items() if key != name}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda given: _without(given, 'medium'),
            'one is needed for each of origin, small, medium, large',
        ),
        (lambda given: given | dict(huge=given['small']), 'large, huge'),
        (
            lambda given: given | dict(small=table(FORTY[:39], 1)),
            r'the table of small \(39 images\) is not of the origin.s 40',
        ),
        (lambda given: given | dict(large=table(FORTY + 0.1, 1)), 'the table of large'),
        (lambda given: {name: table([], []) for name in given}, 'no image'),
    ],
)
def test_tables_that_do_not_belong_together_are_refused(change, message):
    given = tables(FORTY, origin=5, small=5, medium=5, large=5)
    with pytest.raises(UserError, match=message):
        calibrate_routing(change(given), PARTITION)


def test_a_choice_needs_evidence():
    with pytest.raises(UserError, match='min_images=0'):
        calibrate_routing(
            tables(FORTY, origin=5, small=5, medium=5, large=5), PARTITION, min_images=0
        )
