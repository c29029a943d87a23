"""Folders and files that tools write: over nothing of the user's, with nothing stale."""

import os

import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import MANIFEST, OutputFolder, check_not_read, own_file
from mtkd_cd.core.locks import alone


def write(folder, *names, kind='pictures'):
    output = OutputFolder(folder, kind)
    output.clear()
    for name in names:
        with output.open(name) as file:
            file.write(name.encode())


def files(folder):
    found = (path for path in folder.rglob('*') if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix() for path in found}


def test_second_run_leaves_no_picture_of_the_first(tmp_path):
    write(tmp_path, 'A/1.png', 'A/2.png', 'deep/er/3.png')
    write(tmp_path, 'A/2.png')
    assert files(tmp_path) == {'A/2.png'}
    assert not (tmp_path / 'deep').exists()


def test_files_of_others_stay(tmp_path):
    write(tmp_path, 'table.csv', kind='tables')
    (tmp_path / 'A').mkdir()
    (tmp_path / 'A' / 'own.png').write_text('mine')
    write(tmp_path, 'A/1.png')
    write(tmp_path, 'A/2.png')
    assert files(tmp_path) == {'A/own.png', 'A/2.png', 'table.csv'}
    with pytest.raises(UserError, match=r'own.png is there already'):
        write(tmp_path, 'A/own.png')
    assert (tmp_path / 'A' / 'own.png').read_text() == 'mine'


@pytest.mark.parametrize(
    'line', ['pictures\t../own', 'pictures\t/own', '\t', 'x', 'pictures\ta\0b']
)
def test_manifest_leads_nowhere_else(tmp_path, line):
    (tmp_path / 'own').write_text('mine')
    folder = tmp_path / 'out'
    folder.mkdir()
    (folder / MANIFEST).write_text(
        line.replace('/own', f'{tmp_path}/own', line[9:10] == '/') + '\n'
    )
    write(folder, 'a')
    assert (tmp_path / 'own').read_text() == 'mine'


def test_link_of_the_user_is_not_written_through(tmp_path):
    (tmp_path / 'own').write_text('mine')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'a').symlink_to(tmp_path / 'own')
    with pytest.raises(UserError, match='is there already'):
        write(tmp_path / 'out', 'a')


@pytest.mark.parametrize('place', ['data', 'data/A', 'data/A/new', 'link', 'data/B/../A'])
def test_nothing_is_written_where_something_is_read(tmp_path, place):
    (tmp_path / 'data' / 'A').mkdir(parents=True)
    (tmp_path / 'data' / 'B').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'data' / 'A')
    with pytest.raises(UserError, match='read from'):
        check_not_read(tmp_path / place, [tmp_path / 'data'])
    check_not_read(tmp_path / 'data2', [tmp_path / 'data', None])


def test_single_files_are_written_again_and_the_users_are_not(tmp_path):
    for text in ('one', 'two'):
        with own_file(tmp_path / 'figure.png', 'w') as file:
            file.write(text)
    assert (tmp_path / 'figure.png').read_text() == 'two'
    (tmp_path / 'photo.png').write_text('mine')
    with (
        pytest.raises(UserError, match=r'photo.png is there already'),
        own_file(tmp_path / 'photo.png', 'w'),
    ):
        pass


def test_lock_is_entered_again_by_its_owner_and_goes_with_it(tmp_path):
    lock = tmp_path / 'work' / '.lock'
    with alone(lock), alone(lock):
        child = os.fork()
        if child == 0:
            try:
                with alone(lock):
                    os._exit(0)
            except UserError:
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not lock.exists()
