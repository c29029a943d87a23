"""check_dataset: each kind of fault is found in the right file, and a clean data set passes."""

import importlib.util
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mtkd_cd.analysis.check import check_dataset, draw_car_histograms, report_text
from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path, write_pairs):
    root = tmp_path / 'data'
    write_pairs(root / 'train', [0, 10, 40, 200], seed=1)
    write_pairs(root / 'test', [30, 90], seed=2)
    return root


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location(
        'check_dataset_tool', ROOT / 'tools/check_dataset.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def problems_of(root, **options):
    return {
        os.path.relpath(problem.path, root): problem.text
        for report in check_dataset(str(root), **options)
        for problem in report.problems
    }


def test_clean_data_set(root):
    reports = check_dataset(str(root))
    assert [(report.name, len(report.pairs), report.problems) for report in reports] == [
        ('train', 4, []),
        ('test', 2, []),
    ]
    assert sorted(reports[0].cars) == [0, 10 / 400, 40 / 400, 200 / 400]


def damage_a_date(root):
    path = root / 'train/B/001.png'
    path.write_bytes(path.read_bytes()[:-300])
    return 'train/B/001.png', 'is not a readable image'


def damage_a_label(root):
    path = root / 'train/label/001.png'
    path.write_bytes(path.read_bytes()[:50])
    return 'train/label/001.png', 'not a readable image'


def code_a_label_otherwise(root):
    Image.fromarray(np.repeat(np.array([0, 1, 2, 3], np.uint8), 5)[:, None].repeat(20, 1)).save(
        root / 'train/label/002.png'
    )
    return 'train/label/002.png', r'holds the values {0, 1, 2, 3}'


def store_a_label_as_one(root):
    path = str(root / 'train/label/002.png')
    cv2.imwrite(path, cv2.imread(path, cv2.IMREAD_GRAYSCALE) // 255)
    return 'train/label/002.png', 'is coded 0/1, but 4 other labels are coded 0/255'


def crop_a_label(root):
    Image.fromarray(np.zeros((20, 19), np.uint8)).save(root / 'test/label/000.png')
    return 'test/label/000.png', 'is 19 x 20 pixels'


def give_an_image_four_channels(root):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 4), dtype=np.uint8)).save(
        root / 'test/A/000.png'
    )
    return 'test/A/000.png', 'no opaque alpha channel'


def give_a_tiff_four_channels(root):
    (root / 'test/A/000.png').unlink()
    bands = [Image.fromarray(np.zeros((20, 20), np.uint8)) for _ in range(4)]
    Image.merge('CMYK', bands).save(root / 'test/A/000.tif')
    return 'test/A/000.tif', 'has 4 bands'


def lose_a_partner(root):
    (root / 'train/B/003.png').unlink()
    return 'train/A/003.png', 'has no partner'


def lose_a_label(root):
    (root / 'train/label/003.png').unlink()
    return 'train/A/003.png', 'has no label'


def empty_a_folder(root):
    shutil.rmtree(root / 'test/B')
    (root / 'test/B').mkdir()
    return 'test', 'it is empty'


def copy_a_pair_to_test(root):
    for folder in ('A', 'B', 'label'):
        image = Image.open(root / 'train' / folder / '002.png')
        image.save(root / 'test' / folder / 'leak.bmp')  # another format, the same pixels
    return 'test/A/leak.bmp', 'the same pair is in split train'


def copy_a_pair_to_test_in_reverse(root):
    for folder, source in (('A', 'B'), ('B', 'A'), ('label', 'label')):
        shutil.copy(root / 'train' / source / '002.png', root / 'test' / folder / 'leak.png')
    return 'test/A/leak.png', 'the same pair is in split train'


def blacken_all_labels(root):
    for path in (root / 'test/label').iterdir():
        Image.fromarray(np.zeros((20, 20), np.uint8)).save(path)
    return 'test/label', 'no label has a changed pixel'


FAULTS = [
    damage_a_date,
    damage_a_label,
    code_a_label_otherwise,
    store_a_label_as_one,
    crop_a_label,
    give_an_image_four_channels,
    give_a_tiff_four_channels,
    lose_a_partner,
    lose_a_label,
    empty_a_folder,
    copy_a_pair_to_test,
    copy_a_pair_to_test_in_reverse,
    blacken_all_labels,
]


@pytest.mark.parametrize('fault', FAULTS, ids=lambda fault: fault.__name__)
def test_fault_is_found_in_its_file_alone(root, fault):
    path, text = fault(root)
    problems = problems_of(root)
    assert list(problems) == [path]
    assert text in problems[path]


def test_tool_lists_the_bad_files_and_fails(root, tool, capsys, tmp_path):
    faults = [damage_a_date(root), crop_a_label(root)]
    assert tool([str(root), '--figure', str(tmp_path / 'cars.png')]) == 1
    out = capsys.readouterr().out
    assert '2 problems' in out
    for path, text in faults:
        assert f'{root / path}: {text}' in out


def test_other_layouts_are_recognised(tmp_path, write_pairs):
    write_pairs(tmp_path / 'svcd/train', [4, 8], ('A', 'B', 'OUT'), '.jpg')
    write_pairs(tmp_path / 'clcd/val', [4], ('time1', 'time2', 'label'))
    files = write_pairs(tmp_path / 'whu', [4, 8, 90], suffix='.tif')
    (tmp_path / 'whu/list').mkdir()
    for split, name in zip(('train', 'val', 'test'), files):
        (tmp_path / f'whu/list/{split}.txt').write_text(name)
    for name, splits in (('svcd', ['train']), ('clcd', ['val']), ('whu', ['train', 'val', 'test'])):
        reports = check_dataset(str(tmp_path / name))
        assert [report.name for report in reports] == splits
        assert [problem for report in reports for problem in report.problems] == []


def test_named_class_decides_on_suffix_and_coding(tmp_path, write_pairs):
    write_pairs(tmp_path / 'train', [4, 8], ('t1', 't2', 'mask'), '.jpg', '.png')
    assert (
        "format_seg_map='to_binary'"
        in problems_of(tmp_path, dataset_type='DSIFN_Dataset')['train/mask']
    )
    with pytest.raises(UserError, match='no split'):
        check_dataset(str(tmp_path), 'JL1_CD_Dataset')
    with pytest.raises(UserError, match='NoSuchDataset'):
        check_dataset(str(tmp_path), 'NoSuchDataset')


def test_missing_root_and_root_without_splits_are_user_errors(tmp_path, tool):
    with pytest.raises(UserError, match='nowhere does not exist'):
        tool([str(tmp_path / 'nowhere')])
    (tmp_path / 'photos').mkdir()
    with pytest.raises(UserError, match=r'holds no split .*found photos'):
        tool([str(tmp_path)])


def test_table_and_figure(root, tmp_path, tool, capsys):
    figure = tmp_path / 'new' / 'cars.png'
    assert tool([str(root), '--thresholds', '0.05', '0.2', '--figure', str(figure)]) == 0
    out = capsys.readouterr().out
    rows = {
        line.split()[0]: line.split()
        for line in out.splitlines()
        if line.startswith(('train', 'test'))
    }
    # pairs, size (3 words), mode, coding (train has a label without change: 4 words), CAR mean,
    # median, no change, ranges, problems
    assert rows['test'] == [
        'test',
        '2',
        '20',
        'x',
        '20',
        'RGB',
        '0/255',
        '15.0%',
        '15.0%',
        '0.0%',
        '0',
        '1',
        '1',
        '0',
    ]
    assert rows['train'][-7:] == ['15.6%', '6.2%', '25.0%', '2', '1', '1', '0']
    assert 'CAR in train' in out
    with Image.open(figure) as image:
        assert min(image.size) > 400
        assert len(image.convert('RGB').getcolors(100000)) > 10


def test_report_of_a_split_without_readable_label(tmp_path, write_pairs):
    write_pairs(tmp_path / 'train', [4])
    (tmp_path / 'train/label/000.png').write_bytes(b'nothing')
    reports = check_dataset(str(tmp_path))
    partition = CARPartition()
    assert '-' in report_text(reports, partition)
    draw_car_histograms(reports, partition, tmp_path / 'cars.png')


@pytest.mark.realdata
def test_ombria(tool, tmp_path, capsys):
    root = os.path.join(os.environ.get('MTKD_CD_DATA', ''), 'ombria')
    if not os.path.isdir(root):
        pytest.skip('MTKD_CD_DATA names no folder with ombria')
    assert tool([root, '--figure', str(tmp_path / 'cars.png')]) == 0
    train = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith('train')
    ).split()
    assert [train[1], *train[-4:]] == ['578', '33', '238', '307', '0']
