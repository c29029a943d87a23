"""car_stats: what thresholds make of a data set, and config lines that configs take."""

import csv
import importlib.util
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mtkd_cd.analysis.car_stats import (
    config_lines,
    config_text,
    propose_for,
    range_rows,
    read_splits,
)
from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.config import load_config, work_dir_of
from mtkd_cd.engine.inputs import set_range

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path, write_pairs):
    root = tmp_path / 'data'
    write_pairs(
        root / 'train', [0, 10, 20, 40, 80, 250], seed=1
    )  # CAR 0, 0.025, 0.05, 0.1, 0.2, 0.625
    write_pairs(root / 'test', [4, 200], seed=2)
    return root


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location(
        'car_stats_tool', ROOT / 'tools/analysis/car_stats.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_images_and_changed_pixels_are_counted_in_each_range_of_each_split(root):
    rows = range_rows(read_splits(str(root)), {'two': (0.05,), 'three': (0.05, 0.2)})
    found = {
        (row['candidate'], row['split'], row['range']): (row['images'], row['changed_pixels'])
        for row in rows
    }
    assert found == {
        ('two', 'train', 'small'): (3, 30),
        ('two', 'train', 'large'): (3, 370),
        ('two', 'test', 'small'): (1, 4),
        ('two', 'test', 'large'): (1, 200),
        ('three', 'train', 'small'): (3, 30),
        ('three', 'train', 'medium'): (2, 120),
        ('three', 'train', 'large'): (1, 250),
        ('three', 'test', 'small'): (1, 4),
        ('three', 'test', 'medium'): (0, 0),
        ('three', 'test', 'large'): (1, 200),
    }
    assert [
        row['images_share']
        for row in rows
        if row['split'] == 'train' and row['candidate'] == 'three'
    ] == [3 / 6, 2 / 6, 1 / 6]


def test_proposals_are_made_for_the_training_images_and_count_pixels_of_larger_images_more(
    tmp_path, write_pairs
):
    write_pairs(tmp_path / 'train', [20, 40, 60])  # 20 x 20: CAR 0.05, 0.1, 0.15
    write_pairs(tmp_path / 'test', [200, 210, 220, 230], seed=3)
    for folder in ('A', 'B', 'label'):
        path = str(tmp_path / 'train' / folder / '000.png')
        cv2.imwrite(
            path, np.kron(cv2.imread(path)[..., 0], np.ones((5, 5), np.uint8))
        )  # 100 x 100: 500 changed pixels of 600
    source, proposals = propose_for(read_splits(str(tmp_path)), 2)
    assert source == 'train'
    assert 0.05 <= proposals['pixels'][0] < 0.1
    assert 0.1 <= proposals['images'][0] < 0.15


def test_cars_come_from_the_index(root, monkeypatch):
    first = read_splits(str(root))
    monkeypatch.setattr(
        'mtkd_cd.data.car_index.car_of_file', lambda *args, **kwargs: pytest.fail('read again')
    )
    assert [split.cars.tolist() for split in read_splits(str(root))] == [
        split.cars.tolist() for split in first
    ]


@pytest.mark.parametrize('thresholds', [(0.1,), (0.03, 0.3), (0.01, 0.1, 0.4)])
@pytest.mark.parametrize('folder', ['origin', 'partition', 'op', 'mtkd'])
def test_config_lines_fit_the_shipped_configs(tmp_path, thresholds, folder):
    lines = config_lines(thresholds)
    text = lines.get(folder, '') + lines['report']
    (tmp_path / 'mine.py').write_text(
        f'_base_ = {str(ROOT / "configs" / folder / "fc_ef.py")!r}\n{text}'
    )
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.test_evaluator.thresholds == cfg.val_evaluator.thresholds == thresholds
    names = {
        1: ['small', 'large'],
        2: ['small', 'medium', 'large'],
        3: [f'range{i}' for i in range(4)],
    }[len(thresholds)]
    if folder == 'partition':
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            assert (loader.dataset.thresholds, loader.dataset.range) == (thresholds, names[0])
    elif folder != 'origin':
        assert cfg.model.thresholds == thresholds
        assert [
            name for name in cfg.model.checkpoints if name not in ('student', 'origin')
        ] == names


def test_the_command_is_one_that_the_recipe_takes():
    assert config_lines((0.03, 0.125))['recipe'] == 'mtkd-cd recipe MODEL --thresholds 0.03 0.125\n'


def test_printed_lines_are_python_and_name_the_rule():
    text = config_text({'log': (0.1,)})
    assert text.startswith('# equal steps in log CAR: small: CAR <= 0.1, large: CAR > 0.1')
    code = re.sub(r'^mtkd-cd .*$', '', text, flags=re.MULTILINE)
    compile(code, 'lines', 'exec')


def test_tool_prints_tables_and_writes_files(root, tool, tmp_path, capsys):
    files = [
        tmp_path / 'out.json',
        tmp_path / 'out.csv',
        tmp_path / 'cars.png',
        tmp_path / 'cars.svg',
    ]
    for out, figure in zip(files[:2], files[2:]):
        tool(
            [
                str(root),
                '--thresholds',
                '0.05',
                '0.2',
                '--thresholds',
                '0.1',
                '--suggest',
                '3',
                '--out',
                str(out),
                '--figure',
                str(figure),
            ]
        )
    text = capsys.readouterr().out
    assert re.search(
        r'^\| train \| +6 \| +1 \| 0\.1667 \|', text, re.MULTILINE
    )  # 1 without change; mean of 0 to 0.625
    assert re.search(
        r'^\| medium \| 0\.05 < CAR <= 0\.2 \| +2 \| +33\.3% \| +30\.0% \|', text, re.MULTILINE
    )
    content = json.loads(files[0].read_text())
    assert content['splits'][0]['cars'] == [0, 0.025, 0.05, 0.1, 0.2, 0.625]
    assert content['splits'][0]['q50'] == pytest.approx(0.075)
    assert set(content['proposals']) == {'images', 'pixels', 'log'}
    with open(files[1], newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(content['ranges']) == 2 * (3 + 2 + 3 * 3)
    assert rows[0]['thresholds'] == '0.05 0.2'
    with Image.open(files[2]) as image:
        assert len(image.convert('RGB').getcolors(100000)) > 10
    assert b'<svg' in files[3].read_bytes()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--suggest', '7'], '7 CAR ranges: the 6 labels have 6 different CARs.* 2 to 6 ranges'),
        (['--thresholds', '0.2', '0.1'], 'increasing order'),
        (['--out', 'cars.xlsx'], r"\.json or \.csv.*'\.xlsx'"),
        (['--figure', 'cars'], r'\.png, \.pdf, \.svg'),
        (['--dataset-type', 'NoSuch'], "unknown data set type 'NoSuch'"),
    ],
)
def test_bad_options_are_user_errors(root, tool, options, message):
    with pytest.raises(UserError, match=message):
        tool([str(root), *options])


def test_bad_data_are_user_errors(root, tool, tmp_path, write_pairs):
    with pytest.raises(UserError, match='nowhere does not exist'):
        tool([str(tmp_path / 'nowhere')])
    (root / 'test/label/001.png').write_bytes(b'no image')
    with pytest.raises(UserError, match=r'test/label/001\.png is not a readable image'):
        tool([str(root)])
    (root / 'test/label/001.png').unlink()
    with pytest.raises(UserError, match=r'test/A/001\.png: has no label'):
        tool([str(root)])


def test_a_split_without_labels_is_left_out(tmp_path, write_pairs, tool, capsys):
    write_pairs(tmp_path / 'train', [4, 8], suffix='.tif', label_suffix='.png', white=1)
    write_pairs(tmp_path / 'test', [4], ('A', 'B', 'unused'), suffix='.tif')
    tool(
        [
            str(tmp_path),
            '--dataset-type',
            'RSIPAC_CD_Dataset',
            '--suggest',
            '2',
            '--figure',
            str(tmp_path / 'cars.pdf'),
        ]
    )
    text = capsys.readouterr().out
    assert 'No labels in test' in text
    assert (tmp_path / 'cars.pdf').read_bytes().startswith(b'%PDF')
    (tmp_path / 'alone').mkdir()
    os.rename(tmp_path / 'test', tmp_path / 'alone/test')
    with pytest.raises(UserError, match='no label in any split'):
        tool([str(tmp_path / 'alone'), '--dataset-type', 'RSIPAC_CD_Dataset'])


@pytest.mark.parametrize('thresholds', [(0.1,), (0.07, 0.3), (0.05, 0.2)])
def test_model_lines_find_what_training_by_the_data_lines_leaves(thresholds, tmp_path):
    lines = config_lines(thresholds)
    for folder in ('partition', 'mtkd'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'fc_ef.py').write_text(
            f'_base_ = {str(ROOT / "configs" / folder / "fc_ef.py")!r}\n{lines[folder]}'
        )
    specialist, student = (
        load_config(tmp_path / folder / 'fc_ef.py') for folder in ('partition', 'mtkd')
    )
    for name in CARPartition(thresholds).names:
        set_range(specialist, name)
        assert student.model.checkpoints[name] == str(work_dir_of(specialist) / 'best.pth')


@pytest.mark.realdata
def test_ombria(tool, capsys):
    root = os.path.join(os.environ.get('MTKD_CD_DATA', ''), 'ombria')
    if not os.path.isdir(root):
        pytest.skip('MTKD_CD_DATA names no folder with ombria')
    tool([root, '--suggest', '3'])
    assert re.search(
        r'^\| small +\| +CAR <= 0\.05 \| +33 \|', capsys.readouterr().out, re.MULTILINE
    )
