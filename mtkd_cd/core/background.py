"""A second thread, for work beside what the process does."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import TypeVar

_Result = TypeVar('_Result')


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def begin(call: Callable[[], _Result]) -> Callable[[], _Result]:
    """Begin a call on a second thread, or make it at once where the processes of a distributed run
    have no two processors each.

    The call must not depend on what a thread has for itself, such as torch's grad mode.

    Returns:
        A function that waits for the end of the call. It gives its result, or raises its error.
    """
    if processors() >= 2 * _processes_here():
        with suppress(RuntimeError):  # the interpreter ends, and starts no thread any more
            return _second_thread(os.getpid()).submit(call).result
    result = call()
    return lambda: result


@cache
def _second_thread(pid: int) -> ThreadPoolExecutor:
    """The same for all calls of a process; a process that is forked has none yet."""
    return ThreadPoolExecutor(1, thread_name_prefix='mtkd_cd')


def _processes_here() -> int:
    """Of a distributed run, on this machine, as torchrun says."""
    number = os.environ.get('LOCAL_WORLD_SIZE', '')
    return int(number) if number.isdecimal() else 1
