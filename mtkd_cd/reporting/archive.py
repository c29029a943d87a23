"""All per-image tables of an experiment in one compressed CSV file, which ``compare`` reads as it
reads a folder; and back into a folder.

A row is an image of a run: which run, then its counts. Scores are not stored: they follow from the
counts. Validation curves lie beside it, in ``<name>.curves.csv.gz``.
"""

import csv
import gzip
import json
import lzma
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

import numpy as np

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write, check_own_file
from mtkd_cd.core.strategy import REPORT
from mtkd_cd.core.text import csv_text, from_csv_text
from mtkd_cd.evaluation import ImageTable, Provenance
from mtkd_cd.evaluation.counts import COUNT_NAMES
from mtkd_cd.reporting.curves import COLUMNS as CURVE_COLUMNS
from mtkd_cd.reporting.curves import CURVES, Curve, read_curves
from mtkd_cd.reporting.identity import RunIdentity
from mtkd_cd.reporting.scored_run import Run

ARCHIVE_SUFFIXES = ('.csv.gz', '.csv.xz')
_RUN_COLUMNS = (
    *('model', 'strategy', 'seed', 'dataset', 'version'),
    *('thresholds', 'names', 'zero_division'),
)
_IMAGE_COLUMNS = ('file', *COUNT_NAMES, 'coarse_car', 'coarse_range')
COLUMNS = (*_RUN_COLUMNS, *_IMAGE_COLUMNS)
_PRECISION = 'precision'  # the last column, where a run has another than float32
_CURVE_COLUMNS = ('model', 'seed', *CURVE_COLUMNS)


@dataclass(frozen=True)
class Archive:
    """What an archive holds: runs in the order that they were packed in, and the validation curves
    of their trainings."""

    runs: list[Run]
    curves: list[Curve]


def is_archive(path: str | os.PathLike) -> bool:
    """Whether a file is called like an archive."""
    return str(path).lower().endswith(ARCHIVE_SUFFIXES)


def curves_file(path: Path) -> Path:
    """Where the curves of an archive are: ``a.curves.csv.gz`` of ``a.csv.gz``."""
    suffix = _suffix(path)
    return path.with_name(f'{path.name[: -len(suffix)]}.curves{suffix}')


def pack(runs: Sequence[Run], path: str | os.PathLike, dataset: str | None = None) -> None:
    """Write runs, and the curves beside their tables, to one archive.

    Args:
        runs: At least one, each under another identity.
        path: ``.csv.gz`` or ``.csv.xz``. The same runs give the same bytes.
        dataset: Name of the data set, for tables that do not say.

    Raises:
        UserError: Another suffix, no run, or another file in the archive's place.
    """
    path = Path(path)
    _suffix(path)
    if not runs:
        raise UserError(f'{path}: there is no run to pack')
    read = [run.path for run in runs]
    for place, columns in ((path, COLUMNS), (curves_file(path), _CURVE_COLUMNS)):
        check_own_file(place, read, partial(_has_columns, columns=columns))
    with _writing(path) as file:
        writer = csv.writer(file, lineterminator='\n')
        is_told = any(run.table.provenance.precision for run in runs)
        writer.writerow([*COLUMNS, _PRECISION] if is_told else COLUMNS)
        for run in runs:
            about = _run_cells(run, dataset)
            precision = [csv_text(run.table.provenance.precision or '')] if is_told else []
            writer.writerows([*about, *cells, *precision] for cells in _image_cells(run.table))
    curves = read_curves(runs)
    if curves:
        with _writing(curves_file(path)) as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(_CURVE_COLUMNS)
            for curve in curves:
                about = [csv_text(curve.model), '' if curve.seed is None else curve.seed]
                kind = [csv_text(curve.strategy), csv_text(curve.range_name)]
                writer.writerows(
                    [*about, *kind, *point] for point in zip(curve.iters, curve.scores)
                )


def read_archive(path: str | os.PathLike) -> Archive:
    """Read what :func:`pack` wrote.

    Raises:
        UserError: The file is missing, damaged or empty, lacks a column, or holds something else
            than counts; an image of a run is there twice.
    """
    path = Path(path)
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in _rows(path, COLUMNS, (_PRECISION,)):
        key = tuple(row[name] for name in (*_RUN_COLUMNS, _PRECISION))
        groups.setdefault(key, []).append(row)
    if not groups:
        raise UserError(f'{path} holds no image: an archive comes from mtkd-cd tables pack')
    try:
        runs = [_run(path, rows) for rows in groups.values()]
    except UserError as error:  # a partition's, say
        raise UserError(str(error) if str(path) in str(error) else f'{path}: {error}') from None
    beside = curves_file(path)
    return Archive(runs, _read_curves(beside) if beside.is_file() else [])


def unpack(path: str | os.PathLike, folder: str | os.PathLike, suffix: str = '.json') -> list[Path]:
    """Write the tables of an archive as the recipe does:
    ``<folder>/[seed<k>/]report/<model>/<strategy>.json``.

    Args:
        path: The archive.
        folder: Where to.
        suffix: ``.json``, or ``.csv`` for tables that do not say what they are.

    Returns:
        The tables written.

    Raises:
        UserError: As :func:`read_archive` does; a table exists already; a name in the archive leads
            out of ``folder``.
    """
    archive = read_archive(path)
    places = {_place(folder, run.identity, suffix): run for run in archive.runs}
    by_file: dict[Path, list[Curve]] = {}
    for curve in archive.curves:
        identity = RunIdentity(curve.model, curve.strategy, curve.seed)
        by_file.setdefault(_place(folder, identity, suffix).with_name(CURVES), []).append(curve)
    there = next((place for place in (*places, *by_file) if place.exists()), None)
    if there is not None:
        raise UserError(f'{there} exists: unpack {path} into another folder')
    for place, run in places.items():
        run.table.save(place)
    for place, curves in by_file.items():
        with atomic_write(place) as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(CURVE_COLUMNS)
            for curve in curves:
                kind = (csv_text(curve.strategy), csv_text(curve.range_name))
                writer.writerows([*kind, *point] for point in zip(curve.iters, curve.scores))
    return list(places)


def _suffix(path: Path) -> str:
    for suffix in ARCHIVE_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[-len(suffix) :]
    raise UserError(
        f'{path}: an archive of tables is a file {" or ".join(ARCHIVE_SUFFIXES)}, found the suffix '
        f'{"".join(path.suffixes)!r}'
    )


def _place(folder: str | os.PathLike, identity: RunIdentity, suffix: str) -> Path:
    root = Path(os.path.abspath(folder))
    seed = [] if identity.seed is None else [f'seed{identity.seed}']
    place = Path(root, *seed, REPORT, identity.model, f'{identity.strategy}{suffix}')
    if root not in Path(os.path.abspath(place)).parents:
        raise UserError(f'the run {identity} would be written to {place}, outside of {root}')
    return place


@contextmanager
def _writing(path: Path) -> Iterator[IO[str]]:
    with atomic_write(path, 'wb') as file:
        # Neither name nor time in the file: the same rows give the same bytes.
        compressed: Any = (
            gzip.GzipFile('', 'wb', 9, file, mtime=0)
            if path.name.lower().endswith('.gz')
            else lzma.LZMAFile(file, 'wb')  # noqa: SIM115  # the next line closes either
        )
        with compressed, TextIOWrapper(compressed, encoding='utf-8', newline='') as text:
            yield text


def _run_cells(run: Run, dataset: str | None) -> list[Any]:
    identity, table = run.identity, run.table
    told, partition = table.provenance, table.partition
    usual = partition.names == CARPartition(partition.thresholds).names
    return [
        csv_text(identity.model),
        csv_text(identity.strategy),
        '' if identity.seed is None else identity.seed,
        csv_text(told.dataset or dataset or ''),
        csv_text(told.version or ''),
        ' '.join(map(repr, partition.thresholds)),
        '' if usual else csv_text(_names_text(partition.names)),
        table.zero_division,
    ]


def _names_text(names: Sequence[str]) -> str:
    """Names of ranges, separated by spaces; as a JSON list where these would not tell them."""
    text = ' '.join(names)
    plain = text.split() == list(names) and not text.startswith('[')
    return text if plain else json.dumps(names)


def _names_of(text: str) -> list[str]:
    if not text.startswith('['):
        return text.split()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f'the names of CAR ranges are no JSON list: {text[:60]}') from None


def _image_cells(table: ImageTable) -> Iterator[list[Any]]:
    rows = zip(table.files, table.counts.tolist(), table.coarse_cars, table.coarse_ranges)
    for file, counts, car, range_name in rows:
        coarse = ['' if car is None else car, csv_text(range_name or '')]
        yield [csv_text(file), *counts, *coarse]


def _has_columns(path: Path, columns: Sequence[str]) -> bool:
    try:
        _rows(path, columns)
    except UserError:
        return False
    return True


def _rows(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, str]]:
    """The cells of these columns; of one that is optional and absent empty ones."""
    opener: Any = gzip.open if path.name.lower().endswith('.gz') else lzma.open
    try:
        with opener(path, 'rt', encoding='utf-8', newline='') as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            rows = [] if missing else list(reader)
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'cannot read the archive {path}: {error}') from error
    if missing:
        raise UserError(
            f'{path} lacks the column {", ".join(missing)}: an archive comes from mtkd-cd tables '
            'pack'
        )
    for row in rows:
        if None in row.values() or None in row:
            raise UserError(f'{path}: a row has not as many cells as the first line: {row}')
    return [
        {name: from_csv_text(row.get(name, '')) for name in (*columns, *optional)} for row in rows
    ]


def _run(path: Path, rows: Sequence[Mapping[str, str]]) -> Run:
    about = rows[0]
    identity = RunIdentity(about['model'], about['strategy'], _seed(path, about))
    files = [row['file'] for row in rows]
    if len(set(files)) < len(files):
        twice = next(file for file in files if files.count(file) > 1)
        raise UserError(f'{path}, {identity}: {twice} is there more than once')
    try:
        counts = np.array([[int(row[name]) for name in COUNT_NAMES] for row in rows], np.int64)
        cars = [float(row['coarse_car']) if row['coarse_car'] else None for row in rows]
        thresholds = [float(number) for number in about['thresholds'].split()]
        zero_division = float(about['zero_division'])
    except (ValueError, OverflowError) as error:
        raise UserError(f'{path}, {identity}: a number is wanted: {error}') from None
    if counts.min() < 0:
        raise UserError(f'{path}, {identity}: a number of pixels is below 0')
    table = ImageTable(
        files=files,
        counts=counts,
        coarse_cars=cars,
        coarse_ranges=[row['coarse_range'] or None for row in rows],
        partition=CARPartition(thresholds, _names_of(about['names']) or None),
        zero_division=zero_division,
        provenance=Provenance(
            about['model'],
            about['strategy'],
            identity.seed,
            about['dataset'] or None,
            about['version'] or None,
            about[_PRECISION] or None,
        ),
    )
    return Run(identity, path, table)


def _seed(path: Path, row: Mapping[str, str]) -> int | None:
    try:
        return int(row['seed']) if row['seed'] else None
    except ValueError:
        raise UserError(f'{path}: seed is an integer, found {row["seed"]!r}') from None


def _read_curves(path: Path) -> list[Curve]:
    points: dict[tuple[str, str, str, int | None], list[tuple[int, float]]] = {}
    for row in _rows(path, _CURVE_COLUMNS):
        key = (row['model'], row['strategy'], row['range'], _seed(path, row))
        try:
            points.setdefault(key, []).append((int(row['iter']), float(row['mIoU'])))
        except ValueError as error:
            raise UserError(f'{path}: a number is wanted: {error}') from None
    return [Curve(*key, *map(tuple, zip(*sorted(found)))) for key, found in points.items()]
