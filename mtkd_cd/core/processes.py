"""Processes of one distributed run: where one of them fails, all end."""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

_FAILURE = 'mtkd_cd/failure'
_HEARD = 'mtkd_cd/heard'  # how many processes know of it
_POLL = 0.5  # seconds between two looks at what the others report
_GRACE = 5.0  # seconds that a process has to end by itself once another has failed
_PATIENCE = 2.0  # seconds in which another process may say why this one has an error
_LINGER = 30.0  # seconds: a failed process, which may serve the store, waits for the others to hear
# What gloo and NCCL say when the other end is gone.
_SIGNS_OF_LOSS = ('Connection closed by peer', 'Connection reset by peer', 'remote process exited')


class Failure(NamedTuple):
    """Why a process ends before its time.

    Attributes:
        rank: Of the process.
        code: Its exit code, which the others take over.
        message: What it said.
    """

    rank: int
    code: int
    message: str


class _Board:
    """Where the processes of a run report a failure: the store that they met in."""

    def __init__(self) -> None:
        from torch import distributed

        self.rank = distributed.get_rank()
        self._others = distributed.get_world_size() - 1
        store = _meeting_place()
        # A connection of its own: the other one is taken while a process waits for another.
        self._store = store.clone() if hasattr(store, 'clone') else store
        self._lock = threading.Lock()
        self._heard: Failure | None = None

    def read(self) -> Failure | None:
        """The first failure that was reported. Raises a RuntimeError once the store is gone."""
        with self._lock:
            if self._heard is None and self._store.check([_FAILURE]):
                self._heard = Failure(*json.loads(self._store.get(_FAILURE)))
                if self._heard.rank != self.rank:
                    with suppress(Exception):  # it may be gone before it has answered
                        self._store.add(_HEARD, 1)
            return self._heard

    def report(self, failure: Failure) -> Failure:
        """Report a failure; gives the first one, which may be another's."""
        with self._lock:
            self._store.compare_set(_FAILURE, '', json.dumps(failure))
        return self.read() or failure

    def wait_for_others(self) -> None:
        """Until all of them have heard of the failure, or are gone."""
        until = time.monotonic() + _LINGER
        with suppress(Exception):  # the store is gone
            while time.monotonic() < until and self._store.add(_HEARD, 0) < self._others:
                time.sleep(_POLL / 5)
            time.sleep(_POLL)  # they get their answers


def _meeting_place() -> Any:
    """The store through which the processes found each other.

    A store of our own would need a port of its own, which a cluster's firewall may close.
    """
    from torch import distributed

    world: Any = distributed.group.WORLD  # there is one: the processes have met
    if hasattr(world, 'get_group_store'):
        return world.get_group_store()
    # Older releases of torch, which change no more, have no public way.
    return distributed.distributed_c10d._get_default_store()


_boards: list[_Board] = []


def watch_others() -> None:
    """From now on, end this process when another one of the distributed run reports a failure.

    What it waits for from that process would never come: a collective call of torch gives up after
    half an hour. Call it once the process group is there; without one, or in a single process,
    nothing happens.
    """
    from torch import distributed

    if _boards or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    board = _Board()
    _boards.append(board)
    threading.Thread(target=_watch, args=(board,), daemon=True).start()


def _watch(board: _Board) -> None:
    while _boards and _boards[0] is board:
        time.sleep(_POLL)
        try:
            failure = board.read()
        except Exception:  # whoever kept the store has ended
            return
        if failure is not None and failure.rank != board.rank:
            time.sleep(_GRACE)
            _say(_told(failure))
            _end(failure.code)


@contextmanager
def ending_together(message_of: Callable[[BaseException], str | None]) -> Iterator[None]:
    """Where the block fails, tell the other processes of a distributed run, and end this process.
    The error shown is that of the first process that failed: the others' follow from it.

    In a single process an error goes its way.

    Args:
        message_of: Gives the line for a user's mistake, ``None`` for other errors.
    """
    try:
        yield
    except BaseException as error:
        if not _boards or (isinstance(error, SystemExit) and not error.code):
            raise
        _end_as_first(_boards[0], error, message_of(error))
    finally:
        _boards.clear()


def _end_as_first(board: _Board, error: BaseException, message: str | None) -> None:
    own = Failure(board.rank, *_code_and_line(error, message))
    first = own
    # Errors that are not the user's may follow from another process's end: hear it first.
    patience = 0.0 if message is not None or isinstance(error, SystemExit) else _PATIENCE
    with suppress(Exception):  # the store is gone, with the process that kept it
        first = _hear(board, patience) or board.report(own)
    if first.rank == board.rank:
        if own.code == 1:
            traceback.print_exception(error)
        elif not isinstance(error, SystemExit):  # which has said what there is to say
            _say(f'error: {own.message}' if own.code == 2 else own.message)
        board.wait_for_others()
    elif first.message != own.message:
        _say(_told(first))
    _end(first.code)


def _code_and_line(error: BaseException, message: str | None) -> tuple[int, str]:
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 2
        return code, getattr(error, 'message', str(error))
    if isinstance(error, KeyboardInterrupt):
        return 130, 'interrupted'
    if message is not None:
        return 2, message
    if any(sign in str(error) for sign in _SIGNS_OF_LOSS):
        return 2, (
            'another process of this run is gone without a word: see its log; the system may have '
            'ended it for lack of memory'
        )
    return 1, f'{type(error).__name__}: {error}'


def _hear(board: _Board, seconds: float) -> Failure | None:
    """The first failure that was reported, or is within so many seconds."""
    until = time.monotonic() + seconds
    while True:
        failure = board.read()
        if failure is not None or time.monotonic() >= until:
            return failure
        time.sleep(_POLL / 5)


def _told(failure: Failure) -> str:
    return f'process {failure.rank} of this run has ended: {failure.message}'


def _say(line: str) -> None:
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr)


def _end(code: int) -> None:
    """Without the interpreter's teardown, where threads wait for the processes that are gone."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
