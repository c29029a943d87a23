"""Memory, in processes of ours: the C library's allocator and Python's garbage collector."""

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

# glibc's numbers of what `mallopt` sets, and the variables by which users set it.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_SET_BY_USER = ('MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_', 'MALLOC_ARENA_MAX')
_LARGEST = 1 << 30  # bytes of an array that is kept for the next one
_LARGEST_OLD = 1 << 25  # before glibc 2.35
_MANY_OBJECTS = 50_000
_usual_thresholds: list[tuple[int, int, int]] = []  # while others are set


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed arrays for its next ones.

    glibc gives large arrays back to the system when they are freed. Each layer of a network then
    asks for new pages, and the system fills them with zeros (docs/measurements.md, "Memory of freed
    arrays"). The process holds on to the largest memory that it once had. Nothing is changed
    without glibc, and where the user has set the allocator by its variables.
    """
    tunables = os.environ.get('GLIBC_TUNABLES', '')  # of other parts of the library, too
    if 'glibc.malloc.' in tunables or any(name in os.environ for name in _SET_BY_USER):
        return
    with suppress(OSError, AttributeError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        if not mallopt(_MMAP_THRESHOLD, _LARGEST):
            mallopt(_MMAP_THRESHOLD, _LARGEST_OLD)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_ARENA_MAX, 1)  # what one thread frees serves the others, too


@contextmanager
def looking_for_garbage_rarely() -> Iterator[None]:
    """Let the garbage collector wait for many objects in this block, at the longest until
    :func:`pass_over_imports`. While modules are imported it would look through all of them again
    and again, a third of a second where a network is built, and find next to nothing."""
    _usual_thresholds.append(gc.get_threshold())
    gc.set_threshold(_MANY_OBJECTS, *_usual_thresholds[-1][1:])
    try:
        yield
    finally:
        _look_as_usual()


@cache
def pass_over_imports() -> None:
    """Let the garbage collector pass over what there is at the first call in a process, modules
    above all. Looking through them takes a sixth of a second each time, and finds nothing."""
    gc.freeze()
    _look_as_usual()


def _look_as_usual() -> None:
    if _usual_thresholds:
        gc.set_threshold(*_usual_thresholds.pop())
