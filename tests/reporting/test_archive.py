"""Archives of per-image tables against the tables that went into them."""

import csv
import gzip
from dataclasses import replace

import numpy as np
import pytest

from mtkd_cd.cli import tables
from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.evaluation import Provenance, load_table
from mtkd_cd.reporting import collect_runs
from mtkd_cd.reporting.archive import COLUMNS, curves_file, pack, read_archive, unpack
from mtkd_cd.reporting.curves import CURVES
from mtkd_cd.reporting.identity import RunIdentity
from mtkd_cd.reporting.scored_run import Run

CURVE = 'strategy,range,iter,mIoU\norigin,,100,51.06562682719684\npartition,small,50,1.0\n'


@pytest.fixture
def folder(tmp_path, save):
    save('seed3/report/fc_ef/op@0.1+validated.csv', coarse=[(0.1 + 0.2, 'origin')] * 8)
    save('seed3/report/fc_ef/origin.csv')
    (tmp_path / 'runs/seed3/report/fc_ef' / CURVES).write_text(CURVE)
    return tmp_path / 'runs'


def _packed(folder, tmp_path, name='all.csv.gz'):
    path = tmp_path / name
    tables.main(['pack', str(folder), '--out', str(path), '--dataset', 'toy/test'])
    return path


@pytest.mark.parametrize('name', ['all.csv.gz', 'all.csv.xz'])
def test_a_packed_folder_is_read_like_the_folder(folder, tmp_path, name):
    expected = collect_runs([str(folder)])
    found = collect_runs([str(_packed(folder, tmp_path, name))])
    assert [run.identity for run in found.runs] == [run.identity for run in expected.runs]
    assert found.curves == expected.curves != []
    for run, other in zip(found.runs, expected.runs, strict=True):
        assert run.table.files == other.table.files
        np.testing.assert_array_equal(run.table.counts, other.table.counts)
        assert run.table.coarse_cars == other.table.coarse_cars
        assert run.table.coarse_ranges == other.table.coarse_ranges
        assert run.table.partition == other.table.partition
        assert run.table.provenance.dataset == 'toy/test'


def test_unpacked_csv_tables_are_those_that_were_packed_byte_for_byte(folder, tmp_path):
    path = _packed(folder, tmp_path)
    tables.main(['unpack', str(path), '--out', str(tmp_path / 'out'), '--format', 'csv'])
    written = {file.relative_to(tmp_path / 'out') for file in (tmp_path / 'out').rglob('*.*')}
    assert written == {file.relative_to(folder) for file in folder.rglob('*.*')}
    for name in ('origin.csv', CURVES):
        place = f'seed3/report/fc_ef/{name}'
        assert (tmp_path / 'out' / place).read_bytes() == (folder / place).read_bytes()


def test_unpacked_json_tables_say_what_they_are(folder, tmp_path):
    unpack(_packed(folder, tmp_path), tmp_path / 'out')
    table = load_table(tmp_path / 'out/seed3/report/fc_ef/op@0.1+validated.json')
    told = table.provenance
    assert (told.model, told.strategy, told.seed) == ('fc_ef', 'op@0.1+validated', 3)
    assert table.partition == CARPartition((0.1,))


def test_the_same_runs_give_the_same_bytes(folder, tmp_path):
    first, second = (_packed(folder, tmp_path, name) for name in ('a.csv.gz', 'b.csv.gz'))
    assert first.read_bytes() == second.read_bytes()
    assert curves_file(first).read_bytes() == curves_file(second).read_bytes()


def test_a_label_goes_before_the_strategies_of_an_archive(folder, tmp_path):
    found = collect_runs([f'mine={_packed(folder, tmp_path)}'])
    assert {run.identity.strategy for run in found.runs} == {'mine:origin', 'mine:op@0.1+validated'}


@pytest.mark.parametrize('names', [('few', 'many'), ('very few', 'many'), ('[few', 'many')])
def test_own_names_thresholds_and_zero_division_are_kept(table, tmp_path, names):
    partition = CARPartition((0.3,), names)
    changed = replace(table(), partition=partition, zero_division=0.0, provenance=Provenance())
    changed.files[0] = '=1+1.png'
    pack([Run(RunIdentity('-net', 'mine'), tmp_path / 'x.json', changed)], tmp_path / 'a.csv.gz')
    with gzip.open(tmp_path / 'a.csv.gz', 'rt', newline='') as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell.startswith(('=', '+', '-', '@')) for cell in cells)
    (run,) = read_archive(tmp_path / 'a.csv.gz').runs
    assert run.identity == RunIdentity('-net', 'mine', None)
    assert (run.table.partition, run.table.zero_division) == (partition, 0.0)
    assert run.table.files[0] == '=1+1.png'


def _written(path, rows):
    with gzip.open(path, 'wt', newline='') as file:
        csv.writer(file).writerows(rows)
    return path


GOOD = ('m', 's', '', '', '', '0.05 0.2', '', '1.0', 'a.png', '1', '2', '3', '4', '', '')


@pytest.mark.parametrize(
    ('rows', 'message'),
    [
        ([COLUMNS], 'holds no image'),
        ([COLUMNS[:-1], GOOD[:-1]], 'lacks the column coarse_range'),
        ([COLUMNS, GOOD[:-1]], 'not as many cells'),
        ([COLUMNS, GOOD, GOOD], r'a\.png is there more than once'),
        ([COLUMNS, (*GOOD[:9], 'x', *GOOD[10:])], 'a number is wanted'),
        ([COLUMNS, (*GOOD[:9], '-1', *GOOD[10:])], 'below 0'),
        ([COLUMNS, (*GOOD[:2], 'x', *GOOD[3:])], 'seed is an integer'),
    ],
)
def test_a_broken_archive_is_an_error_that_names_it(tmp_path, rows, message):
    path = _written(tmp_path / 'a.csv.gz', rows)
    with pytest.raises(UserError, match=rf'a\.csv\.gz.*{message}'):
        read_archive(path)


@pytest.mark.parametrize('name', ['a.csv.gz', 'a.csv.xz'])
def test_a_truncated_or_foreign_file_is_an_error_that_names_it(folder, tmp_path, name):
    path = _packed(folder, tmp_path, name)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=f'cannot read the archive .*{name}'):
        read_archive(path)
    path.write_bytes(b'not compressed')
    with pytest.raises(UserError, match=f'cannot read the archive .*{name}'):
        read_archive(path)


def test_no_table_is_written_outside_the_folder_nor_over_another(tmp_path):
    path = _written(tmp_path / 'a.csv.gz', [COLUMNS, ('../../../m', *GOOD[1:])])
    with pytest.raises(UserError, match='outside of'):
        unpack(path, tmp_path / 'out')
    path = _written(tmp_path / 'b.csv.gz', [COLUMNS, GOOD])
    unpack(path, tmp_path / 'out')
    with pytest.raises(UserError, match=r'report/m/s\.json exists'):
        unpack(path, tmp_path / 'out')


def test_another_suffix_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"\.csv\.gz or \.csv\.xz, found the suffix '\.zip'"):
        pack(collect_runs([str(folder)]).runs, tmp_path / 'a.zip')


def test_precision_is_kept_and_archives_without_one_are_as_they_were(folder, tmp_path):
    runs = read_archive(_packed(folder, tmp_path)).runs
    with gzip.open(tmp_path / 'all.csv.gz', 'rt') as file:
        assert file.readline().strip().split(',') == list(COLUMNS)
    run, other = runs
    table = replace(run.table, provenance=replace(run.table.provenance, precision='bfloat16'))
    pack([replace(run, table=table), other], tmp_path / 'low.csv.gz')
    found = read_archive(tmp_path / 'low.csv.gz').runs
    assert [one.table.provenance.precision for one in found] == ['bfloat16', None]
    assert [one.table.files for one in found] == [one.table.files for one in runs]
