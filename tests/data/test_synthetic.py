"""Synthetic scenes: determinism, the spread of CAR, what the label marks, the layout on disk."""

import hashlib
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import MANIFEST
from mtkd_cd.data.synthetic import make_dataset, make_scene, target_cars
from mtkd_cd.data.synthetic.changes import make_pair
from mtkd_cd.data.synthetic.land import Cover
from mtkd_cd.data.synthetic.render import paint, random_looks

REPOSITORY = Path(__file__).parents[2]
TOOL = REPOSITORY / 'tools' / 'make_synthetic.py'


def contents(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob('*')
        if path.is_file() and path.name != MANIFEST
    }


def test_scene_is_rgb_and_its_label_is_0_or_255():
    a, b, label = make_scene(0, 96, 0.3)
    assert a.shape == b.shape == (96, 96, 3)
    assert label.shape == (96, 96)
    assert a.dtype == b.dtype == label.dtype == np.uint8
    assert set(np.unique(label)) == {0, 255}


def test_same_seed_gives_the_same_scene_and_another_seed_another():
    first, again, other = (
        make_scene(3, 96, 0.2),
        make_scene(np.random.default_rng(3), 96, 0.2),
        make_scene(4, 96, 0.2),
    )
    assert all(np.array_equal(x, y) for x, y in zip(first, again))
    assert not any(np.array_equal(x, y) for x, y in zip(first, other))


def test_global_generator_is_neither_read_nor_moved():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    first = make_scene(5, 64, 0.1)
    assert np.array_equal(np.random.get_state()[1], state)
    np.random.seed(1)
    assert np.array_equal(make_scene(5, 64, 0.1)[0], first[0])


@pytest.mark.parametrize('size', [64, 160])
def test_realised_car_is_the_target(size):
    for seed, target in enumerate(
        [0.0, 0.002, 0.004, 0.01, 0.02, 0.05, 0.08, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9] * 3
    ):
        label = make_scene(seed, size, target)[2]
        assert abs(int((label > 0).sum()) - target * size**2) <= 1, (seed, target)


@pytest.mark.parametrize('seed', range(12))
def test_cover_differs_exactly_where_the_label_says(seed):
    target = [0.0, 0.01, 0.04, 0.1, 0.3, 0.7][seed % 6]
    _, before, after = make_pair(np.random.default_rng(seed), 160, target)
    label = make_scene(seed, 160, target)[2]
    np.testing.assert_array_equal(label > 0, before.cover != after.cover)


@pytest.mark.parametrize('seed', range(12))
def test_ground_outside_the_label_looks_the_same_under_the_same_look(seed):
    rng = np.random.default_rng(seed)
    terrain, before, after = make_pair(rng, 160, [0.01, 0.08, 0.4][seed % 3])
    # A sun in the zenith, as shadows of new buildings do fall on unchanged ground.
    look = replace(random_looks(rng, 160)[0], shadow=np.array([1e-6, 0.0]))
    differs = np.abs(paint(terrain, before, look) - paint(terrain, after, look)).max(-1) > 1
    changed = before.cover != after.cover
    near_change = cv2.dilate(changed.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    # What may differ beyond the fringe: lane markings and cars where a new road meets an old one.
    assert np.isin(before.cover[differs & ~near_change], [Cover.ROAD]).all()
    assert (differs & ~near_change).mean() < 0.005
    assert differs[changed].mean() > 0.95


def test_scene_without_change_still_differs_by_season_and_light():
    for seed in range(4):
        a, b, label = make_scene(seed, 96, 0.0)
        assert not label.any()
        assert np.abs(a.astype(int) - b).mean() > 5


def test_dates_are_out_of_register_by_less_than_a_pixel():
    corners = np.array([[0, 0, 1], [255, 0, 1], [0, 255, 1], [255, 255, 1]])
    for seed in range(50):
        look_a, look_b = random_looks(np.random.default_rng(seed), 256)
        assert np.array_equal(corners @ look_a.motion.T, corners[:, :2])
        shift = np.linalg.norm(corners @ look_b.motion.T - corners[:, :2], axis=1)
        assert 0 < shift.max() < 1
        assert look_a.season != look_b.season


def test_every_kind_of_change_occurs():
    seen = set()
    for seed in range(40):
        _, before, after = make_pair(np.random.default_rng(seed), 128, [0.03, 0.08, 0.3][seed % 3])
        changed = before.cover != after.cover
        seen |= set(zip(before.cover[changed].tolist(), after.cover[changed].tolist()))
    new = {after for _, after in seen}
    assert {Cover.BUILDING, Cover.ROAD, Cover.WATER, Cover.BARE} <= new
    assert (Cover.BUILDING, Cover.BARE) in seen  # demolition
    assert (Cover.WOOD, Cover.BARE) in seen  # clearing


@pytest.mark.parametrize('count', [8, 12, 13, 24, 64])
def test_target_cars_hold_zeros_and_all_default_ranges(count):
    cars = target_cars(count, np.random.default_rng(0))
    assert len(cars) == count
    assert (cars == 0).sum() == max(round(count / 12), 1)
    assert cars.max() <= 0.9
    assert cars[cars > 0].min() >= 0.002
    assert all(CARPartition().counts(cars).values())


def test_target_cars_are_log_uniform_overall_and_in_every_run_of_neighbours():
    cars = target_cars(240, np.random.default_rng(0))
    log = np.log(cars[cars > 0] / 0.002) / np.log(0.9 / 0.002)
    assert np.allclose(np.histogram(log, 10, (0, 1))[0], 22, atol=1)
    for start in range(240 - 12):
        assert all(CARPartition().counts(cars[start : start + 12]).values())


def test_dataset_has_the_layout_of_jl1_cd(tmp_path):
    make_dataset(tmp_path / 'data', num_train=3, num_val=1, num_test=2, size=64)
    for split, count in {'train': 3, 'val': 1, 'test': 2}.items():
        for folder in ('A', 'B', 'label'):
            paths = sorted((tmp_path / 'data' / split / folder).iterdir())
            assert [path.name for path in paths] == [f'{number:05d}.png' for number in range(count)]
            for path in paths:
                picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
                assert picture.shape == ((64, 64) if folder == 'label' else (64, 64, 3))
                assert folder != 'label' or set(np.unique(picture)) <= {0, 255}
    assert [path.name for path in tmp_path.iterdir()] == ['data']


def test_files_hold_the_scene_with_channels_in_order(tmp_path):
    make_dataset(tmp_path / 'data', num_train=1, num_test=0, size=64, seed=7)
    car = target_cars(1, np.random.default_rng([7, 0]))[0]
    a, b, label = make_scene([7, 0, 0], 64, car)
    train = tmp_path / 'data' / 'train'
    for folder, picture in (('A', a), ('B', b)):
        np.testing.assert_array_equal(
            cv2.imread(str(train / folder / '00000.png'))[..., ::-1], picture
        )
    np.testing.assert_array_equal(
        cv2.imread(str(train / 'label' / '00000.png'), cv2.IMREAD_UNCHANGED), label
    )
    assert not (tmp_path / 'data' / 'val').exists()
    assert not (tmp_path / 'data' / 'test').exists()


def test_dataset_is_the_same_bytes_every_time_and_differs_by_seed(tmp_path):
    for name, seed in (('one', 0), ('two', 0), ('three', 1)):
        make_dataset(tmp_path / name, num_train=2, num_test=2, size=64, seed=seed)
    assert contents(tmp_path / 'one') == contents(tmp_path / 'two')
    assert not set(contents(tmp_path / 'one').values()) & set(contents(tmp_path / 'three').values())
    assert len(set(contents(tmp_path / 'one').values())) == len(contents(tmp_path / 'one'))


def test_written_cars_cover_the_default_ranges(tmp_path):
    make_dataset(tmp_path / 'data', num_train=12, num_test=0, size=64)
    labels = [
        cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for path in sorted((tmp_path / 'data' / 'train' / 'label').iterdir())
    ]
    cars = np.array([(label == 255).mean() for label in labels])
    assert (cars == 0).any()
    assert all(CARPartition().counts(cars).values())


def test_full_folder_is_refused_unless_overwritten(tmp_path):
    make_dataset(tmp_path, num_train=1, num_test=1, size=64)
    before = contents(tmp_path)
    with pytest.raises(UserError, match='is not empty'):
        make_dataset(tmp_path, num_train=1, num_test=0, size=64, seed=1)
    assert contents(tmp_path) == before
    make_dataset(tmp_path, num_train=1, num_test=0, size=64, seed=1, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {'train', MANIFEST}
    assert not set(contents(tmp_path).values()) & set(before.values())


def test_overwriting_never_deletes_foreign_files(tmp_path):
    (tmp_path / 'thesis.txt').write_text('years of work')
    with pytest.raises(UserError, match=r'thesis\.txt'):
        make_dataset(tmp_path, num_train=1, num_test=0, size=64, overwrite=True)
    assert (tmp_path / 'thesis.txt').read_text() == 'years of work'


def test_overwriting_never_deletes_a_data_set_of_the_users(tmp_path, write_pairs):
    write_pairs(tmp_path / 'train', [0, 20])
    before = contents(tmp_path)
    with pytest.raises(UserError, match="'train', which was not made by this tool"):
        make_dataset(tmp_path, num_train=1, num_test=0, size=64, overwrite=True)
    assert contents(tmp_path) == before


def test_failure_half_way_leaves_the_old_data_set_and_no_debris(tmp_path, monkeypatch):
    root = tmp_path / 'data'
    make_dataset(root, num_train=1, num_test=0, size=64)
    before = contents(root)
    monkeypatch.setattr(
        'mtkd_cd.data.synthetic.dataset._write_png',
        lambda *_: (_ for _ in ()).throw(OSError('disk full')),
    )
    with pytest.raises(OSError, match='disk full'):
        make_dataset(root, num_train=1, num_test=0, size=64, seed=1, overwrite=True)
    assert contents(root) == before
    assert os.listdir(tmp_path) == ['data']


@pytest.mark.parametrize('size', [(256, 128), 63, 96.5, True, '256'])
def test_size_must_be_one_whole_number(size, tmp_path):
    for make in (
        lambda: make_scene(0, size, 0.1),
        lambda: make_dataset(tmp_path / 'data', size=size),
    ):
        with pytest.raises(UserError, match='at least 64'):
            make()
    assert not (tmp_path / 'data').exists()


@pytest.mark.parametrize('car', [-0.01, 0.95, float('nan')])
def test_car_outside_the_range_is_refused(car):
    with pytest.raises(UserError, match='target_car'):
        make_scene(0, 64, car)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'num_train': -1}, 'num_train=-1'),
        ({'seed': -1}, 'seed=-1'),
        ({'num_train': 0, 'num_test': 0}, 'at least one pair'),
    ],
)
def test_impossible_counts_are_refused(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        make_dataset(tmp_path / 'data', size=64, **arguments)


def test_tool_writes_a_data_set(tmp_path, capsys):
    main = runpy.run_path(str(TOOL))['main']
    main(
        [
            str(tmp_path / 'data'),
            '--num-train',
            '1',
            '--num-val',
            '2',
            '--num-test',
            '1',
            '--size',
            '64',
            '--seed',
            '3',
        ]
    )
    assert '1 train, 2 val and 1 test pairs' in capsys.readouterr().out
    make_dataset(tmp_path / 'same', num_train=1, num_val=2, num_test=1, size=64, seed=3)
    assert contents(tmp_path / 'data') == contents(tmp_path / 'same')


def test_tool_reports_a_mistake_in_one_line(tmp_path):
    (tmp_path / 'train').mkdir()
    command = [sys.executable, str(TOOL), str(tmp_path)]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith('error: ')
    assert '--overwrite' in result.stderr
    assert 'Traceback' not in result.stderr
