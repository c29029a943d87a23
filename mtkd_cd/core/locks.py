"""One process at a time, where two would spoil each other's files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mtkd_cd.core.errors import UserError

# Locks that this process holds: closing any handle of a file gives all its locks up, so that a
# second `alone` on the same file must not open it.
# A forked process inherits this, and no lock.
_held: dict[Path, int] = {}


@contextmanager
def alone(lock: Path, wait: bool = False, what: str | None = None) -> Iterator[None]:
    """Keep other processes out of what a lock file stands for; it holds the process id and goes
    when the block ends. A process that ends by whatever means gives its lock up.

    A process that is inside already enters again.

    Args:
        lock: The file; missing parent folders are made.
        wait: For another process to leave it.
        what: What the file stands for, as an error calls it; default: the file.

    Raises:
        UserError: Another process is at it.
        OSError: The file cannot be made.
    """
    lock = Path(lock).absolute()
    if _held.get(lock) == os.getpid():
        yield
        return
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = _locked(lock, wait, what or str(lock))
    _held[lock] = os.getpid()
    try:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
    finally:
        _held.pop(lock, None)
        lock.unlink(missing_ok=True)  # while it is held: nobody else deletes another's
        file.close()


def _locked(lock: Path, wait: bool, what: str) -> IO[str]:
    while True:
        file = open(lock, 'a+', encoding='utf-8')  # noqa: SIM115
        try:
            _lock(file, wait)
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or 'unknown'
            file.close()
            raise UserError(
                f'process {holder} is at work on {what}: wait for it, or end it'
            ) from None
        except BaseException:
            file.close()
            raise
        # Whoever held it may have deleted the file between the two calls.
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                return file
        except FileNotFoundError:
            pass
        file.close()


def _lock(file: IO[str], wait: bool) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            raise BlockingIOError(*error.args) from None
        return
    try:
        # lockf's is of this process alone: loader processes, which inherit flock's, may outlive it.
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except PermissionError as error:  # what some systems say in place of BlockingIOError
        raise BlockingIOError(*error.args) from None
