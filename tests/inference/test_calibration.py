"""Threshold and temperature, against what follows from the pixels themselves."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import precision_recall_fscore_support

from mtkd_cd.core.errors import UserError
from mtkd_cd.inference.calibration import MarginCounts


@pytest.fixture
def images():
    """Three images whose margins are the true ones times 3, some pixels ignored."""
    rng = np.random.default_rng(0)
    found = []
    for share in (-2.0, 0.0, 1.5):
        true = rng.normal(share, 2, (60, 70))
        label = (rng.random((60, 70)) < 1 / (1 + np.exp(-true))).astype(np.uint8)
        label[:5] = 255
        found.append((1 / (1 + np.exp(-3 * true)), label))
    return found


def counted(images) -> MarginCounts:
    counts = MarginCounts()
    for probability, label in images:
        counts.add(np.log(probability / (1 - probability)), label)
    return counts


def pixels(images):
    probability = np.concatenate([p[label != 255] for p, label in images])
    label = np.concatenate([label[label != 255] for _, label in images])
    return probability, label


def test_temperature_has_the_smallest_likelihood(images):
    found = counted(images).calibrate()
    assert found.temperature == pytest.approx(3, rel=0.1)
    probability, label = pixels(images)
    margin = torch.from_numpy(np.log(probability / (1 - probability)))
    target = torch.from_numpy(label).double()

    def likelihood(temperature):
        return float(F.binary_cross_entropy_with_logits(margin / temperature, target))

    assert found.likelihoods[0] == pytest.approx(likelihood(1), rel=2e-3)
    assert found.likelihoods[1] == pytest.approx(likelihood(found.temperature), rel=1e-3)
    for other in (0.9, 1.1):
        assert likelihood(found.temperature) < likelihood(found.temperature * other)


def test_curve_is_that_of_the_pixels_and_the_threshold_its_best(images):
    found = counted(images).calibrate()
    probability, label = pixels(images)
    margin = np.log(probability / (1 - probability))
    calibrated = 1 / (1 + np.exp(-margin / found.temperature))
    scores = []
    for threshold, precision, recall in found.curve[5:96:10]:
        wanted = precision_recall_fscore_support(
            label, calibrated > threshold, average='binary', zero_division=1
        )
        assert (precision, recall) == pytest.approx(wanted[:2], abs=0.01)
    for threshold in found.curve[:, 0]:
        scores.append(
            precision_recall_fscore_support(
                label, calibrated > threshold, average='binary', zero_division=1
            )[2]
        )
    best = scores[round(found.threshold * 100)]
    assert best == pytest.approx(max(scores), abs=2e-3)
    assert found.pixels == len(label)


def test_equal_thresholds_give_the_nearest_to_a_half():
    counts = MarginCounts()
    label = np.zeros((4, 4), np.uint8)
    label[0] = 1
    counts.add(np.where(label == 1, 5.0, -5.0), label)
    assert counts.calibrate().threshold == 0.5


def test_scores_are_those_at_the_given_threshold(images):
    found = counted(images).calibrate(threshold=0.3)
    assert (found.threshold, found.rule) == (0.3, 'given')
    ious = []
    for probability, label in images:
        margin = np.log(probability / (1 - probability)) / found.temperature
        change = 1 / (1 + np.exp(-margin)) > 0.3
        valid = label != 255
        both = [
            ((change == k) & (label == k) & valid).sum()
            / (((change == k) | (label == k)) & valid).sum()
            for k in (0, 1)
        ]
        ious.append(100 * np.mean(both))
    mean, low, high = found.scores['mIoU']
    assert mean == pytest.approx(np.mean(ious), abs=0.3)
    assert low <= mean <= high


def test_nothing_to_choose_on_is_refused():
    counts = MarginCounts()
    counts.add(np.zeros((2, 2)), np.full((2, 2), 255, np.uint8))
    with pytest.raises(UserError, match='no valid pixel'):
        counts.calibrate()


def test_margins_of_hundreds_are_not_cut_off():
    """STANet judges with margins of 100 either way."""
    label = np.zeros((100, 100), np.uint8)
    label[:20] = 1
    margin = np.where(label == 1, 100.0, -100.0)
    margin[::10] *= -1  # a tenth is wrong
    counts = MarginCounts()
    counts.add(margin, label)
    found = counts.calibrate()
    predicted = 1 / (1 + np.exp(-margin / found.temperature)) > found.threshold
    true = (predicted & (label == 1)).sum()
    assert found.pooled['Precision_changed'] == pytest.approx(100 * true / predicted.sum())
    assert found.pooled['Recall_changed'] == pytest.approx(100 * true / (label == 1).sum())
    assert (predicted == (margin > 0)).all()
    largest = 100 / found.temperature
    expected = np.logaddexp(0, np.where(label == 1, -1, 1) * np.sign(margin) * largest).mean()
    assert found.likelihoods[1] == pytest.approx(expected, rel=0.03)


def test_curve_of_small_margins_is_that_of_the_pixels_too():
    """A temperature below 1 spreads them: few bins would be few probabilities."""
    rng = np.random.default_rng(0)
    true = rng.normal(-1, 2, (200, 200))
    label = (rng.random(true.shape) < 1 / (1 + np.exp(-true))).astype(np.uint8)
    margin = true / 8
    counts = MarginCounts()
    counts.add(margin, label)
    found = counts.calibrate()
    assert found.temperature == pytest.approx(1 / 8, rel=0.1)
    predicted = 1 / (1 + np.exp(-margin / found.temperature))
    for threshold, precision, recall in found.curve[1:90]:
        change = predicted > threshold
        assert recall == pytest.approx(change[label == 1].mean(), abs=5e-3)
        assert precision == pytest.approx(label[change].mean(), abs=5e-3)
