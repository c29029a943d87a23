"""Scores over several sets together."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mtkd_cd.evaluation.image_table import ImageTable

TOOL = Path(__file__).parents[2] / 'tools' / 'experiments' / 'by_set.py'


@pytest.fixture
def by_set():
    spec = importlib.util.spec_from_file_location('by_set', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save(folder: Path, strategy: str, counts: list[list[int]]) -> None:
    files = ['one/test/a.png', 'one/test/b.png', 'two/test/a.png']
    ImageTable(files, np.array(counts), [None] * 3, [None] * 3).save(folder / f'{strategy}.json')


def test_scores_of_all_and_of_each_set_with_differences_by_seed(by_set, tmp_path):
    folders = [tmp_path / f'seed{seed}' / 'report' / 'm' for seed in (0, 1)]
    for folder in folders:
        folder.mkdir(parents=True)
        # TP, FP, FN, TN
        save(folder, 'continued', [[5, 0, 5, 10], [0, 0, 10, 10], [10, 0, 0, 10]])
    save(folders[0], 'mtkd@kl', [[10, 0, 0, 10], [0, 0, 10, 10], [10, 0, 0, 10]])
    (folders[0] / 'report.json').write_text('{}')
    found = by_set.read(folders)
    assert list(found) == ['continued', 'mtkd@kl']
    one = found['continued'][0]['one']
    assert one.images == 2
    # (5/10 + 10/15) / 2 and (0 + 10/20) / 2; pooled 2 * 5 / (2 * 5 + 15)
    assert one.values['mIoU'] == pytest.approx(100 * ((0.5 + 10 / 15) / 2 + 0.25) / 2)
    assert one.values['F1'] == pytest.approx(100 * 10 / 25)
    gained = 100 * (1 - (0.5 + 10 / 15) / 2)
    own = by_set.differences(found, 'mtkd@kl', 'continued', 'all', 'mIoU')
    assert own == [pytest.approx(gained / 3)]
    text = by_set.as_markdown(found, 'continued')
    assert f'+{gained / 2:.2f}' in text
    assert 'two, 1 images' in text
    picture = tmp_path / 'by_set.png'
    by_set.draw(found, folders, 'continued', picture)
    assert picture.read_bytes()[:4] == b'\x89PNG'


def test_interval_is_students(by_set):
    assert by_set.interval_text([1.0, 3.0]) == '+2.00 [-10.71, +14.71]'  # t = 12.706 of one degree
    assert by_set.interval_text([1.0]) == '+1.00'


def test_sets_by_car_put_images_without_change_apart(by_set):
    counts = [[0, 1, 0, 19], [1, 0, 0, 19], [1, 0, 1, 18], [5, 0, 5, 10]]  # CAR 0, 0.05, 0.1, 0.5
    table = ImageTable(list('abcd'), np.array(counts), [None] * 4, [None] * 4)
    found = {
        name: which.nonzero()[0].tolist() for name, which in by_set.sets_of(table, 'car').items()
    }
    assert found == {'no change': [0], 'small': [1], 'medium': [2], 'large': [3]}


def test_several_models_have_a_table_of_all_origins_and_a_row_each_in_the_picture(by_set, tmp_path):
    right, wrong = [[10, 0, 0, 10]] * 3, [[0, 0, 10, 10]] * 3  # mIoU 1 and 0.25, F1 1 and 0
    folders = []
    for model, student in (('m', right), ('n', wrong)):
        folders.append(tmp_path / 'seed0' / 'report' / model)
        folders[-1].mkdir(parents=True)
        save(folders[-1], 'continued', [[0, 0, 10, 10]] * 3)
        save(folders[-1], 'mtkd', student)
    (folders[0] / 'curves.csv').write_text(
        'strategy,range,iter,mIoU\norigin,,10,50.5\norigin,,20,51\npartition,small,20,9\n'
    )
    assert by_set.curves_of(folders[0]) == {'origin': [(10, 50.5), (20, 51.0)]}
    found = {folder.name: by_set.read([folder]) for folder in folders}
    mean_75_and_0, mean_100_and_0 = by_set.interval_text([75, 0]), by_set.interval_text([100, 0])
    assert f'| MTKD | 2 | {mean_75_and_0} | 1 | {mean_100_and_0} | 1 |' in by_set.over_models(
        found, 'continued'
    )
    picture = tmp_path / 'models.png'
    by_set.draw_models(found, folders, 'continued', picture)
    assert picture.read_bytes()[:4] == b'\x89PNG'
