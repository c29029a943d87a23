"""Stamps of data: content decides, size and times are the shortcut."""

import os
import shutil

import pytest

from mtkd_cd.data import stamp
from mtkd_cd.data.stamp import digest_of, file_digests, stamp_changes


class Pairs:
    """A data set of the files of a folder."""

    def __init__(self, root):
        self.root = root
        self.names = sorted(path.name for path in (root / 'A').iterdir())

    def __len__(self):
        return len(self.names)

    def get_data_info(self, index):
        name = self.names[index]
        paths = [str(self.root / folder / name) for folder in ('A', 'B', 'label')]
        return dict(img_path=paths[:2], seg_map_path=paths[2])


@pytest.fixture
def root(tmp_path, write_pairs, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    write_pairs(tmp_path / 'data', [0, 10, 200])
    return tmp_path / 'data'


def test_copy_of_the_data_has_the_same_stamp(root, tmp_path):
    before = stamp.data_stamp(Pairs(root))
    assert list(before)[:3] == ['A/000.png', 'B/000.png', 'label/000.png']
    copy = shutil.copytree(root, tmp_path / 'elsewhere')
    assert stamp.data_stamp(Pairs(copy)) == before
    assert stamp_changes(before, stamp.data_stamp(Pairs(copy))) == ''


@pytest.mark.parametrize('folder', ['A', 'B', 'label'])
def test_change_of_one_bit_is_noticed_though_size_and_time_stay(root, folder, monkeypatch):
    monkeypatch.setattr(stamp, '_SETTLED', 0)
    before = stamp.data_stamp(Pairs(root))
    path = root / folder / '001.png'
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    now = stamp.data_stamp(Pairs(root))
    assert stamp_changes(before, now) == f'1 changed ({folder}/001.png)'
    assert digest_of(before) != digest_of(now)


def test_pairs_that_come_and_go_are_named(root):
    before = stamp.data_stamp(Pairs(root))
    for folder in ('A', 'B', 'label'):
        shutil.copy(root / folder / '001.png', root / folder / '009.png')
        (root / folder / '002.png').unlink()
    text = stamp_changes(before, stamp.data_stamp(Pairs(root)))
    assert '3 gone (A/002.png, B/002.png, label/002.png)' in text
    assert '3 new (A/009.png, B/009.png, label/009.png)' in text


def test_files_that_stay_are_read_once(root, monkeypatch):
    monkeypatch.setattr(stamp, '_SETTLED', 0)
    paths = [str(path) for path in sorted(root.rglob('*.png'))]
    first = file_digests(paths)
    read = []
    monkeypatch.setattr(stamp, '_read', lambda path: read.append(path) or 'x')
    assert file_digests(paths) == first
    assert read == []
    (root / 'A' / '001.png').touch()
    assert file_digests(paths)[1] == 'x'
    assert read == [str(root / 'A' / '001.png')]


@pytest.mark.parametrize(
    'content',
    [b'', b'\xff', b'[]', b'{"version": 1}', b'{"version": 1, "digests": [1]}', b'[' * 9999],
)
def test_damaged_cache_is_no_cache(root, tmp_path, monkeypatch, content):
    monkeypatch.setattr(stamp, '_SETTLED', 0)
    paths = [str(path) for path in sorted(root.rglob('*.png'))]
    first = file_digests(paths)
    for cache in (tmp_path / 'cache').rglob('*.json'):
        cache.write_bytes(content)
    assert file_digests(paths) == first


def test_missing_file_has_no_digest(root):
    assert file_digests([str(root / 'A' / 'gone.png'), 's3://bucket/a.png']) == ['', '']
