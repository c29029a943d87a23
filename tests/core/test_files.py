import os
import stat

import pytest
from mmengine.fileio import get_file_backend

from mtkd_cd.core.files import atomic_write


def test_writes_text_and_makes_parents(tmp_path):
    with atomic_write(tmp_path / 'a' / 'b.txt') as file:
        file.write('grün\n')
    assert (tmp_path / 'a' / 'b.txt').read_bytes() == 'grün\n'.encode()
    assert [path.name for path in (tmp_path / 'a').iterdir()] == ['b.txt']


def test_reader_sees_the_old_file_until_the_block_ends(tmp_path):
    path = tmp_path / 'table.csv'
    path.write_text('old')
    with atomic_write(path) as file:
        file.write('new')
        file.flush()
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'


def test_error_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path):
    path = tmp_path / 'table.csv'
    path.write_text('old')
    file = atomic_write(path)
    file.__enter__().write('half')
    with pytest.raises(RuntimeError):
        file.gen.throw(RuntimeError())
    assert path.read_text() == 'old'
    assert len(list(tmp_path.iterdir())) == 1


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        with atomic_write(tmp_path / 'file', 'wb') as file:
            file.write(b'x')
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / 'file').stat().st_mode) == 0o640


def test_mmengine_backend_writes_atomically(tmp_path, monkeypatch):
    backend = get_file_backend(backend_args=dict(backend='atomic'))
    backend.put(b'first', tmp_path / 'iter_1.pth')
    monkeypatch.setattr(
        os, 'fsync', lambda _: (_ for _ in ()).throw(OSError(28, 'No space left on device'))
    )
    with pytest.raises(OSError, match='No space'):
        backend.put(b'second', tmp_path / 'iter_1.pth')
    assert (tmp_path / 'iter_1.pth').read_bytes() == b'first'
    assert len(list(tmp_path.iterdir())) == 1
