"""What is in the files of a data set, so that a result is not taken for one of other data.

A file's digest is kept in the user's cache folder together with its size and its times of change:
as long as these stay the file is not read again.
"""

import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.locks import alone
from mtkd_cd.core.text import some

_VERSION = 1
_SHOWN = 3
_SETTLED = 1_000_000_000  # ns: a file that changed later than this ago may change unnoticed again
_PATHS = ('img_path', 'seg_map_path')

# size in bytes, times of the last change of content and of anything in ns
_Status = tuple[int, int, int]


def data_stamp(dataset: Any) -> dict[str, str]:
    """Digest of every file that a data set reads, by its path below the folder that all lie in.

    Args:
        dataset: An mmengine data set, initialised; wrapped ones too.

    Returns:
        ``{'A/0001.png': '<16 hexadecimal digits>', ...}`` in the order of the samples; an empty
        digest for what is not a file on a local disk.
    """
    paths = list(
        dict.fromkeys(
            path
            for index in range(len(dataset))
            for path in _paths_of(dataset.get_data_info(index))
        )
    )
    if not paths:
        return {}
    folders = {os.path.dirname(path) for path in paths}
    root = os.path.commonpath(folders) if len({os.path.isabs(one) for one in folders}) == 1 else ''
    names = [os.path.relpath(path, root) if root else path for path in paths]
    return dict(zip(names, file_digests(paths)))


def _paths_of(info: Mapping[str, Any]) -> list[str]:
    paths: list[str] = []
    for key in _PATHS:
        value = info.get(key)
        if isinstance(value, (list, tuple)):
            paths += map(str, value)
        elif value:
            paths.append(str(value))
    return paths


def digest_of(stamp: Mapping[str, str]) -> str:
    """One digest of a whole stamp: of the content of its files in their order, whatever folder they
    lie in."""
    return hashlib.sha256('\n'.join(stamp.values()).encode()).hexdigest()[:16]


def stamp_changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs between two stamps, in words; empty where nothing does."""
    parts = (
        ('changed', [name for name in now if name in before and before[name] != now[name]]),
        ('gone', [name for name in before if name not in now]),
        ('new', [name for name in now if name not in before]),
    )
    texts = [f'{len(names)} {what} ({some(names, _SHOWN)})' for what, names in parts if names]
    if not texts and list(before) != list(now):
        return 'the same files in another order'
    return '; '.join(texts)


def file_digests(paths: Sequence[str]) -> list[str]:
    """Digest of the content of each file: from the cache where size and times are as they were,
    else read, several at a time. Empty for what cannot be read here."""
    by_folder: dict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(paths):
        by_folder[os.path.dirname(os.path.abspath(path))].append(row)
    found: list[str] = [''] * len(paths)
    unread: list[tuple[int, _Status]] = []
    caches: dict[str, dict[str, list]] = {}
    for folder, rows in by_folder.items():
        cache = caches[folder] = _load(_cache_file(folder))
        for row in rows:
            status = _status(paths[row])
            if status is None:
                continue
            entry = cache.get(os.path.basename(paths[row]))
            if entry is not None and tuple(entry[:3]) == status:
                found[row] = entry[3]
            else:
                unread.append((row, status))
    if unread:
        with ThreadPoolExecutor() as pool:
            digests = pool.map(lambda item: _read(paths[item[0]]), unread)
            bar = tqdm(digests, 'reading the data', len(unread), unit='file', delay=2, leave=False)
            new: dict[str, dict[str, list]] = defaultdict(dict)
            for (row, status), digest in zip(unread, bar):
                found[row] = digest
                folder = os.path.dirname(os.path.abspath(paths[row]))
                if digest and time.time_ns() - max(status[1:]) > _SETTLED:
                    new[folder][os.path.basename(paths[row])] = [*status, digest]
        for folder, entries in new.items():
            _save(_cache_file(folder), entries)
    return found


def _status(path: str) -> _Status | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    # The time of the last change of anything (ctime) cannot be set back, as `cp -p` does with the
    # other.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, 'rb') as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return ''
    return digest.hexdigest()[:16]


def _cache_file(folder: str) -> Path:
    root = Path(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'))
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:24]
    return root / 'mtkd_cd' / 'digests' / f'{name}.json'


def _is_entry(entry: object) -> bool:
    """Whether this is [*status, digest]."""
    if not isinstance(entry, list) or len(entry) != 4:
        return False
    *status, digest = entry
    return all(isinstance(part, int) for part in status) and isinstance(digest, str)


def _load(path: Path) -> dict[str, list]:
    """{file name: [*status, digest]}; nothing from a file that is missing or damaged."""
    try:
        content = json.loads(path.read_bytes())
        entries = content['digests'] if content['version'] == _VERSION else {}
        return {name: entry for name, entry in entries.items() if _is_entry(entry)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _save(path: Path, entries: Mapping[str, list]) -> None:
    # It saves work, no more: where it cannot be kept the files are read again.
    with suppress(OSError), alone(path.with_suffix('.lock'), wait=True):
        content = {'version': _VERSION, 'digests': {**_load(path), **entries}}
        with atomic_write(path) as file:
            json.dump(content, file)
