"""The CAR of every label of a data set, read in parallel once and kept on disk."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mtkd_cd.core.car import change_area_ratio
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.locks import alone
from mtkd_cd.data.labels import check_not_black_and_white, read_label

_VERSION = 1
# Data sets with more label folders (one per scene, say) get one index for all of them.
_MAX_FOLDERS = 16
_CODING_KEYS = ('format_seg_map', 'reduce_zero_label', 'label_map')

# Entry of one label: [size in bytes, mtime in ns, CAR].
_Entries = dict[str, list]


def car_of_file(path: str | os.PathLike, **coding: Any) -> float:
    """CAR of one label file.

    Args:
        path: The file.
        **coding: As :func:`~mtkd_cd.data.labels.read_label` takes it.

    Raises:
        UserError: As ``read_label`` does.
    """
    return float(change_area_ratio(read_label(path, **coding)))


def cars_of_data_infos(data_infos: Iterable[dict]) -> np.ndarray:
    """CAR of each sample's stored label.

    Args:
        data_infos: mmseg-style sample infos: ``seg_map_path`` and, where present,
            ``format_seg_map``, ``reduce_zero_label`` and ``label_map`` are looked at.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        UserError: A sample has no label; labels without change in which 255 may mean change
            (:func:`~mtkd_cd.data.labels.check_not_black_and_white`); or as :func:`label_cars` does.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    paths: dict[str, list[str]] = defaultdict(list)
    codings: dict[str, dict] = {}
    count = 0
    for info in data_infos:
        if not info.get('seg_map_path'):
            raise UserError(
                f'{info.get("img_path", f"sample {count}")} has no label, so it has no Change Area '
                'Ratio: check seg_map_path'
            )
        coding = {key: info[key] for key in _CODING_KEYS if info.get(key)}
        key = _coding_key(coding)
        codings[key] = coding
        rows[key].append(count)
        paths[key].append(info['seg_map_path'])
        count += 1
    cars = np.empty(count)
    for key, coding in codings.items():
        found = label_cars(paths[key], **coding)
        if not found.any() and not coding.keys() & {'format_seg_map', 'reduce_zero_label'}:
            check_not_black_and_white(paths[key])
        cars[rows[key]] = found
    return cars


def label_cars(paths: Sequence[str | os.PathLike], **coding: Any) -> np.ndarray:
    """CAR of label files, from the index where that is up to date, else read in parallel and
    indexed.

    The index of a folder ``label`` is the hidden file ``.label.car_index.json`` beside it, or one
    in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``) where the data are read-only.
    An entry counts as long as the file's size and mtime stay. Processes that ask for the same
    folder at once wait for the first, which reads for all.

    Args:
        paths: Label files; those that are not on a local disk are read every time.
        **coding: ``format_seg_map``, ``reduce_zero_label``, ``label_map`` as ``read_label`` takes
            them.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        UserError: A file is missing, broken or of another coding.
    """
    cars = np.empty(len(paths))
    for folder, rows in _by_folder(paths).items():
        names = [name for name, _ in rows]
        cars[[row for _, row in rows]] = _FolderIndex(folder, coding).cars(names)
    return cars


def _coding_key(coding: dict) -> str:
    return json.dumps({key: coding[key] for key in _CODING_KEYS if coding.get(key)}, sort_keys=True)


def _by_folder(paths: Sequence[str | os.PathLike]) -> dict[str, list[tuple[str, int]]]:
    """{folder of an index: [(path relative to it, row in ``paths``), ...]}."""
    folders = defaultdict(list)
    for row, path in enumerate(paths):
        folder, name = os.path.split(os.fspath(path))
        folders[folder].append((name, row))
    if len(folders) <= _MAX_FOLDERS:
        return folders
    common = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    return {
        common: [
            (os.path.join(os.path.relpath(folder, common), name), row)
            for folder, rows in folders.items()
            for name, row in rows
        ]
    }


class _FolderIndex:
    """The index of one folder's labels under one coding."""

    def __init__(self, folder: str, coding: dict) -> None:
        self.folder = folder
        self.coding = coding
        self.coding_key = _coding_key(coding)
        absolute = Path(os.path.abspath(folder))
        self.digest = hashlib.sha256(str(absolute).encode()).hexdigest()[:16]
        self.beside_data = absolute.parent / f'.{absolute.name}.car_index.json'
        self.in_cache = _cache_folder() / f'{absolute.name}-{self.digest}.json'

    def cars(self, names: Sequence[str]) -> np.ndarray:
        stamps = [self._stamp(name) for name in names]
        known = self._known_cars(names, stamps)
        if None in known:
            with _lock(self.digest):
                # Another process may have read them while this one waited.
                known = self._known_cars(names, stamps)
                missing = [row for row, car in enumerate(known) if car is None]
                if missing:
                    for row, car in zip(missing, self._read([names[row] for row in missing])):
                        known[row] = car
                    entries = {}
                    for row in missing:
                        stamp = stamps[row]
                        if stamp is not None:
                            entries[names[row]] = [*stamp, known[row]]
                    self._save(entries)
        return np.array(known, np.float64)

    def _stamp(self, name: str) -> list[int] | None:
        try:
            status = os.stat(os.path.join(self.folder, name))
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns]

    def _known_cars(
        self, names: Sequence[str], stamps: Sequence[list[int] | None]
    ) -> list[float | None]:
        known: list[float | None] = [None] * len(names)
        for path in (self.beside_data, self.in_cache):
            entries = self._load(path).get(self.coding_key, {})
            for row, (name, stamp) in enumerate(zip(names, stamps)):
                entry = entries.get(name)
                if entry and stamp is not None and _is_entry(entry) and entry[:2] == stamp:
                    known[row] = float(entry[2])
        return known

    def _read(self, names: Sequence[str]) -> list[float]:
        from tqdm import tqdm  # here, for most runs find all labels in the index

        paths = [os.path.join(self.folder, name) for name in names]
        with ThreadPoolExecutor() as pool:
            cars = pool.map(lambda path: car_of_file(path, **self.coding), paths)
            return list(
                tqdm(
                    cars,
                    f'reading the labels of {self.folder}',
                    len(paths),
                    unit='label',
                    delay=2,
                    leave=False,
                )
            )

    @staticmethod
    def _load(path: Path) -> dict[str, _Entries]:
        """{coding: entries}; nothing for an index that is missing, damaged or of another
        version."""
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        cars = content.get('cars') if isinstance(content, dict) else None
        if not isinstance(cars, dict) or content.get('version') != _VERSION:
            return {}
        return {coding: entries for coding, entries in cars.items() if isinstance(entries, dict)}

    def _save(self, entries: _Entries) -> None:
        for path in (self.beside_data, self.in_cache):
            if path == self.beside_data and _read_only(path.parent):
                continue
            cars = self._load(path)
            cars[self.coding_key] = {**cars.get(self.coding_key, {}), **entries}
            with suppress(OSError), atomic_write(path) as file:
                json.dump({'version': _VERSION, 'cars': cars}, file)
                return
        from mmengine.logging import print_log

        print_log(
            f'The CAR index of {self.folder} can be kept neither in {self.beside_data.parent} nor '
            f'in {self.in_cache.parent}, so the labels '
            'are read anew in each run. Make one of the two writable, or set XDG_CACHE_HOME',
            logger='current',
        )


def _is_entry(entry: Any) -> bool:
    """Whether this is what the index keeps of a label: [size, mtime, CAR in [0, 1]]."""
    return (
        isinstance(entry, list)
        and len(entry) == 3
        and all(type(value) is int for value in entry[:2])
        and type(entry[2]) in (int, float)
        and 0 <= entry[2] <= 1  # which NaN is not
    )


def _read_only(folder: Path) -> bool:
    """Whether nobody may write, by the folder's mode: a superuser could, but whoever set it so did
    not want it."""
    return not folder.stat().st_mode & 0o222


def _cache_folder() -> Path:
    return (
        Path(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'))
        / 'mtkd_cd'
        / 'car_index'
    )


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """Let one process of this user on this machine in at a time, where the system can; it only
    saves work, so it may fail."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(alone(_cache_folder() / f'{name}.lock', wait=True))
        yield
