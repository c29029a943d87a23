"""Files on a local disk, and those of mmengine's backends."""

import subprocess
import sys

import pytest
from mmengine.fileio import LocalBackend
from mmengine.fileio.backends.registry_utils import backends, prefix_to_backends, register_backend

from mtkd_cd.core import storage


class Memory(LocalBackend):
    """A folder where a path ends in a slash, else a file."""

    def get(self, filepath):
        return f'content of {filepath}'.encode()

    def isdir(self, filepath):
        return str(filepath).endswith('/')

    def isfile(self, filepath):
        return not self.isdir(filepath)


@pytest.fixture
def memory(monkeypatch):
    for known in (backends, prefix_to_backends):
        for name in ('memory', ''):
            monkeypatch.delitem(known, name, raising=name in known)
    monkeypatch.setattr('mmengine.fileio.io.backend_instances', {})  # those that were asked before
    register_backend('memory', Memory, prefixes=['memory', ''])


@pytest.mark.parametrize(
    ('path', 'backend_args'),
    [('memory://a', None), ('a', {'backend': 'memory'}), ('a', None)],
    ids=['by prefix', 'by name', 'registered for local paths'],
)
def test_backends_of_mmengine_are_asked(memory, path, backend_args):
    assert storage.read_bytes(path, backend_args) == f'content of {path}'.encode()
    assert storage.is_file(path, backend_args)
    assert not storage.is_folder(path, backend_args)
    assert storage.is_folder(f'{path}/', backend_args)


def test_local_files_are_found_without_mmengine(tmp_path):
    (tmp_path / 'file').write_bytes(b'\x00content')
    code = (
        'import sys\n'
        'from pathlib import Path\n'
        'from mtkd_cd.core.storage import is_file, is_folder, read_bytes\n'
        'folder = Path(sys.argv[1])\n'
        "file = folder / 'file'\n"
        'print(read_bytes(file), read_bytes(str(file), {}))\n'
        'print(*[(is_file(path), is_folder(path)) for path in (file, folder, folder / "no")])\n'
        'try:\n'
        '    read_bytes(folder / "no")\n'
        'except FileNotFoundError as error:\n'
        '    print(Path(error.filename).name)\n'
        "print('mmengine' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, '-c', code, tmp_path], capture_output=True, text=True, check=True
    ).stdout
    assert done.splitlines() == [
        "b'\\x00content' b'\\x00content'",
        '(True, False) (False, True) (False, False)',
        'no',
        'False',
    ]
