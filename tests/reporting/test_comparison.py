"""The numbers of a comparison, against the same computed by hand."""

import statistics

import numpy as np
import pytest

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.evaluation import image_scores, paired_difference, scores_by_quantile
from mtkd_cd.reporting.build import _extremes
from mtkd_cd.reporting.comparison import Settings, compare, holm
from mtkd_cd.reporting.identity import RunIdentity
from mtkd_cd.reporting.scored_run import Run

FAST = Settings(num_resamples=500)


@pytest.fixture
def run(table, tmp_path):
    """``run('fc_ef', 'op', seed, hits=...)``."""
    return lambda model, strategy, seed=None, **kwargs: Run(
        RunIdentity(model, strategy, seed), tmp_path / 'x.csv', table(**kwargs)
    )


def mean_iou(run):
    return image_scores(run.table.counts)['mIoU']


def by_name(found):
    return {str(entry): value for entry, value in found.items()}


def test_seeds_are_averaged_by_image_before_differences_are_paired(run):
    rng = np.random.default_rng(1)
    runs = [
        run('m', strategy, seed, hits=rng.uniform(0, 1, 8))
        for strategy in ('origin', 'mtkd')
        for seed in (0, 1, 2)
    ]
    comparison = compare(runs, settings=FAST)
    origin, mtkd = (np.mean([mean_iou(r) for r in runs[start : start + 3]], 0) for start in (0, 3))
    found = by_name(comparison.references[0].differences)['m/mtkd']
    wanted = paired_difference(mtkd, origin, num_resamples=500)
    np.testing.assert_allclose(found.by_image, mtkd - origin)
    np.testing.assert_allclose(
        found.intervals['mIoU'], (wanted.difference, wanted.low, wanted.high)
    )
    assert found.p_values['mIoU'] == wanted.p_value
    by_seed = [mean_iou(runs[3 + seed]).mean() - mean_iou(runs[seed]).mean() for seed in range(3)]
    assert found.deviations['mIoU'] == pytest.approx(statistics.stdev(by_seed))
    assert comparison.entries[1].deviation('mIoU') == pytest.approx(
        statistics.stdev(mean_iou(r).mean() for r in runs[3:])
    )
    assert (found.num_better, found.num_worse) == ((mtkd > origin).sum(), (mtkd < origin).sum())


def test_only_seeds_that_both_sides_have_are_paired(run):
    runs = [
        run('m', 'origin', 0, hits=[0.2] * 8),
        run('m', 'origin', 1, hits=[0.9] * 8),
        run('m', 'op', 1, hits=[0.9] * 8),
    ]
    found = by_name(compare(runs, settings=FAST).references[0].differences)['m/op']
    assert found.num_seeds == 1
    assert found.intervals['mIoU'] == (0, 0, 0)


def test_without_a_common_seed_the_averages_are_compared(run):
    runs = [
        run('m', 'origin', 0, hits=[0.2] * 8),
        run('m', 'origin', 1, hits=[0.4] * 8),
        run('m', 'op', 5, hits=[0.9] * 8),
    ]
    found = by_name(compare(runs, settings=FAST).references[0].differences)['m/op']
    wanted = (mean_iou(runs[2]) - (mean_iou(runs[0]) + mean_iou(runs[1])) / 2).mean()
    assert (found.num_seeds, found.deviations['mIoU']) == (0, None)
    assert found.intervals['mIoU'].mean == pytest.approx(wanted)


def test_each_model_is_compared_with_its_own_run_of_the_first_strategy(run):
    runs = [
        run(model, strategy, hits=[share] * 8)
        for model, strategy, share in (
            ('a', 'x', 0.1),
            ('b', 'x', 0.5),
            ('b', 'y', 0.6),
            ('c', 'y', 0.7),
        )
    ]
    reference = compare(runs, settings=FAST).references[0]
    assert {str(entry): str(found.reference) for entry, found in reference.differences.items()} == {
        'b/y': 'b/x',
        'c/y': 'a/x',
    }
    assert [str(entry) for entry in reference.strays] == ['c/y']


def test_more_references_are_strategies_or_single_runs(run):
    runs = [run(model, strategy) for model in 'ab' for strategy in ('origin', 'continued', 'mtkd')]
    comparison = compare(runs, references=['continued', 'a/mtkd'], settings=FAST)
    assert [reference.name for reference in comparison.references] == [
        'origin',
        'continued',
        'a/mtkd',
    ]
    assert str(by_name(comparison.references[1].differences)['b/mtkd'].reference) == 'b/continued'
    assert {str(found.reference) for found in comparison.references[2].differences.values()} == {
        'a/mtkd'
    }
    assert len(comparison.references[2].differences) == 5
    assert not comparison.references[2].strays
    with pytest.raises(
        UserError,
        match="no run to compare with is 'nothing': the strategies are origin, continued, mtkd",
    ):
        compare(runs, references=['nothing'], settings=FAST)


def test_bins_are_those_of_the_evaluation(run):
    rng = np.random.default_rng(2)
    changed = rng.integers(0, 900, 23)
    single = run('m', 'origin', hits=rng.uniform(0, 1, 23), changed=changed, false_alarms=5)
    comparison = compare([single], settings=FAST, num_bins=5)
    wanted = scores_by_quantile(single.table.counts, 5)
    assert [(b.low, b.high, len(b.rows)) for b in comparison.quantiles] == [
        (w.low, w.high, w.num_images) for w in wanted
    ]
    assert [by_name(b.intervals)['m/origin'].mean for b in comparison.quantiles] == pytest.approx(
        [w.scores['mIoU'] for w in wanted]
    )


def test_range_bins_hold_the_images_up_to_and_with_their_threshold(run):
    other = run('m', 'op', hits=[0.9] * 8)
    comparison = compare([run('m', 'origin'), other], CARPartition((0.05, 0.2)), settings=FAST)
    # CARs 0, 0.01, 0.05 | 0.06, 0.1, 0.2 | 0.3, 0.8
    assert [b.rows.tolist() for b in comparison.ranges] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    gain = by_name(comparison.references[0].differences)['m/op'].by_image
    assert by_name(comparison.ranges[2].differences)['m/op'].mean == pytest.approx(gain[6:].mean())


def test_range_without_images_is_kept_empty(run):
    comparison = compare([run('m', 'origin')], CARPartition((0.85, 0.9)), settings=FAST)
    assert [len(b.rows) for b in comparison.ranges] == [8, 0, 0]
    assert comparison.ranges[1].intervals == {}


def test_holm_multiplies_the_smallest_by_their_number_and_never_falls():
    # 4 x 0.01, 3 x 0.03, 2 x 0.04 which may not fall below 0.09, 1 x 0.9
    assert holm([0.03, 0.01, 0.9, 0.04]) == pytest.approx([0.09, 0.04, 0.9, 0.09])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_scores_of_an_image_belong_to_the_seeds_of_its_difference(run):
    runs = [
        run('m', 'origin', 1, hits=[0.4] * 8),
        run('m', 'op', 0, hits=[0.2] * 8),
        run('m', 'op', 1, hits=[0.9] * 8),
    ]
    found = by_name(compare(runs, settings=FAST).references[0].differences)['m/op']
    np.testing.assert_allclose(found.scores, mean_iou(runs[2]))
    np.testing.assert_allclose(found.scores - found.by_image, mean_iou(runs[0]))


@pytest.mark.parametrize('number', [1, 3, 5])
def test_images_that_moved_most_are_all_listed_where_there_are_few(number):
    changes = np.array([-3.0, 0.0, 2.0, -1.0])
    assert _extremes(changes, number) == {1: [2, 0], 3: [2, 3, 0], 5: [2, 3, 0]}[number]
