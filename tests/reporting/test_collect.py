"""Finding tables, and refusing to compare what cannot be compared."""

import re
from dataclasses import replace

import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.reporting.collect import aligned, collect_runs, restricted

CHANGED = (0, 10, 50, 60, 100, 200, 300, 800)  # of the tables that the fixtures write


def collect(*arguments):
    return collect_runs([str(argument) for argument in arguments])


def test_folder_stands_for_all_tables_below_it_and_lists_what_is_none(save, tmp_path):
    for strategy in ('mtkd', 'op', 'origin'):
        save(f'report/fc_ef/{strategy}.csv')
    (tmp_path / 'runs/curves.csv').write_text('step,loss\n1,0.5\n')
    (tmp_path / 'runs/times.csv').write_text('step,seconds\n1,0.5\n')
    (tmp_path / 'runs/report/fc_ef/report.json').write_text('{"model": "fc_ef"}')
    (tmp_path / 'runs/report/fc_ef/mine.json').write_text('{"model": "fc_ef"}')
    (tmp_path / 'runs/log.txt').write_text('nothing')
    found = collect(tmp_path / 'runs')
    assert [str(run.identity) for run in found.runs] == ['fc_ef/origin', 'fc_ef/op', 'fc_ef/mtkd']
    assert {path.name: reason for path, reason in found.ignored} == {
        'times.csv': 'no table: its columns are step, seconds',
        'mine.json': 'no table: JSON with other content (model)',
    }  # and not what the recipe itself writes, curves.csv and report.json


def test_table_of_a_spreadsheet_in_a_folder_is_no_other_file(save, tmp_path):
    ours = save('fc_ef/origin.csv')
    other = ours.with_name('op.csv')
    other.write_text(ours.read_text().replace(',', ';').replace('.', ','), encoding='utf-8-sig')
    found = collect(tmp_path / 'runs')
    assert [str(run.identity) for run in found.runs] == ['fc_ef/origin', 'fc_ef/op']
    assert found.ignored == []
    assert (found.runs[0].table.counts == found.runs[1].table.counts).all()


def test_work_dir_is_compared_by_its_reports_alone_and_lists_its_other_tables(save, tmp_path):
    for place in (
        'report/fc_ef/origin.csv',
        'routing/fc_ef/origin.json',
        'origin/fc_ef/test/per_image.json',
    ):
        save(place)
    found = collect(tmp_path / 'runs')
    assert [str(run.path.relative_to(tmp_path / 'runs')) for run in found.runs] == [
        'report/fc_ef/origin.csv'
    ]
    assert [path.name for path, _ in found.ignored] == ['per_image.json', 'origin.json']


def test_json_table_is_found_and_keeps_its_partition(save):
    path = save('fc_ef/origin.json')
    assert collect(path.parent).runs[0].table.partition.thresholds == (0.05, 0.2)


def test_strategy_with_thresholds_sets_the_partition_of_its_run(save):
    assert collect(save('fc_ef/op@0.1.csv')).runs[0].table.partition.names == ('small', 'large')


def test_two_runs_of_one_identity_are_refused_naming_both(save):
    first, second = save('a/fc_ef/origin.csv'), save('b/fc_ef/origin.csv')
    with pytest.raises(
        UserError, match=f'fc_ef/origin: {re.escape(str(first))} and {re.escape(str(second))}'
    ):
        collect(first, second)
    assert len(collect(first, f'other={second}').runs) == 2


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', 'holds no image'),
        ('file,car,TP,FP,FN\na.png,0.1,1,2,3\n', 'lacks the column TN'),
        ('file;TP;FP;FN;TN\na.png;1;2;3\n', 'line 2: 5 cells are needed'),
        ('file,TP,FP,FN,TN\na.png,1,x,3,4\n', 'FP is a number'),
    ],
)
def test_broken_table_in_a_folder_is_an_error_that_names_it(save, tmp_path, content, message):
    save('fc_ef/origin.csv')
    broken = tmp_path / 'runs/fc_ef/op.csv'
    broken.write_text(content)
    with pytest.raises(UserError, match=f'(?s){re.escape(str(broken))}.*{message}'):
        collect(tmp_path / 'runs')


def test_missing_path_and_folder_without_tables_are_refused(tmp_path):
    with pytest.raises(UserError, match='nowhere does not exist'):
        collect('label=nowhere')
    (tmp_path / 'curves.csv').write_text('step,loss\n')
    with pytest.raises(
        UserError, match=r'no per-image table in it \(curves.csv: its columns are step, loss\)'
    ):
        collect(tmp_path)


def test_runs_over_different_images_are_refused_saying_which_differ(save):
    first = save('fc_ef/origin.csv')
    second = save(
        'fc_ef/op.csv',
        files=['0.png', '1.png', '2.png', '3.png', '4.png', '5.png', 'x.png', 'y.png'],
    )
    runs = collect(first, second).runs
    with pytest.raises(UserError) as error:
        aligned(runs)
    message = str(error.value)
    assert 'lacks 6.png, 7.png and has besides x.png, y.png' in message
    assert '--common compares on the 6 images that all have' in message


def test_common_images_are_compared_in_the_first_runs_order(save):
    first = save('fc_ef/origin.csv', hits=(0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7))
    order = [7, 3, 2, 1]
    second = save(
        'fc_ef/op.csv',
        hits=[0.1 * i for i in order],
        changed=[CHANGED[i] for i in order],
        files=[f'{i}.png' for i in order],
    )
    one, two = aligned(collect(first, second).runs, common=True)
    assert one.table.files == two.table.files == ['1.png', '2.png', '3.png', '7.png']
    assert two.table.counts[:, 0].tolist() == [1, 10, 18, 560]


def test_other_labels_under_the_same_names_are_refused(save):
    changed = list(CHANGED)
    changed[4] = 101
    runs = collect(save('fc_ef/origin.csv'), save('fc_ef/op.csv', changed=changed)).runs
    with pytest.raises(
        UserError,
        match=(
            r'labels of 1 of 8 images differ: 4\.png has 100 changed and 900 unchanged pixels .* '
            'but 101 and 899'
        ),
    ):
        aligned(runs)


def test_zero_division_that_a_csv_was_not_written_with_is_refused(table, tmp_path):
    strict = table()
    strict.zero_division = 0.0
    strict.save(tmp_path / 'fc_ef' / 'origin.csv')
    with pytest.raises(UserError, match='zero_division'):
        collect(tmp_path)


def test_runs_are_restricted_to_the_images_of_a_set(save):
    files = [f'levir/{i}.png' for i in range(3)] + [f'gzcd/{i}.png' for i in range(5)]
    runs = collect(save('fc_ef/origin.json', files=files)).runs
    chosen = restricted(runs, 'gzcd/*')
    assert chosen[0].table.files == files[3:]
    assert (chosen[0].table.counts == runs[0].table.counts[3:]).all()
    with pytest.raises(UserError, match='no image like'):
        restricted(runs, 'clcd/*')


def test_runs_with_other_scores_of_0_by_0_are_compared_only_when_scored_alike(table, tmp_path):
    """The first image has no change: scored 100 by one run, 50 by the other."""
    paths = [tmp_path / f'{name}.json' for name in ('origin', 'op')]
    for path, zero_division in zip(paths, (1.0, 0.0)):
        replace(table(), zero_division=zero_division).save(path)
    with pytest.raises(UserError, match=r'origin.* counts 0 / 0 as 1, but .*op.* as 0: score all'):
        aligned(collect(*paths).runs)
    arguments = list(map(str, paths))
    first, second = aligned(collect_runs(arguments, zero_division=0.0).runs)
    assert first.scores['mIoU'][0] == second.scores['mIoU'][0] == 50.0
    with pytest.raises(UserError, match='--zero-division 5'):
        collect_runs(arguments, zero_division=5.0)
