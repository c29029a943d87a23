"""Writing files so that a reader, or the next run after a crash, never meets half of one, and so
that nothing is written over the user's own."""

import ctypes
import errno
import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from mtkd_cd.core.errors import UserError

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'  # travels in the wheel

MANIFEST = '.mtkd_cd_files'  # in a folder of ours: the files that we made there
# .<name of the file or folder>.<machine>-<process>.<random>.tmp
_TEMPORARY = re.compile(r'\.(.+)\.([0-9a-f]{8})-(\d+)\.\w+\.tmp')
_REPLACED = '.replaced'  # after the name of a folder that makes place for another


def found_config(path: str | Path) -> Path:
    """The file that a config's path means: itself, or the package's own for ``configs/...`` where
    the current folder has none."""
    path = Path(path)
    if not path.exists() and path.parts[:1] == ('configs',):
        shipped = CONFIGS.joinpath(*path.parts[1:])
        return shipped if shipped.is_file() else path
    return path


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = 'w') -> Iterator[IO]:
    """Open a temporary file beside ``path`` and rename it to ``path`` when the block ends without
    an error.

    Args:
        path: The file to write; missing parent folders are made.
        mode: ``'w'`` (UTF-8 text, newlines untouched) or ``'wb'``.

    Raises:
        OSError: As ``open`` and ``write`` do, for instance on a full disk. ``path`` then still
            holds what it held before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_once(path.parent.absolute())
    text = {} if 'b' in mode else {'encoding': 'utf-8', 'newline': ''}
    # No NamedTemporaryFile(delete=True): the name must outlive the handle for the rename.
    handle, temporary = tempfile.mkstemp(**_temporary(path))
    try:
        with os.fdopen(handle, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def temporary_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder beside ``path`` that goes when the block ends; after a kill with the next write."""
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_once(path.parent)
    folder = Path(tempfile.mkdtemp(**_temporary(path)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Make a folder beside ``path`` and rename it to ``path`` when the block ends without an error;
    a folder that is there already is replaced by it.

    Raises:
        OSError: As :func:`atomic_write`.
    """
    path = Path(path).absolute()
    with temporary_folder(path) as building:
        os.chmod(building, 0o777 & ~_umask())
        yield building
        if not path.exists():
            building.rename(path)
        elif not _exchange(building, path):
            _replace(building, path)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step, where system and file system can."""
    if not sys.platform.startswith('linux') or not other.is_dir() or other.is_symlink():
        return False
    with suppress(AttributeError, OSError):  # a C library or a file system without it
        rename = ctypes.CDLL(None).renameat2
        here = -100  # AT_FDCWD
        return rename(here, os.fsencode(one), here, os.fsencode(other), 2) == 0
    return False


def _replace(building: Path, path: Path) -> None:
    """In two renames; a sweep finds what a kill between them leaves."""
    with temporary_folder(path.with_name(path.name + _REPLACED)) as old:
        kept = old / path.name
        path.rename(kept)
        try:
            building.rename(path)
        except BaseException:
            kept.rename(path)
            raise


def _temporary(path: Path) -> dict[str, Any]:
    name = path.name.encode()[:180].decode(errors='ignore')  # a name may have 255 bytes
    prefix = f'.{name}.{_machine()}-{os.getpid()}.'
    return dict(prefix=prefix, suffix='.tmp', dir=path.parent)


@cache
def _sweep_once(folder: Path) -> None:
    sweep_temporaries(folder)


def sweep_temporaries(folder: str | os.PathLike, deep: bool = False) -> None:
    """Delete what writes that were killed have left in a folder, and with ``deep`` below it.

    A temporary file, or folder, goes when the process of this machine that wrote it is gone. The
    first write to a folder in a process sweeps it. A folder that was moved away to be replaced, and
    was not, gets its name back.
    """
    for place, folders, names in os.walk(os.fspath(folder)):
        for name in filter(_is_left, names):
            with suppress(OSError):
                os.unlink(os.path.join(place, name))
        for name in filter(_is_left, folders):
            _put_back(Path(place), name)
            shutil.rmtree(os.path.join(place, name), ignore_errors=True)
        if not deep:
            folders.clear()


def _put_back(place: Path, left: str) -> None:
    match = _TEMPORARY.fullmatch(left)
    replaced = match[1] if match else ''
    if replaced.endswith(_REPLACED):
        target = place / replaced.removesuffix(_REPLACED)
        if not os.path.lexists(target):
            with suppress(OSError):  # it was not moved yet, or another process was faster
                (place / left / target.name).rename(target)


def _is_left(name: str) -> bool:
    match = _TEMPORARY.fullmatch(name)
    return bool(match and match[2] == _machine() and not _is_alive(int(match[3])))


@cache
def _machine() -> str:
    """What tells the machine, and where processes have numbers of their own the container."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path('/proc/sys/kernel/random/boot_id').read_text())
        parts.append(os.readlink('/proc/self/ns/pid'))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    if os.name == 'nt':  # where signal 0 ends a process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class OutputFolder:
    """A folder that a tool fills with files, beside whatever else is there.

    What is written is noted in the folder, in :data:`MANIFEST`. The next tool that fills it with
    the same kind of files first deletes what is noted there, so that no picture of an earlier run
    stays among those of the new one. A file that is not noted is the user's, and is not written
    over.

    Args:
        folder: The folder; made when the first file is written.
        kind: What it is filled with.
        reads: Files and folders that the tool reads; ``folder`` may be none of them, nor lie in one
            of the folders.

    Raises:
        UserError: ``folder`` is a file, or the tool reads from it.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        kind: str,
        reads: Iterable[str | os.PathLike | None] = (),
    ) -> None:
        self.folder = Path(folder)
        self.kind = kind
        check_not_read(folder, reads)
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f'{folder} is a file: name a folder to write to')
        self._own = {name for _, name in self._noted()}

    @property
    def noted(self) -> frozenset[str]:
        """What tools of ours have written here, of every kind."""
        return frozenset(self._own)

    def note(self, name: str | os.PathLike) -> None:
        """Note a file or folder that is going to be written by other means."""
        relative = Path(name).as_posix()
        if relative not in self._own:
            self.folder.mkdir(parents=True, exist_ok=True)
            # One short write to the end of a file does not mix with that of another process.
            with open(self.folder / MANIFEST, 'ab') as manifest:
                manifest.write(_line(self.kind, relative))
            self._own.add(relative)

    def clear(self) -> None:
        """Delete the files of this kind that an earlier tool has left here, and nothing else."""
        noted = self._noted()
        folders: set[Path] = set()
        for kind, name in noted:
            if kind == self.kind:
                (self.folder / name).unlink(missing_ok=True)
                folders |= set(Path(name).parents) - {Path('.')}
        for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
            with suppress(OSError):  # it holds other files
                (self.folder / folder).rmdir()
        left = [(kind, name) for kind, name in noted if kind != self.kind]
        manifest = self.folder / MANIFEST
        if left:
            with atomic_write(manifest, 'wb') as file:
                file.writelines(_line(*entry) for entry in left)
        else:
            manifest.unlink(missing_ok=True)
        self._own = {name for _, name in left}

    @contextmanager
    def open(self, name: str | os.PathLike, mode: str = 'wb') -> Iterator[IO]:
        """As :func:`atomic_write`, a file below the folder.

        Raises:
            UserError: There is a file of this name that is not ours.
        """
        relative = Path(name).as_posix()
        path = self.folder / relative
        if relative not in self._own:
            # Noted before it is written: a tool that is killed in between leaves no file unnoted.
            if not self.may_write(name):
                raise UserError(
                    f'{path} is there already, and was not made by this tool: choose another '
                    'place, or move it away'
                )
            self.note(name)
        with atomic_write(path, mode) as file:
            yield file

    def may_write(self, name: str | os.PathLike) -> bool:
        """Whether there is no file of this name, or one of ours."""
        path = self.folder / name
        if not (path.exists() or path.is_symlink()):
            return True
        self._own |= {noted for _, noted in self._noted()}  # another process may have written it
        return Path(name).as_posix() in self._own

    def _noted(self) -> list[tuple[str, str]]:
        """(kind, name) of the files; a damaged or forged list leads nowhere else."""
        try:
            content = (self.folder / MANIFEST).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return []
        entries = []
        for line in content.decode(errors='surrogateescape').split('\n'):
            kind, tab, name = line.partition('\t')
            inside = name and '\0' not in name and not Path(name).is_absolute()
            if tab and inside and '..' not in Path(name).parts:
                entries.append((kind, name))
        return entries


def _line(kind: str, name: str) -> bytes:
    return f'{kind}\t{name}\n'.encode(errors='surrogateescape')


@contextmanager
def own_file(
    path: str | os.PathLike, mode: str = 'wb', reads: Iterable[str | os.PathLike | None] = ()
) -> Iterator[IO]:
    """As :func:`atomic_write`, a file that a tool was told to write; noted in its folder, so that
    it can be written again.

    Raises:
        UserError: There is a file of this name that no tool of ours wrote, or ``reads`` has it.
    """
    path = Path(path)
    check_not_read(path, reads)
    with OutputFolder(path.parent, 'file').open(path.name, mode) as file:
        yield file


def check_not_read(
    target: str | os.PathLike, reads: Iterable[str | os.PathLike | None], what: str = 'data'
) -> None:
    """Refuse to write where something is read.

    Args:
        target: The file or folder to write.
        reads: Files and folders that are read; ``None`` among them are none.
        what: What they are, in an error.

    Raises:
        UserError: ``target`` is one of ``reads`` or lies in one of its folders, links followed.
    """
    place = Path(target).resolve()
    for read in reads:
        if read is None:
            continue
        source = Path(read).resolve()
        if place == source or (source in place.parents and not source.is_file()):
            where = '' if place == source else f' lies in {read},'
            raise UserError(
                f'{target}{where or " is"} where the {what} are read from: choose a place outside'
            )


def check_own_file(
    path: str | os.PathLike,
    reads: Iterable[str | os.PathLike | None] = (),
    is_own: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Refuse now what :func:`own_file` would refuse later.

    Args:
        path: The file to write.
        reads: Files and folders that are read.
        is_own: Tells one of ours by its content, where it is not noted in its folder.

    Raises:
        UserError: See above.
    """
    check_not_read(path, reads)
    path = Path(path)
    if path.is_dir():
        raise UserError(f'{path} is a folder: name a file to write')
    if path.parent.exists() and not path.parent.is_dir():
        raise UserError(f'{path.parent} is a file, not a folder: choose another place')
    if not OutputFolder(path.parent, 'file').may_write(path.name) and not is_own(path):
        raise UserError(
            f'{path} is there already, and was not made by this tool: choose another place, or '
            'move it away'
        )


_REASONS = {
    errno.EACCES: 'permission denied: check who owns it, and its mode',
    errno.EPERM: 'the operation is not permitted: check who owns it, and its mode',
    errno.EROFS: 'the file system is read-only: choose another place',
    errno.ENOTDIR: 'a part of the path is a file and not a folder: choose another place',
    errno.EISDIR: 'it is a folder, and a file is wanted',
    errno.EEXIST: 'a file is where a folder is wanted, or a folder where a file is: choose another '
    'place',
    errno.ENOENT: 'it does not exist',
    errno.ENAMETOOLONG: 'the name is too long',
    errno.ELOOP: 'links lead round in a circle',
    errno.EIO: 'the disk cannot be read or written there: check the disk',
    errno.ESTALE: 'the network file system has lost it: mount it again',
    errno.EMFILE: 'too many files are open: raise the limit (ulimit -n)',
    errno.ENFILE: 'too many files are open on this machine',
    errno.ENOTEMPTY: 'the folder is not empty',
    errno.EBUSY: 'it is in use',
    errno.ETXTBSY: 'it is in use',
}
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def os_error_message(error: BaseException) -> str | None:
    """What the file system refused, in a line with the file and the advice; ``None`` for other
    errors. Looks for it behind the error that is handed over, too."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        if isinstance(one, OSError):
            if one.errno in _NO_SPACE:
                where = f' while writing {one.filename}' if one.filename else ''
                return (
                    f'no space left on the disk{where} ({one.strerror}). The last complete '
                    'checkpoint is untouched: free space and resume'
                )
            if one is error and one.errno in _REASONS and one.filename is not None:
                other = f' -> {one.filename2}' if one.filename2 else ''
                return f'{_shown(one.filename)}{other}: {_REASONS[one.errno]}'
        one = one.__cause__ or one.__context__
    if isinstance(error, OSError) and type(error).__module__.startswith('rasterio'):
        reason = ' '.join(str(error.__cause__ or error).split())
        return f'GDAL cannot read or write a file: {reason}. Check the place and the file'
    return None


def _shown(filename: str | bytes) -> str:
    """The file, or the folder of one that was to get its name later."""
    path = Path(os.fsdecode(filename))
    is_temporary = path.name.startswith('.') and (path.suffix == '.tmp' or '.part' in path.name)
    return f'folder {path.parent}' if is_temporary else str(path)
