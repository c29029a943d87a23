"""One process at a time, where two would spoil each other's files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mtkd_cd.core.errors import UserError


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
    from filelock import FileLock, Timeout  # here, for many read labels and few lock an index

    lock = Path(lock).absolute()
    lock.parent.mkdir(parents=True, exist_ok=True)
    file_lock = FileLock(lock, thread_local=False, is_singleton=True)
    try:
        file_lock.acquire(blocking=wait)
    except Timeout:
        raise UserError(
            f'process {_holder(lock)} is at work on {what or lock}: wait for it, or end it'
        ) from None
    try:
        with suppress(OSError):  # Windows keeps even its holder from writing to a locked file
            lock.write_text(str(os.getpid()), encoding='utf-8')
        yield
    finally:
        if file_lock.lock_counter == 1:
            with suppress(OSError):
                lock.unlink()  # while it is held: nobody else deletes another's
        file_lock.release()


def _holder(lock: Path) -> str:
    try:
        return lock.read_text(encoding='utf-8') or 'unknown'
    except OSError:
        return 'unknown'
