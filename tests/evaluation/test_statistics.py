import time
import tracemalloc

import numpy as np
import pytest
import scipy.stats

from mtkd_cd.core.errors import UserError
from mtkd_cd.evaluation.statistics import (
    bootstrap_interval,
    bootstrap_intervals,
    mean_and_deviation,
    paired_difference,
)


@pytest.fixture(scope='module')
def runs():
    """Per-image scores of two runs on 150 images; the second is better by about 1 and correlated
    with the first."""
    rng = np.random.default_rng(5)
    reference = rng.beta(4, 2, 150) * 100
    return reference + rng.normal(1, 6, 150), reference


@pytest.mark.parametrize('confidence', [0.8, 0.95])
def test_the_interval_equals_scipys_percentile_bootstrap(runs, confidence):
    values = runs[0]
    expected = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=10_000,
        confidence_level=confidence,
        method='percentile',
        rng=np.random.default_rng(99),
    )
    mean, low, high = bootstrap_interval(values, confidence=confidence)
    assert mean == pytest.approx(values.mean())
    # Two samples of 10,000 resamples: their quantiles differ by some hundredths of the standard
    # error.
    tolerance = 0.15 * expected.standard_error
    assert (low, high) == pytest.approx(
        (expected.confidence_interval.low, expected.confidence_interval.high), abs=tolerance
    )
    assert low < mean < high


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        _, low, high = bootstrap_interval(rng.uniform(0, 10, 40), num_resamples=400, confidence=0.8)
        covered += low <= 5 <= high
    assert 0.72 < covered / 300 < 0.86


def test_the_same_seed_gives_the_same_interval_and_another_seed_another(runs):
    assert bootstrap_interval(runs[0], 500) == bootstrap_interval(runs[0].tolist(), 500)
    assert bootstrap_interval(runs[0], 500) != bootstrap_interval(runs[0], 500, seed=1)


def test_scores_drawn_together_get_the_intervals_that_they_get_alone(runs):
    together = bootstrap_intervals({'mIoU': runs[0], 'mFscore': runs[1]}, 500)
    for name, values in zip(('mIoU', 'mFscore'), runs):
        assert together[name] == pytest.approx(bootstrap_interval(values, 500))


def test_equal_scores_leave_no_doubt():
    assert bootstrap_interval([70.0] * 9) == pytest.approx((70, 70, 70))
    assert bootstrap_interval([70.0]) == (70, 70, 70)


@pytest.mark.parametrize('num_images', [12, 150])
def test_the_p_value_equals_scipys_paired_permutation_test(runs, num_images):
    """All 2 ** 12 choices of signs in the one case, random ones in the other."""
    values, reference = (scores[:num_images] for scores in runs)
    expected = scipy.stats.permutation_test(
        (values, reference),
        lambda x, y, axis: (x - y).mean(axis),
        permutation_type='samples',
        vectorized=True,
        n_resamples=10_000,
        rng=np.random.default_rng(99),
    )
    found = paired_difference(values, reference)
    tolerance = 1e-12 if num_images == 12 else 5 * np.sqrt(expected.pvalue / 10_000)
    assert 0.001 < found.p_value < 0.9
    assert found.p_value == pytest.approx(expected.pvalue, abs=tolerance)
    assert (found.difference, found.num_images) == (
        pytest.approx((values - reference).mean()),
        num_images,
    )


def test_the_interval_of_a_difference_is_that_of_the_paired_differences(runs):
    found = paired_difference(*runs)
    assert (found.difference, found.low, found.high) == bootstrap_interval(runs[0] - runs[1])
    unpaired = bootstrap_interval(runs[0])
    assert found.high - found.low < 0.5 * (unpaired.high - unpaired.low), (
        'pairing removes what makes images easy or hard'
    )


def test_the_test_keeps_its_level_where_nothing_differs():
    rng = np.random.default_rng(2)
    p_values = [
        paired_difference(*rng.normal(0, 1, (2, 30)), num_resamples=400).p_value for _ in range(300)
    ]
    assert 0.06 < np.mean(np.array(p_values) <= 0.1) < 0.15


def test_runs_that_score_all_images_alike_do_not_differ():
    found = paired_difference([50.0, 60.0, 70.0], [50.0, 60.0, 70.0])
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_images_that_score_alike_do_not_change_the_p_value():
    values, reference = np.array([[53.0, 62.0, 71.5, 84.0, 80.0], [50.0, 60.0, 70.0, 80.0, 80.0]])
    # 4 images differ, all for the better: only all signs as they are, or all turned round, give as
    # much.
    assert paired_difference(values, reference).p_value == pytest.approx(2 / 2**4)


def test_no_finite_number_of_draws_proves_chance_impossible():
    assert paired_difference(
        np.full(50, 2.0), np.full(50, 1.0), num_resamples=999
    ).p_value == pytest.approx(1 / 1000)


def test_memory_stays_bounded_for_ten_thousand_images():
    values, reference = np.random.default_rng(0).random((2, 10_000))
    tracemalloc.start()
    start = time.process_time()
    paired_difference(values, reference, num_resamples=1000)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
    assert seconds < 10


@pytest.mark.parametrize(
    ('values', 'mean', 'deviation'), [([70.0, 72.0, 74.0], 72, 2), ([70.0], 70, None)]
)
def test_deviation_over_seeds_is_the_sample_standard_deviation(values, mean, deviation):
    assert mean_and_deviation(values) == (mean, deviation)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: bootstrap_interval([]), 'at least one; found none'),
        (lambda: bootstrap_interval([1.0, float('nan')]), 'not finite'),
        (lambda: bootstrap_interval(np.zeros((2, 2))), r'found shape \(2, 2\)'),
        (lambda: bootstrap_interval([1.0], num_resamples=0), 'num_resamples=0'),
        (lambda: bootstrap_interval([1.0], confidence=95), 'confidence=95'),
        (lambda: paired_difference([1.0, 2.0], [1.0]), '2 scores cannot be paired with 1'),
        (lambda: mean_and_deviation([]), 'found none'),
    ],
)
def test_what_has_no_statistics_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
