import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, precision_score, recall_score

from mtkd_cd.core.car import CARPartition
from mtkd_cd.evaluation.counts import confusion_counts
from mtkd_cd.evaluation.scores import (
    image_scores,
    mean_scores,
    pooled_scores,
    scores_by_quantile,
    scores_by_range,
)

SKLEARN = {
    'IoU': jaccard_score,
    'Precision': precision_score,
    'Recall': recall_score,
    'Fscore': f1_score,
}


@pytest.fixture(scope='module')
def masks():
    """Predictions and labels (40, 12, 10): random ones, empty and full ones in every combination,
    some with ignored pixels."""
    rng = np.random.default_rng(3)
    rates = rng.choice([0, 0, 0.02, 0.1, 0.5, 0.9, 1], (2, 40, 1, 1))
    prediction, label = (rng.random((2, 40, 12, 10)) < rates).astype(np.uint8)
    prediction[:4], label[:4] = [[[0]], [[0]], [[1]], [[1]]], [[[0]], [[1]], [[0]], [[1]]]
    label[20:30][rng.random((10, 12, 10)) < 0.2] = 255
    return prediction, label


@pytest.fixture(scope='module')
def counts(masks):
    return confusion_counts(*masks)


def _sklearn_scores(prediction, label, zero_division):
    valid = label != 255
    truth, predicted = label[valid], prediction[valid]
    return {
        f'{name}_{class_name}': 100
        * function(truth, predicted, pos_label=value, zero_division=zero_division)
        for name, function in SKLEARN.items()
        for value, class_name in enumerate(['unchanged', 'changed'])
    }


@pytest.mark.parametrize('zero_division', [0.0, 1.0])
def test_scores_of_each_image_equal_scikit_learn(masks, counts, zero_division):
    scores = image_scores(counts, zero_division)
    for i, (prediction, label) in enumerate(zip(*masks)):
        expected = _sklearn_scores(prediction, label, zero_division)
        assert {key: scores[key][i] for key in expected} == pytest.approx(expected)
        for name in SKLEARN:
            assert scores[f'm{name}'][i] == pytest.approx(
                (expected[f'{name}_changed'] + expected[f'{name}_unchanged']) / 2
            )


def test_zero_division_can_lie_between():
    assert image_scores(np.array([[0, 0, 0, 5]]), 0.25)['IoU_changed'] == 25


def test_means_weigh_images_equally(masks, counts):
    expected = [_sklearn_scores(prediction, label, 1.0) for prediction, label in zip(*masks)]
    means = mean_scores(counts)
    for key in expected[0]:
        assert means[key] == pytest.approx(np.mean([scores[key] for scores in expected]))
    assert means['mIoU'] == pytest.approx((means['IoU_changed'] + means['IoU_unchanged']) / 2)


def test_mean_iou_equals_the_published_convention(masks, counts):
    """Of the paper's script: 1 where TP + FP + FN or TN + FP + FN is 0, else the mean of both
    classes' IoU."""
    ious = []
    for tp, fp, fn, tn in counts.tolist():
        perfect = tp + fp + fn == 0 or tn + fp + fn == 0
        ious.append(1.0 if perfect else (tp / (tp + fp + fn) + tn / (tn + fp + fn)) / 2)
    assert mean_scores(counts)['mIoU'] == pytest.approx(100 * np.mean(ious))


def test_pooled_scores_are_those_of_all_pixels_together(masks, counts):
    prediction, label = masks
    pooled = pooled_scores(counts)
    expected = _sklearn_scores(prediction, label, 1.0)
    assert {key: pooled[key] for key in expected} == pytest.approx(expected)
    assert pooled['aAcc'] == pytest.approx(
        100 * accuracy_score(label[label != 255], prediction[label != 255])
    )
    assert abs(pooled['mIoU'] - mean_scores(counts)['mIoU']) > 1, (
        'pooled and per-image figures differ on this data'
    )


def test_an_image_without_valid_pixels_scores_zero_division():
    assert mean_scores(np.zeros((1, 4), int), 1.0)['mIoU'] == 100
    assert pooled_scores(np.zeros((1, 4), int), 0.0)['aAcc'] == 0


def test_ranges_hold_their_upper_threshold_and_average_their_images():
    changed = [0, 50, 51, 200, 201, 1000]  # of 1000 pixels
    counts = np.array([[c // 2, 0, c - c // 2, 1000 - c] for c in changed])
    small, medium, large = scores_by_range(counts, CARPartition((0.05, 0.2)))
    assert [(b.name, b.low, b.high, b.num_images) for b in (small, medium, large)] == [
        ('small', 0.0, 0.05, 2),
        ('medium', 0.05, 0.2, 2),
        ('large', 0.2, 1.0, 2),
    ]
    assert medium.scores == pytest.approx(mean_scores(counts[2:4]))
    assert large.scores['Recall_changed'] == pytest.approx(100 * (100 / 201 + 0.5) / 2)


def test_a_range_without_images_is_listed_without_scores():
    bins = scores_by_range(np.array([[0, 0, 0, 9]]), CARPartition((0.1,)))
    assert [(b.name, b.num_images, bool(b.scores)) for b in bins] == [
        ('small', 1, True),
        ('large', 0, False),
    ]


@pytest.mark.parametrize('num_bins', [1, 5, 7])
def test_quantile_bins_split_the_sorted_images_evenly(masks, counts, num_bins):
    cars = np.array([(t == 1).sum() / (t != 255).sum() for t in masks[1]])
    order = np.argsort(cars, kind='stable')
    mious = np.array([mean_scores(row)['mIoU'] for row in counts])
    bins = scores_by_quantile(counts, num_bins)
    for car_bin, part in zip(bins, np.array_split(order, num_bins), strict=True):
        assert (car_bin.low, car_bin.high, car_bin.num_images) == (
            cars[part].min(),
            cars[part].max(),
            len(part),
        )
        assert car_bin.scores['mIoU'] == pytest.approx(mious[part].mean())
    assert [b.name for b in bins][:2] == ['q1', 'q2'][:num_bins]


def test_quantile_bins_are_never_empty():
    counts = np.array([[1, 0, 0, 1], [0, 0, 0, 2]])
    assert [b.num_images for b in scores_by_quantile(counts, 5)] == [1, 1]
    assert scores_by_quantile(np.zeros((0, 4), int), 5) == []
