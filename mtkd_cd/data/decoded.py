"""Decoded images that are kept: a ring of bytes in memory or on disk, shared by the processes of a
run, in which the newest take the place of the oldest."""

import hashlib
import json
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mtkd_cd.core.errors import UserError

CacheKind = Literal['ram', 'disk']

_VERSION = 2
_MAGIC = b'mtkdring'
# Magic, version, slots, size of the ring, where the next record goes.
_HEAD = struct.Struct('<8sIIQQ')
_NEXT = struct.Struct('<Q')  # the last of the head
_SLOT = struct.Struct('<16sQ')  # digest of the key, place of the record
_RECORD = struct.Struct('<16sIQI')  # digest of the key, bytes of meta, bytes of arrays, check sum
_MEAN_RECORD = 16 << 10  # bytes: slots are there for so small images
_PROBES = 8
_MIB = 1 << 20
_RAM_SHARE = 0.25  # of the memory that is available
_GIB_ON_DISK = 10
_MOST_GIB = 1 << 20
_PATIENCE = 1.0  # seconds that a writer waits for another


class DecodedImages:
    """A bounded store of arrays by key.

    Every process that has it open sees what the others put in. A record is found as long as newer
    ones have not overwritten it. On disk it outlives the run, and each record has a check sum.

    Writers lock each other out; readers need no lock. A writer spoils the head of a record before
    it overwrites the rest, so a reader looks at the head before and after it copies the record.

    Args:
        fd: A file, open for reading and writing as long as the process lives.
        size: Bytes that the ring may take, beside a table of a hundredth of it or less.
        checked: Whether records are checked when they are read.
    """

    def __init__(self, fd: int, size: int, checked: bool) -> None:
        self._fd = fd
        self.size = size
        self._checked = checked
        self._slots = max(64, 4 * size // _MEAN_RECORD)
        self._start = _HEAD.size + (self._slots + _PROBES) * _SLOT.size
        if not self._is_made():
            with self._alone():
                if not self._is_made():
                    self._make()

    def get(self, key: str) -> tuple[dict[str, Any], list[np.ndarray]] | None:
        """What was put in under a key: (meta, arrays of one's own), or ``None``."""
        digest = _digest(key)
        for found, place in self._probe(digest):
            if found == digest:
                return self._read(digest, place)
        return None

    def put(self, key: str, meta: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> None:
        """Keep arrays under a key; not those that are larger than the ring, and nothing where the
        disk is full or another writer does not come to an end.

        Args:
            key: Says all on which the arrays depend.
            meta: Anything that JSON can hold.
            arrays: Of numbers.
        """
        digest = _digest(key)
        shapes = [[array.dtype.str, list(array.shape)] for array in arrays]
        text = json.dumps([dict(meta), shapes]).encode()
        blocks = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays]
        content = np.concatenate([np.empty(0, np.uint8), *blocks])
        length = _RECORD.size + len(text) + content.size
        if length > self.size:
            return
        check = zlib.crc32(content.data, zlib.crc32(text)) if self._checked else 0
        record = _RECORD.pack(digest, len(text), content.size, check)
        with suppress(OSError, struct.error), self._alone():
            (place,) = _NEXT.unpack(os.pread(self._fd, _NEXT.size, _HEAD.size - _NEXT.size))
            if place + length > self.size:
                place = 0
            at = self._start + place
            try:
                _write(self._fd, [bytes(_RECORD.size)], at)  # what is half written is not found
                _write(self._fd, [text, content], at + _RECORD.size)
                _write(self._fd, [record], at)
            except OSError:  # the disk is full: the next go where there are bytes of ours
                os.pwrite(self._fd, _NEXT.pack(0), _HEAD.size - _NEXT.size)
                raise
            os.pwrite(self._fd, _NEXT.pack(place + length), _HEAD.size - _NEXT.size)
            os.pwrite(self._fd, _SLOT.pack(digest, place), self._slot_for(digest))

    def _head(self) -> bytes:
        """How the file of such a store begins, up to the place of the next record."""
        return _HEAD.pack(_MAGIC, _VERSION, self._slots, self.size, 0)[: -_NEXT.size]

    def _is_made(self) -> bool:
        head = self._head()
        return os.pread(self._fd, len(head), 0) == head

    def _make(self) -> None:
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, self._start + self.size)  # takes no room before it is written
        os.pwrite(self._fd, self._head() + _NEXT.pack(0), 0)

    def _read(self, digest: bytes, place: int) -> tuple[dict[str, Any], list[np.ndarray]] | None:
        """The record at a place, unless another is there or comes there meanwhile."""
        if place > self.size:
            return None
        at = self._start + place
        record = os.pread(self._fd, _RECORD.size, at)
        if len(record) < _RECORD.size:
            return None
        found, num_meta, length, check = _RECORD.unpack(record)
        begin, size = at + _RECORD.size, num_meta + length
        if found != digest or begin + size > self._start + self.size:
            return None  # overwritten
        text, content = bytearray(num_meta), np.empty(length, np.uint8)
        if size and os.preadv(self._fd, [text, content.data], begin) != size:
            return None
        if os.pread(self._fd, _RECORD.size, at) != record:
            return None  # overwritten while it was copied
        if self._checked and zlib.crc32(content.data, zlib.crc32(text)) != check:
            return None
        meta, shapes = json.loads(text)
        arrays, begin = [], 0
        for dtype, shape in shapes:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            arrays.append(content[begin : begin + size].view(dtype).reshape(shape))
            begin += size
        return meta, arrays

    def _first_slot(self, digest: bytes) -> int:
        """Where the slots begin in which a digest may be."""
        return _HEAD.size + int.from_bytes(digest[:8], 'little') % self._slots * _SLOT.size

    def _probe(self, digest: bytes) -> list[tuple[bytes, int]]:
        slots = os.pread(self._fd, _PROBES * _SLOT.size, self._first_slot(digest))
        return list(_SLOT.iter_unpack(slots))

    def _slot_for(self, digest: bytes) -> int:
        """Its own slot, else one of a record that is gone, else the first."""
        slots = self._probe(digest)
        chosen = next((i for i, (found, _) in enumerate(slots) if found == digest), None)
        if chosen is None:
            gone = (i for i, slot in enumerate(slots) if not self._is_there(*slot))
            chosen = next(gone, 0)
        return self._first_slot(digest) + chosen * _SLOT.size

    def _is_there(self, digest: bytes, place: int) -> bool:
        return any(digest) and os.pread(self._fd, len(digest), self._start + place) == digest

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The only writer among the threads and the processes; a process that dies gives its lock
        up.

        Raises:
            OSError: Another writer did not come to an end, or this file system has no locks.
        """
        from filelock import lock_descriptor, unlock_descriptor  # here: most runs have no cache

        # Opened anew: a descriptor that was inherited would share its parent's lock.
        fd = os.open(f'/proc/self/fd/{self._fd}', os.O_RDWR)
        try:
            deadline = time.monotonic() + _PATIENCE
            while not lock_descriptor(fd, blocking=False):
                if time.monotonic() > deadline:
                    raise TimeoutError(f'another process has locked it for {_PATIENCE} s')
                time.sleep(0.0005)
            try:
                yield
            finally:
                unlock_descriptor(fd)  # a process forked meanwhile holds it open
        finally:
            os.close(fd)

    def __reduce__(self) -> tuple:
        """Copies, also those in processes that are spawned, open the same bytes."""
        path = f'/proc/{os.getpid()}/fd/{self._fd}'
        return _opened_again, (path, self.size, self._checked)


_OPEN: dict[tuple, DecodedImages] = {}


def open_cache(kind: CacheKind, gib: float | None = None) -> DecodedImages:
    """The store of this process and of those that it starts; made when it is first asked for.

    Args:
        kind: ``'ram'``: in memory, gone with the last process. ``'disk'``: in the user's cache
            folder (``XDG_CACHE_HOME``, else ``~/.cache``), for the next run too.
        gib: How large it may become. Default: a quarter of the available memory; 10 on disk.

    Raises:
        UserError: Another kind; a size that is not positive; there is no place for it.
    """
    if kind not in ('ram', 'disk'):
        raise UserError(f"cache={kind!r}: choose 'ram' or 'disk'")
    if not os.path.isdir('/proc/self/fd'):
        raise UserError(f'cache={kind!r}: this needs Linux and its /proc, leave it out')
    if gib is not None and not 0 < gib <= _MOST_GIB:
        raise UserError(f'cache_gib={gib!r}: it must be above 0, and {_MOST_GIB} at most')
    name = (kind, gib, os.environ.get('XDG_CACHE_HOME'))
    if name not in _OPEN:
        _OPEN[name] = _in_memory(gib) if kind == 'ram' else _on_disk(gib or _GIB_ON_DISK)
    return _OPEN[name]


def _in_memory(gib: float | None) -> DecodedImages:
    size = _RAM_SHARE * _available_memory() if gib is None else gib * (1 << 30)
    if hasattr(os, 'memfd_create'):
        fd = os.memfd_create('mtkd_cd decoded images')
    else:  # a C library before 2.27
        fd, path = tempfile.mkstemp()
        os.unlink(path)
    return DecodedImages(fd, _whole(size), checked=False)


def _on_disk(gib: float) -> DecodedImages:
    root = Path(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'))
    size = _whole(gib * (1 << 30))
    path = root / 'mtkd_cd' / 'decoded' / f'{size // _MIB}_MiB.ring'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return DecodedImages(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), size, checked=True)
    except OSError as error:
        raise UserError(
            f"cache='disk': {path} cannot be used ({error}): set XDG_CACHE_HOME to a folder that "
            "can be written to, or take cache='ram'"
        ) from error


def _write(fd: int, parts: Sequence[Any], at: int) -> None:
    """All of it; a write may end early."""
    for part in parts:
        rest = memoryview(part).cast('B')
        while rest:
            written = os.pwrite(fd, rest, at)
            rest, at = rest[written:], at + written


def _whole(size: float) -> int:
    return max(_MIB, int(size) // _MIB * _MIB)


def _available_memory() -> int:
    return os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def _opened_again(path: str, size: int, checked: bool) -> DecodedImages:
    """The store at a path of :meth:`DecodedImages.__reduce__`. Where its process has ended, or
    another has its number, one as large."""
    for known in _OPEN.values():
        if path == f'/proc/{os.getpid()}/fd/{known._fd}':
            return known
    name = (path, size)
    if name not in _OPEN:
        fd = _open_ring(path, size)
        if fd is None:
            return open_cache('disk' if checked else 'ram', size / (1 << 30))
        _OPEN[name] = DecodedImages(fd, size, checked)
    return _OPEN[name]


def _open_ring(path: str, size: int) -> int | None:
    """A descriptor of a file that is a ring of that size; ``None`` for any other, which stays as it
    is."""
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        magic, version, _, found_size, _ = _HEAD.unpack(os.pread(fd, _HEAD.size, 0))
        if (magic, version, found_size) == (_MAGIC, _VERSION, size):
            return fd
    except (OSError, struct.error):
        pass
    os.close(fd)
    return None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()[:16]
