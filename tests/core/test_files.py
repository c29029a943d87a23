import multiprocessing
import os
import signal
import stat
import sys

import pytest
from mmengine.fileio import get_file_backend

import mtkd_cd.core.backend  # noqa: F401  (registers)
from mtkd_cd.core import files
from mtkd_cd.core.files import atomic_folder, atomic_write


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


@pytest.fixture
def folder(tmp_path):
    """A folder that is going to be replaced."""
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set' / 'old').touch()
    return tmp_path / 'set'


def write_new(folder):
    with atomic_folder(folder) as building:
        (building / 'new').touch()


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*'))


def test_folder_is_replaced_and_nothing_is_left_beside_it(folder, tmp_path, monkeypatch):
    write_new(folder)
    assert names(tmp_path) == ['set', 'set/new']
    monkeypatch.setattr(files, '_exchange', lambda *_: False)  # where there is no such call
    (folder / 'old').touch()
    write_new(folder)
    assert names(tmp_path) == ['set', 'set/new']
    (tmp_path / 'link').symlink_to('set')
    write_new(tmp_path / 'link')
    assert not (tmp_path / 'link').is_symlink()
    assert names(tmp_path) == ['link', 'link/new', 'set', 'set/new']


def test_replaced_folder_is_never_away_where_folders_can_be_exchanged(folder, monkeypatch):
    (folder.parent / 'other').mkdir()
    if not files._exchange(folder, folder.parent / 'other'):
        pytest.skip('this file system exchanges no names')
    monkeypatch.setattr(os, 'rename', lambda *_: pytest.fail('the folder was moved away'))
    write_new(folder)
    assert names(folder) == ['new']


def test_error_between_two_renames_puts_the_old_folder_back(folder, tmp_path, monkeypatch):
    rename, calls = os.rename, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise SystemExit
        rename(*args)

    monkeypatch.setattr(files, '_exchange', lambda *_: False)
    monkeypatch.setattr(os, 'rename', interrupted)
    with pytest.raises(SystemExit):
        write_new(folder)
    assert names(tmp_path) == ['set', 'set/old']


@pytest.mark.parametrize('moment', [1, 2])
def test_folder_that_a_kill_left_without_its_name_gets_it_back(
    folder, tmp_path, monkeypatch, moment
):
    monkeypatch.setattr(files, '_exchange', lambda *_: False)

    def doomed():
        renames = []
        sys.addaudithook(
            lambda event, args: (
                event == 'os.rename'
                and (renames.append(args) or len(renames) == moment)
                and os.kill(os.getpid(), signal.SIGKILL)
            )
        )
        write_new(folder)

    process = multiprocessing.get_context('fork').Process(target=doomed)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert folder.exists() == (moment == 1)
    with atomic_write(tmp_path / 'next'):
        pass
    assert names(tmp_path) == ['next', 'set', 'set/old']
