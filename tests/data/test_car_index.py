"""The CAR index: right values, kept where it may be kept, fresh, and shared between processes."""

import json
import multiprocessing
import os
import time
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from mtkd_cd.core.errors import UserError
from mtkd_cd.data import car_index
from mtkd_cd.data.car_index import car_of_file, cars_of_data_infos, label_cars

BINARY = {'format_seg_map': 'to_binary'}


@pytest.fixture
def reads(monkeypatch):
    """Paths of the labels that were read from their files."""
    paths = []

    def counted(path, **coding):
        paths.append(os.path.basename(path))
        return car_of_file(path, **coding)

    monkeypatch.setattr(car_index, 'car_of_file', counted)
    return paths


@pytest.fixture
def labels(tmp_path, write_pairs):
    files = write_pairs(tmp_path, [0, 20, 21, 400])
    return [str(tmp_path / 'label' / name) for name in files]


def test_values_are_changed_over_valid_pixels(tmp_path, labels):
    np.testing.assert_array_equal(label_cars(labels, **BINARY), [0, 20 / 400, 21 / 400, 1])
    ignored = np.array([[0, 1, 1, 255, 255]], np.uint8)
    Image.fromarray(ignored).save(tmp_path / 'a.png')
    assert car_of_file(tmp_path / 'a.png') == 2 / 3


def test_reopened_index_reads_no_label(labels, reads):
    first = label_cars(labels, **BINARY)
    assert len(reads) == 4
    np.testing.assert_array_equal(label_cars(labels[::-1], **BINARY), first[::-1])
    assert len(reads) == 4


def test_index_lies_hidden_beside_the_labels(tmp_path, labels):
    label_cars(labels, **BINARY)
    assert (tmp_path / '.label.car_index.json').is_file()
    assert sorted(os.listdir(tmp_path / 'label')) == [os.path.basename(path) for path in labels]


def test_moved_data_set_keeps_its_index(tmp_path, labels, reads):
    label_cars(labels, **BINARY)
    (tmp_path / 'moved').mkdir()
    for name in ('label', '.label.car_index.json'):
        (tmp_path / name).rename(tmp_path / 'moved' / name)
    label_cars(
        [str(tmp_path / 'moved/label' / os.path.basename(path)) for path in labels], **BINARY
    )
    assert len(reads) == 4


def test_changed_file_is_read_again(labels, reads):
    label_cars(labels, **BINARY)
    time.sleep(0.02)
    Image.fromarray(np.full((20, 20), 255, np.uint8)).save(labels[1])
    assert label_cars(labels, **BINARY).tolist() == [0, 1, 21 / 400, 1]
    assert reads[4:] == [os.path.basename(labels[1])]


def test_codings_are_kept_apart(tmp_path, write_pairs, reads):
    write_pairs(tmp_path, [40], white=1)
    path = str(tmp_path / 'label/000.png')
    for _ in range(2):
        assert label_cars([path]).tolist() == [0.1]
        assert label_cars([path], **BINARY).tolist() == [0.1]
        assert label_cars([path], label_map={0: 1, 1: 0}).tolist() == [0.9]
    assert len(reads) == 3


@pytest.mark.parametrize(
    'content',
    [
        '',
        '{"version": 1, "cars"',
        '[]',
        'null',
        '{"version": 0, "cars": {"{}": 1}}',
        '{"version": 1, "cars": 3}',
    ],
)
def test_broken_index_is_rebuilt(tmp_path, labels, reads, content):
    index = tmp_path / '.label.car_index.json'
    index.write_text(content)
    assert label_cars(labels, **BINARY).tolist() == [0, 20 / 400, 21 / 400, 1]
    assert json.loads(index.read_text())['version'] == 1


def test_read_only_data_are_indexed_in_the_cache_folder(tmp_path, labels, reads, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    (tmp_path / 'label').rename(tmp_path / 'data')
    folder = tmp_path / 'read_only'
    folder.mkdir()
    (tmp_path / 'data').rename(folder / 'label')
    paths = [str(folder / 'label' / os.path.basename(path)) for path in labels]
    folder.chmod(0o555)
    try:
        for _ in range(2):
            assert label_cars(paths, **BINARY).tolist() == [0, 20 / 400, 21 / 400, 1]
        assert os.listdir(folder) == ['label']
    finally:
        folder.chmod(0o755)
    assert len(reads) == 4
    assert len(list((tmp_path / 'cache/mtkd_cd/car_index').glob('label-*.json'))) == 1


def test_nowhere_to_keep_it_still_works(tmp_path, labels, reads, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    monkeypatch.setattr(car_index, '_read_only', lambda folder: True)
    for _ in range(2):
        assert label_cars(labels, **BINARY).tolist() == [0, 20 / 400, 21 / 400, 1]
    assert len(reads) == 8


def test_one_index_for_many_label_folders(tmp_path, write_pairs):
    names = [f'scene{index:02d}/{tile}' for index in range(20) for tile in 'ab']
    write_pairs(tmp_path, list(range(40)), names=names)
    paths = [str(tmp_path / 'label' / f'{name}.png') for name in names]
    for _ in range(2):
        np.testing.assert_array_equal(label_cars(paths, **BINARY), np.arange(40) / 400)
    assert len(list(tmp_path.rglob('.*.car_index.json'))) == 1


def test_bad_label_is_named_and_leaves_no_index(tmp_path, labels):
    with open(labels[2], 'r+b') as file:
        file.truncate(60)
    with pytest.raises(UserError, match=r'label/002\.png'):
        label_cars(labels, **BINARY)
    with pytest.raises(UserError, match=r'gone\.png does not exist'):
        label_cars([str(tmp_path / 'label/gone.png')], **BINARY)
    assert not list(tmp_path.glob('.label*'))


def test_data_infos_of_mixed_codings(tmp_path, write_pairs):
    write_pairs(tmp_path / 'x', [40])
    write_pairs(tmp_path / 'y', [80], white=1)
    infos = [
        {'seg_map_path': str(tmp_path / 'y/label/000.png')},
        {'seg_map_path': str(tmp_path / 'x/label/000.png'), 'label_map': None, **BINARY},
        {
            'seg_map_path': str(tmp_path / 'y/label/000.png'),
            'reduce_zero_label': False,
            'label_map': {0: 0, 1: 1},
        },
    ]
    assert cars_of_data_infos(infos).tolist() == [0.2, 0.1, 0.2]
    with pytest.raises(UserError, match=r"img\.png'\] has no label"):
        cars_of_data_infos([{'img_path': ['img.png']}])


FORK = multiprocessing.get_context('fork')


def run_all(processes):
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def _label_cars_noting_reads(paths, barrier, notes):
    def noted(path, **coding):
        time.sleep(0.01)  # long enough for the other process to come along
        notes.put(path)
        return car_of_file(path, **coding)

    car_index.car_of_file = noted
    barrier.wait()
    assert label_cars(paths, **BINARY).sum() == pytest.approx(sum(range(40)) / 400)


def test_two_processes_at_once_read_each_label_once(tmp_path, write_pairs):
    files = write_pairs(tmp_path, list(range(40)))
    paths = [str(tmp_path / 'label' / name) for name in files]
    barrier, notes = FORK.Barrier(2), FORK.SimpleQueue()
    run_all(
        [
            FORK.Process(target=_label_cars_noting_reads, args=(paths, barrier, notes))
            for _ in range(2)
        ]
    )
    assert sorted(notes.get() for _ in paths) == paths
    assert notes.empty()


def _label_cars_without_lock(paths, barrier):
    car_index._lock = lambda name: nullcontext()
    for _ in range(5):
        barrier.wait()
        assert label_cars(paths, **BINARY).tolist() == [0, 20 / 400, 21 / 400, 1]


def test_writers_that_cannot_lock_leave_a_whole_index(tmp_path, labels):
    barrier = FORK.Barrier(3)
    run_all(
        [FORK.Process(target=_label_cars_without_lock, args=(labels, barrier)) for _ in range(3)]
    )
    assert (
        len(
            next(
                iter(json.loads((tmp_path / '.label.car_index.json').read_text())['cars'].values())
            )
        )
        == 4
    )
    assert not list(tmp_path.glob('*.tmp'))
