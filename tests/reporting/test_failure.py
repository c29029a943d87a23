"""Where a cascade sent its images, counted by hand."""

import numpy as np
import pytest

from mtkd_cd.evaluation import image_scores
from mtkd_cd.reporting.comparison import Settings, compare
from mtkd_cd.reporting.failure import analyse_cascades
from mtkd_cd.reporting.identity import RunIdentity
from mtkd_cd.reporting.scored_run import Run

# True ranges: small x 3, medium x 3, large x 2.
COARSE = [
    (0.0, 'small'),
    (0.3, 'large'),
    (0.05, 'small'),
    (0.01, 'small'),
    (0.1, 'medium'),
    (0.2, 'medium'),
    (0.1, 'medium'),
    (0.9, 'large'),
]


def analyse(table, tmp_path, coarse, seeds=(None,), **kwargs):
    runs = [Run(RunIdentity('m', 'origin', seed), tmp_path, table()) for seed in seeds]
    runs += [
        Run(RunIdentity('m', 'op', seed), tmp_path, table(coarse=coarse, **kwargs))
        for seed in seeds
    ]
    return runs, analyse_cascades(compare(runs, settings=Settings(200)))


def test_matrix_counts_true_by_chosen_ranges_with_their_gains(table, tmp_path):
    hits = (0.5, 0.1, 0.9, 0.2, 0.8, 0.8, 0.6, 0.9)
    runs, (analysis,) = analyse(table, tmp_path, COARSE, hits=hits)
    assert analysis.counts.tolist() == [[2, 0, 1], [1, 2, 0], [0, 1, 1]]
    gain = image_scores(runs[1].table.counts)['mIoU'] - image_scores(runs[0].table.counts)['mIoU']
    wanted = [
        [gain[0] + gain[2], 0, gain[1]],
        [gain[3], gain[4] + gain[5], 0],
        [0, gain[6], gain[7]],
    ]
    np.testing.assert_allclose(analysis.gains, wanted)
    assert analysis.mean_gains[1, 1] == pytest.approx((gain[4] + gain[5]) / 2)
    assert np.isnan(analysis.mean_gains[0, 1])
    assert analysis.follows == 1


def test_seeds_are_counted_together(table, tmp_path):
    _, (analysis,) = analyse(table, tmp_path, COARSE, seeds=(0, 1, 2))
    assert analysis.counts.sum() == 24
    assert len(analysis.coarse_cars) == len(analysis.true_cars) == 24


def test_other_routing_gets_its_own_columns_and_is_noticed(table, tmp_path):
    coarse = [(car, 'origin' if name == 'large' else name) for car, name in COARSE]
    _, (analysis,) = analyse(table, tmp_path, coarse)
    assert analysis.chosen == ('small', 'medium', 'large', 'origin')
    assert analysis.counts[:, 3].tolist() == [1, 0, 1]
    assert analysis.follows == 6 / 8


def test_runs_without_coarse_predictions_are_not_analysed(table, tmp_path):
    assert analyse(table, tmp_path, None)[1] == []
