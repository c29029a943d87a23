"""Validation curves beside the tables."""

import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import CURVES
from mtkd_cd.reporting import aligned, build_report, collect_runs, compare
from mtkd_cd.reporting.curves import Curve, read_curves

ROWS = 'strategy,range,iter,mIoU\norigin,,200,51.5\norigin,,100,50\npartition@0.1,small,100,70.25\n'


@pytest.fixture
def runs(save):
    path = save('seed3/report/fc_ef/origin.csv')
    path.with_name(CURVES).write_text(ROWS)
    save('seed3/report/fc_ef/mtkd.csv')
    save('seed4/report/fc_ef/origin.csv')  # without curves
    return aligned(collect_runs([str(path.parents[3])]).runs)


def test_curves_are_read_once_per_model_and_seed_in_the_order_of_iterations(runs):
    assert read_curves(runs) == [
        Curve('fc_ef', 'origin', '', 3, (100, 200), (50.0, 51.5)),
        Curve('fc_ef', 'partition@0.1', 'small', 3, (100,), (70.25,)),
    ]


def test_report_shows_training_where_there_are_curves_and_lists_them_not_as_unknown_files(
    runs, save
):
    found = collect_runs([str(runs[0].path.parents[3])])
    report = build_report(compare(runs), ignored=found.ignored, curves=found.curves)
    assert [
        picture.name
        for section in report.sections
        if section.anchor == 'training'
        for picture in section.pictures
    ] == ['training_fc_ef']
    assert list(report.sources) == ['Tables read']
    runs[0].path.with_name(CURVES).unlink()
    assert collect_runs([str(runs[0].path.parents[3])]).curves == []
    assert 'training' not in [section.anchor for section in build_report(compare(runs)).sections]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('strategy,iter,mIoU\norigin,1,2\n', 'lacks the column range'),
        (ROWS + 'mtkd,,soon,1\n', "found 'soon' and '1'"),
    ],
)
def test_broken_curves_are_named(runs, content, message):
    path = runs[0].path.with_name(CURVES)
    path.write_text(content)
    with pytest.raises(UserError, match=f'{CURVES}.*{message}'):
        read_curves(runs)
