from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtkd_cd.core.car import CARPartition
from mtkd_cd.evaluation import Provenance
from mtkd_cd.reporting import Settings, collect_runs, compare
from mtkd_cd.reporting.failure import analyse_cascades
from mtkd_cd.reporting.identity import RunIdentity


@pytest.fixture
def described(table, tmp_path):
    """``described('x/y.json', model=..., thresholds=...)`` saves a table that says what it is."""

    def write(place: str, thresholds=(0.05, 0.2), **provenance) -> Path:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        told = replace(
            table(), provenance=Provenance(**provenance), partition=CARPartition(thresholds)
        )
        told.save(path)
        return path

    return write


def _only_run(*arguments, **kwargs):
    (run,) = collect_runs(list(map(str, arguments)), **kwargs).runs
    return run


def test_a_table_is_named_by_what_it_holds_wherever_it_lies(described):
    path = described('seed9/report/other/x.json', model='fc_ef', strategy='mtkd', seed=2)
    assert _only_run(path).identity == RunIdentity('fc_ef', 'mtkd', 2)


def test_the_path_names_only_what_the_table_leaves_open(described):
    path = described('seed9/report/tinycd/x.json', strategy='mtkd')
    assert _only_run(path).identity == RunIdentity('tinycd', 'mtkd', 9)


def test_a_table_of_an_earlier_version_is_named_by_its_path(table, tmp_path):
    path = tmp_path / 'seed1/report/fc_ef/op@0.1.json'
    replace(table(), provenance=Provenance(version=None)).save(path)
    run = _only_run(path)
    assert run.identity == RunIdentity('fc_ef', 'op@0.1', 1)
    assert run.table.partition.thresholds == (0.1,)


def test_a_label_goes_before_what_the_table_says(described):
    path = described('a.json', model='fc_ef', strategy='mtkd', seed=2)
    assert _only_run(f'mine/op={path}').identity == RunIdentity('mine', 'op', 2)


@pytest.mark.parametrize(
    ('strategy', 'num_ranges'),
    [('op@0.05_0.2_0.5', 4), ('op@0.1+validated', 2), ('op@validated', 3), ('mtkd', 3)],
)
def test_the_thresholds_in_a_strategys_name_cut_its_ranges(save, strategy, num_ranges):
    assert len(_only_run(save(f'fc_ef/{strategy}.csv')).table.partition) == num_ranges


def test_thresholds_of_the_command_hold_for_tables_whose_strategy_names_none(described):
    path = described('a.json', model='fc_ef', strategy='op')
    assert _only_run(path, thresholds=(0.3,)).table.partition.thresholds == (0.3,)
    path = described('b.json', model='fc_ef', strategy='op@0.1', thresholds=(0.1,))
    assert _only_run(path, thresholds=(0.3,)).table.partition.thresholds == (0.1,)


def test_cascade_of_other_thresholds_is_judged_by_its_own_ranges(table, tmp_path):
    """The recipe cuts the tables of all strategies at the default thresholds."""
    cars = np.array([0, 10, 50, 60, 100, 200, 300, 800]) / 1000  # of the table's labels
    sent = [(car, 'small' if car <= 0.1 else 'large') for car in cars]
    path = tmp_path / 'op@0.1.json'
    told = Provenance(model='fc_ef', strategy='op@0.1')
    replace(table(coarse=sent), provenance=told, partition=CARPartition()).save(path)
    [analysis] = analyse_cascades(compare([_only_run(path)], settings=Settings(10)))
    assert analysis.counts.tolist() == [[5, 0], [0, 3]]  # every image where its CAR sends it
    assert analysis.follows == 1


def test_thresholds_that_are_the_tables_own_keep_the_names_of_its_ranges(table, tmp_path):
    path = tmp_path / 'op@0.1.json'
    replace(table(), partition=CARPartition((0.1,), ('few', 'many'))).save(path)
    assert _only_run(path).table.partition.names == ('few', 'many')
