"""Writing files so that a reader, or the next run after a crash, never meets half of one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'  # travels in the wheel


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
    text = {} if 'b' in mode else {'encoding': 'utf-8', 'newline': ''}
    # No NamedTemporaryFile(delete=True): the name must outlive the handle for the rename.
    handle, temporary = tempfile.mkstemp(prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent)
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
