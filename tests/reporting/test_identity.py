"""Who a run is, from its path and from what the user calls it."""

import pytest

from mtkd_cd.core.strategy import strategy_rank, strategy_title
from mtkd_cd.reporting.identity import RunIdentity, identity_of_path, relabelled


@pytest.mark.parametrize(
    ('path', 'identity'),
    [
        ('/exp/seed3/report/changer_mitb0/op@0.1.csv', RunIdentity('changer_mitb0', 'op@0.1', 3)),
        ('/work_dirs/report/fc_ef/mtkd.csv', RunIdentity('fc_ef', 'mtkd', None)),
        ('/exp/seed1/fc_ef/origin.json', RunIdentity('fc_ef', 'origin', 1)),
        ('/exp/seed1/fc_ef/report/fc_ef/origin.csv', RunIdentity('fc_ef', 'origin', 1)),
        ('/seeds/fc_ef/origin.csv', RunIdentity('fc_ef', 'origin', None)),
        ('/work_dirs/mtkd@0.1/fc_ef/test/per_image.json', RunIdentity('fc_ef', 'mtkd@0.1', None)),
        (
            '/work_dirs/partition/fc_ef/small/test/per_image.json',
            RunIdentity('fc_ef', 'partition/small', None),
        ),
    ],
)
def test_path_tells_model_strategy_and_seed(path, identity):
    assert identity_of_path(path) == identity


@pytest.mark.parametrize(
    ('label', 'whole_folder', 'wanted'),
    [
        ('ours', False, RunIdentity('fc_ef', 'ours', 2)),
        ('net/ours', False, RunIdentity('net', 'ours', 2)),
        ('net/ours/seed7', False, RunIdentity('net', 'ours', 7)),
        ('lambda 1e-3', True, RunIdentity('fc_ef', 'lambda 1e-3:op', 2)),
    ],
)
def test_label_overrides_what_it_names(label, whole_folder, wanted):
    assert relabelled(RunIdentity('fc_ef', 'op', 2), label, whole_folder) == wanted


def test_strategies_are_titled_as_in_the_paper_and_the_origin_comes_first():
    assert [strategy_title(name) for name in ('op', 'mtkd@0.1', 'mine:op', 'other')] == [
        'O-P',
        'MTKD @ 0.1',
        'mine: O-P',
        'other',
    ]
    names = ['zebra', 'mtkd@validated', 'mtkd', 'op', 'continued', 'origin']
    assert sorted(names, key=strategy_rank) == [
        'origin',
        'continued',
        'op',
        'mtkd',
        'mtkd@validated',
        'zebra',
    ]
