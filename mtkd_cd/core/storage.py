"""Files wherever mmengine's file backends find them; those on a local disk without mmengine, which
takes a sixth of a second to import."""

import os
import sys
from typing import Any


def read_bytes(path: str | os.PathLike, backend_args: dict | None = None) -> bytes:
    """The bytes of a file.

    Args:
        path: A path, or an address that a backend knows by its prefix: ``s3://...``.
        backend_args: mmengine's file backend; by default that of the prefix, without one the local
            disk.

    Raises:
        OSError: As ``open`` does.
    """
    if _is_local(path, backend_args):
        with open(path, 'rb') as file:
            return file.read()
    return _fileio().get(path, backend_args=backend_args)


def is_folder(path: str | os.PathLike, backend_args: dict | None = None) -> bool:
    """Whether there is such a folder; for the arguments see :func:`read_bytes`."""
    if _is_local(path, backend_args):
        return os.path.isdir(path)
    return _fileio().isdir(path, backend_args=backend_args)


def is_file(path: str | os.PathLike, backend_args: dict | None = None) -> bool:
    """Whether there is such a file; for the arguments see :func:`read_bytes`."""
    if _is_local(path, backend_args):
        return os.path.isfile(path)
    return _fileio().isfile(path, backend_args=backend_args)


def _is_local(path: str | os.PathLike, backend_args: dict | None) -> bool:
    # Where mmengine is imported, somebody may have registered another backend for local paths.
    return not (backend_args or '://' in os.fspath(path) or 'mmengine.fileio' in sys.modules)


def _fileio() -> Any:
    from mmengine import fileio

    return fileio
