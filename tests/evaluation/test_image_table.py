import csv
import json

import numpy as np
import pytest

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.evaluation.image_table import ImageTable, Provenance, load_table
from mtkd_cd.evaluation.scores import image_scores, mean_scores, pooled_scores
from mtkd_cd.version import __version__

COUNTS = np.array([[0, 0, 0, 100], [8, 2, 2, 88], [50, 10, 0, 40], [0, 3, 0, 97]])
FILES = ['town, north/0.png', 'town/1.png', '2.png', 'улица "3".png']


def _table(**kwargs):
    defaults = dict(
        coarse_cars=[0.0, 0.3, None, 0.03], coarse_ranges=['small', 'large', None, 'small']
    )
    return ImageTable(list(FILES), COUNTS, **{**defaults, **kwargs})


def test_rows_hold_names_cars_counts_and_scores():
    row = _table().rows()[1]
    assert {key: row[key] for key in ('file', 'TP', 'FP', 'FN', 'TN')} == dict(
        file='town/1.png', TP=8, FP=2, FN=2, TN=88
    )
    assert (row['car'], row['pred_car'], row['range']) == (0.1, 0.1, 'medium')
    assert (row['coarse_car'], row['coarse_range']) == (0.3, 'large')
    assert row['IoU_changed'] == pytest.approx(100 * 8 / 12)
    assert {key: row[key] for key in image_scores(COUNTS)} == {
        key: values[1] for key, values in image_scores(COUNTS).items()
    }


@pytest.mark.parametrize('suffix', ['.json', '.csv'])
def test_a_table_survives_the_file(tmp_path, suffix):
    table, path = _table(), tmp_path / 'new' / f'table{suffix}'
    table.save(path)
    loaded = load_table(path)
    assert loaded.rows() == table.rows()
    assert (loaded.counts == COUNTS).all()
    assert loaded.means() == table.means() == mean_scores(COUNTS)


def test_json_keeps_what_the_scores_depend_on(tmp_path):
    table = _table(partition=CARPartition((0.3,), ('low', 'high')), zero_division=0.0)
    table.save(tmp_path / 'table.json')
    loaded = load_table(tmp_path / 'table.json')
    assert (loaded.partition, loaded.zero_division) == (table.partition, 0.0)
    stored = json.loads((tmp_path / 'table.json').read_text())
    assert stored['means'] == mean_scores(COUNTS, 0.0)
    assert stored['pooled'] == pooled_scores(COUNTS, 0.0)


def test_csv_is_one_line_per_image(tmp_path):
    _table().save(tmp_path / 'table.csv')
    with open(tmp_path / 'table.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.reader(file))
    assert rows[0][:8] == ['file', 'car', 'pred_car', 'range', 'TP', 'FP', 'FN', 'TN']
    assert [row[0] for row in rows[1:]] == FILES


def test_ranges_can_be_chosen_on_loading(tmp_path):
    _table().save(tmp_path / 'table.json')
    loaded = load_table(tmp_path / 'table.json', CARPartition((0.45,)))
    assert [b.num_images for b in loaded.ranges()] == [3, 1]


def test_a_csv_scored_otherwise_than_it_is_read_is_refused(tmp_path):
    _table(zero_division=0.0).save(tmp_path / 'table.csv')
    assert load_table(tmp_path / 'table.csv', zero_division=0.0).means() == mean_scores(COUNTS, 0.0)
    with pytest.raises(
        UserError, match=r'town, north/0\.png: the stored mIoU 50\.00 is not the 100\.00'
    ):
        load_table(tmp_path / 'table.csv')


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('table.txt', '', r"suffix '\.txt'"),
        ('absent.csv', None, 'cannot read .*absent.csv'),
        ('table.csv', '', 'holds no image'),
        ('table.csv', 'file,TP,FP,FN,TN\n', 'holds no image'),
        ('table.csv', 'file,TP,FP,TN\na.png,1,2,3\n', 'lacks the column FN'),
        ('table.csv', 'file,TP,FP,FN,TN\n\na.png,1,2,3\n', 'line 3: 5 cells are needed'),
        # A name with a comma that nobody quoted: its cells would be read one column further on.
        ('table.csv', 'file,TP,FP,FN,TN\ntile_1,2,1,0,0,3\n', 'line 2: 5 cells .* found 6'),
        ('table.csv', 'file,TP,FP,FN,TN,TP\na.png,1,0,0,3,2\n', "names the column 'TP' twice"),
        ('table.csv', 'file;TP;FP;FN;TN\na.png;1.000;0;0;3\n', "a.png: TP .* '1.000', which may"),
        ('table.csv', 'file;TP;FP;FN;TN\na.png;1,000;0;0;3\n', 'a.png: TP .* which may mean'),
        ('table.csv', 'file,TP,FP,FN,TN\na.png,1,2,few,3\n', "a.png: FN is a number, found 'few'"),
        (
            'table.csv',
            'file,TP,FP,FN,TN\na.png,1,2,-1,3\n',
            "a.png: FN is a number of pixels, found '-1'",
        ),
        (
            'table.csv',
            'file,TP,FP,FN,TN\na.png,1,2,,3\n',
            "a.png: FN is a number of pixels, found ''",
        ),
        ('table.csv', 'file,TP,FP,FN,TN\na.png,1,0,0,3\na.png,1,0,0,3\n', 'holds a.png 2 times'),
        ('table.json', '{"images": [', 'not valid JSON'),
        ('table.json', '[]', "no list 'images'"),
        ('table.json', '{"images": [1]}', "no list 'images' of rows"),
        ('table.json', '{"images": [{"file": "a.png"}]}', 'lacks the column TP, FP, FN, TN'),
    ],
)
def test_a_bad_table_is_refused_with_its_name_and_its_fault(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        load_table(tmp_path / name)


@pytest.mark.parametrize('delimiter', [',', ';', '\t'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_a_csv_of_a_spreadsheet_is_read(tmp_path, delimiter, encoding):
    with open(tmp_path / 'table.csv', 'w', encoding=encoding, newline='') as file:
        writer = csv.writer(file, delimiter=delimiter)  # lines end as on Windows
        writer.writerow(['TN', 'mIoU', ' file', 'FN', 'TP', 'FP', 'note'])
        for name, counts, score in zip(FILES, COUNTS, image_scores(COUNTS)['mIoU']):
            tp, fp, fn, tn = counts
            decimals = f'{score:.2f}'.replace('.', ',' if delimiter == ';' else '.')
            writer.writerow([tn, decimals, name, fn, tp, fp, 'x'])
        writer.writerows([[''] * 7] * 2)
    table = load_table(tmp_path / 'table.csv')
    assert table.counts.tolist() == COUNTS.tolist()
    assert table.files == FILES


def test_a_json_table_may_begin_with_a_mark(tmp_path):
    _table().save(tmp_path / 'table.json')
    text = (tmp_path / 'table.json').read_text()
    (tmp_path / 'marked.json').write_text(text, encoding='utf-8-sig')
    assert load_table(tmp_path / 'marked.json').rows() == _table().rows()


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / 'table.csv').write_bytes(b'\x89PNG\xff\x00')
    with pytest.raises(UserError, match='cannot read'):
        load_table(tmp_path / 'table.csv')


def test_another_suffix_is_not_written(tmp_path):
    with pytest.raises(UserError, match=r"suffix '\.xlsx'"):
        _table().save(tmp_path / 'table.xlsx')
    assert list(tmp_path.iterdir()) == []


def test_a_json_table_says_which_run_it_is_of(tmp_path):
    table = _table()
    table.provenance = Provenance('fc_ef', 'op@0.1', 3, 'JL1-CD/test')
    table.save(tmp_path / 'table.json')
    stored = json.loads((tmp_path / 'table.json').read_text())['provenance']
    assert stored == {
        'model': 'fc_ef',
        'strategy': 'op@0.1',
        'seed': 3,
        'dataset': 'JL1-CD/test',
        'version': __version__,
    }
    assert load_table(tmp_path / 'table.json').provenance == table.provenance


def test_a_table_that_does_not_say_what_it_is_is_read_as_unknown(tmp_path):
    _table().save(tmp_path / 'table.csv')
    assert load_table(tmp_path / 'table.csv').provenance == Provenance(version=None)
    _table().save(tmp_path / 'table.json')
    stored = json.loads((tmp_path / 'table.json').read_text())
    del stored['provenance']
    (tmp_path / 'table.json').write_text(json.dumps(stored))
    assert load_table(tmp_path / 'table.json').provenance == Provenance(version=None)


@pytest.mark.parametrize('provenance', ['fc_ef', ['fc_ef'], {'seed': '3'}, {'model': 7}, None])
def test_a_provenance_of_another_kind_names_the_file(tmp_path, provenance):
    _table().save(tmp_path / 'table.json')
    stored = json.loads((tmp_path / 'table.json').read_text())
    stored['provenance'] = provenance
    (tmp_path / 'table.json').write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r'table\.json'):
        load_table(tmp_path / 'table.json')


def test_fields_of_a_later_version_are_left_out():
    assert Provenance.of({'model': 'fc_ef', 'gpu': 'H100'}) == Provenance('fc_ef')


@pytest.mark.parametrize('name', ['=1+1.png', '+a.png', '-a.png', '@a.png', "'=a.png", "'a.png"])
def test_a_csv_never_holds_a_formula_and_gives_back_the_name(tmp_path, name):
    table = _table()
    table.files[0] = name
    table.save(tmp_path / 'table.csv')
    with open(tmp_path / 'table.csv', newline='') as file:
        cell = next(csv.DictReader(file))['file']
    assert cell[0] not in '=+-@'
    assert load_table(tmp_path / 'table.csv').files[0] == name


def _cells(report):
    return [[cell.strip() for cell in line.strip('| ').split('|')] for line in report.splitlines()]


def test_the_report_has_the_papers_table_and_pooled_figures_beside_it():
    lines = _cells(_table().report())
    means, pooled = mean_scores(COUNTS), pooled_scores(COUNTS)
    order = ('IoU', 'Recall', 'Precision', 'Fscore')
    start = lines.index(['mIoU', 'mRec', 'mPrec', 'mFscore'])
    assert lines[start + 2] == ['per-image mean', *(f'{means[f"m{name}"]:.2f}' for name in order)]
    assert lines[start + 4] == ['pooled', *(f'{pooled[f"m{name}"]:.2f}' for name in order)]
    start = lines.index(['class', '', 'IoU', 'Rec', 'Prec', 'Fscore'])
    for offset, class_name in ((2, 'unchanged'), (5, 'changed')):
        assert lines[start + offset] == [
            class_name,
            'per-image mean',
            *(f'{means[f"{name}_{class_name}"]:.2f}' for name in order),
        ]
        assert lines[start + offset + 2] == [
            'pooled',
            *(f'{pooled[f"{name}_{class_name}"]:.2f}' for name in order),
        ]
    assert f'overall accuracy {pooled["aAcc"]:.2f}' in _table().report()


def test_the_report_has_the_interval_of_each_mean():
    rng = np.random.default_rng(0)
    counts = np.stack([rng.integers(0, high, 60) for high in (500, 100, 100, 3000)], 1)
    table = ImageTable([f'{i}.png' for i in range(60)], counts, [None] * 60, [None] * 60)
    row = next(line for line in _cells(table.report()) if line[0] == '95 % interval')
    for name, cell in zip(('mIoU', 'mRecall', 'mPrecision', 'mFscore'), row[1:], strict=True):
        values = image_scores(counts)[name]
        # The central limit theorem's interval, which the bootstrap's comes close to at 60 images.
        half = 1.96 * values.std(ddof=1) / 60**0.5
        assert [float(bound) for bound in cell.split(' to ')] == pytest.approx(
            [values.mean() - half, values.mean() + half], abs=0.2 * half
        )


def test_json_stores_the_bounds_that_the_report_shows(tmp_path):
    table = _table()
    table.save(tmp_path / 'table.json')
    low, high = json.loads((tmp_path / 'table.json').read_text())['intervals']['mIoU']
    assert f'{low:.2f} to {high:.2f}' in table.report()


def test_the_report_breaks_scores_down_by_car():
    lines = _cells(_table(partition=CARPartition((0.2, 0.6))).report(num_quantiles=2))
    assert ['large', 'CAR > 0.6', '0', '-', '-', '-', '-'] in lines
    assert ['q2', '0.1000 to 0.5000', '2', f'{image_scores(COUNTS)["mIoU"][1:3].mean():.2f}'] in [
        line[:4] for line in lines
    ]


def test_the_report_is_the_same_each_time():
    assert _table().report() == _table().report()


def test_a_csv_of_other_ranges_is_refused_unless_they_are_named(tmp_path):
    partition = CARPartition((0.3,), ('low', 'high'))
    _table(partition=partition).save(tmp_path / 'table.csv')
    with pytest.raises(
        UserError,
        match=(
            r"town, north/0\.png: its CAR 0\.0000 is called 'low', but lies in 'small' of small: "
            r'CAR <= 0\.05'
        ),
    ):
        load_table(tmp_path / 'table.csv')
    assert load_table(tmp_path / 'table.csv', partition).partition == partition


@pytest.mark.parametrize('name', ['none.json', 'none.csv'])
def test_a_table_that_is_not_there_is_not_called_damaged(tmp_path, name):
    with pytest.raises(UserError, match=rf'^cannot read the per-image table .*{name}: .*No such'):
        load_table(tmp_path / name)


def test_another_precision_is_kept_and_float32_is_not_mentioned(tmp_path):
    table = _table()
    table.provenance = Provenance('fc_ef', 'origin', precision='bfloat16')
    table.save(tmp_path / 'table.json')
    assert load_table(tmp_path / 'table.json').provenance == table.provenance
    assert Provenance('fc_ef').precision is None
    assert 'precision' not in Provenance('fc_ef').as_dict()
