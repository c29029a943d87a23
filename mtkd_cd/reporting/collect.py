"""Runs to compare: finding their per-image tables, naming them, and making sure that they are about
the same images and labels."""

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from mtkd_cd.core.car import DEFAULT_THRESHOLDS, CARPartition
from mtkd_cd.core.csv_files import ENCODING, read_columns
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import CURVES, REPORT, ROUTING_FILE, strategy_rank
from mtkd_cd.core.text import label_and_path, some
from mtkd_cd.evaluation import ImageTable, load_table
from mtkd_cd.evaluation.counts import COUNT_NAMES
from mtkd_cd.evaluation.image_table import TABLE_SUFFIXES
from mtkd_cd.paper.published import published_models
from mtkd_cd.reporting.archive import is_archive, read_archive
from mtkd_cd.reporting.curves import Curve, read_curves
from mtkd_cd.reporting.identity import (
    RunIdentity,
    identity_of_path,
    relabelled,
    thresholds_of,
)
from mtkd_cd.reporting.scored_run import Run

_NEXT_LINE = '\n  '
# What this package, and mmengine for it, leaves beside the tables of a work dir.
_OWN_FILES = (
    'report.json',
    'run.json',
    'data.json',
    'test.json',
    ROUTING_FILE,
    'curve.csv',
    CURVES,
    'matrix.json',
    'matrix.csv',
    'budget.json',
    'speed.json',
    'thresholds-*.json',
    'scalars.json',
    '[0-9]*_[0-9]*.json',
)


@dataclass(frozen=True)
class FoundRuns:
    """What :func:`collect_runs` found.

    Attributes:
        runs: In the order that they were given in.
        ignored: Files of the folders that were left out, with the reason. Files that this package
            writes beside its tables, such as records of runs, are not among them.
        curves: Validation curves of the trainings behind the runs.
    """

    runs: list[Run]
    ignored: list[tuple[Path, str]]
    curves: list[Curve] = field(default_factory=list)


def collect_runs(
    arguments: Sequence[str],
    thresholds: Sequence[float] | None = None,
    zero_division: float | None = None,
) -> FoundRuns:
    """Load what the user names.

    Args:
        arguments: Each ``[LABEL=]PATH`` of a per-image table, of an archive of tables, or of a
            folder, which stands for all tables below it; see
            :func:`~mtkd_cd.reporting.identity.relabelled`. Of a folder with ``report/<model>/``
            somewhere in it, only the tables there.
        thresholds: CAR ranges of every run; by default what a JSON table stores, a strategy like
            ``op@0.1`` says, or 0.05 and 0.2.
        zero_division: What CSV tables were scored with, 1 by default, and all runs are scored with
            now; by default a JSON table is scored as it was.

    Raises:
        UserError: A path does not exist; a folder without tables; a broken or empty table; two runs
            of one identity; ``zero_division`` outside [0, 1].
    """
    if zero_division is not None and not 0 <= zero_division <= 1:
        raise UserError(f'--zero-division {zero_division:g}: a number from 0 to 1 is needed')
    runs: list[Run] = []
    ignored: list[tuple[Path, str]] = []
    curves: list[Curve] = []
    for argument in arguments:
        label, path = _label_and_path(argument)
        files, others = _tables_below(path) if path.is_dir() else ([path], [])
        ignored += others
        several = path.is_dir() or is_archive(path)
        if is_archive(path):
            archive = read_archive(path)
            curves += archive.curves
            found = [_named(run, label, several, thresholds) for run in archive.runs]
        else:
            found = [_read_run(file, label, several, thresholds, zero_division) for file in files]
        if several:
            found.sort(key=lambda run: _rank(run.identity))
        runs += found
    if zero_division is not None:
        runs = [
            Run(run.identity, run.path, replace(run.table, zero_division=zero_division))
            for run in runs
        ]
    _refuse_repeats(runs)
    files_read = [run for run in runs if not is_archive(run.path)]
    return FoundRuns(runs, ignored, [*curves, *read_curves(files_read)])


def _label_and_path(argument: str) -> tuple[str, Path]:
    label, path = label_and_path(argument)
    if not os.path.exists(path):
        raise UserError(
            f'{path} does not exist (current folder: {os.getcwd()}): a run is a per-image table '
            f'({" or ".join(TABLE_SUFFIXES)}) or a '
            'folder with such tables, with a name as LABEL=PATH'
        )
    return label, Path(path)


def _tables_below(folder: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    tables, others = [], []
    for path in sorted(folder.rglob('*')):
        if (
            path.suffix not in TABLE_SUFFIXES
            or not path.is_file()
            or any(part.startswith('.') for part in path.relative_to(folder).parts)
        ):
            continue
        reason = _not_a_table(path)
        if reason is None:
            tables.append(path)
        else:
            others.append((path, reason))
    if not tables:
        reasons = some([f'{path.name}: {reason}' for path, reason in others], separator='; ')
        found = f' ({reasons})' if others else ''
        raise UserError(
            f'{folder} has no per-image table in it{found}: they come from mtkd-cd recipe, or '
            'mtkd-cd test CONFIG --out FILE'
        )
    others = [(path, f'no table: {reason}') for path, reason in others if not _is_own(path)]
    # A work dir holds tables of the validation split and of single tests too; what the recipe
    # reports is what there is to compare.
    reported = [path for path in tables if path.parent.parent.name == REPORT]
    unreported = [path for path in tables if path not in reported] if reported else []
    others += [
        (
            path,
            f'a table outside of the folder {REPORT}/: name it as a RUN of its own to compare it',
        )
        for path in unreported
    ]
    return reported or tables, others


def _is_own(path: Path) -> bool:
    return any(fnmatchcase(path.name, pattern) for pattern in _OWN_FILES)


def _not_a_table(path: Path) -> str | None:
    """Why a file is something else than a per-image table, good or broken; ``None`` for a table."""
    try:
        if path.suffix == '.csv':
            with open(path, encoding=ENCODING, newline='') as file:
                header, _ = read_columns(file)
            counts = [name for name in COUNT_NAMES if name in header]
            # An empty header is how an empty table is written.
            is_table = not any(header) or 'file' in header or len(counts) > 1
            return (
                None
                if is_table
                else f'its columns are {", ".join(header[:4])}{", ..." if len(header) > 4 else ""}'
            )
        text = path.read_text(encoding=ENCODING)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'cannot read {path}: {error}') from error
    return (
        None
        if '"images"' in text and '"zero_division"' in text
        else f'JSON with other content{_json_keys(text)}'
    )


def _json_keys(text: str) -> str:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        return ''
    return f' ({", ".join(list(content)[:4])})' if isinstance(content, dict) and content else ''


def _read_run(
    file: Path,
    label: str,
    whole_folder: bool,
    thresholds: Sequence[float] | None,
    zero_division: float | None,
) -> Run:
    """A table under the names that it holds, or, of a foreign table, those that its path has."""
    guess = identity_of_path(file)
    if file.suffix == '.csv':
        # A CSV names its ranges without their bounds: only the strategy's name can tell them.
        identity = relabelled(guess, label, whole_folder) if label else guess
        partition = CARPartition(
            thresholds_of(identity.strategy) or thresholds or DEFAULT_THRESHOLDS
        )
        scored_with = 1.0 if zero_division is None else zero_division
        return Run(identity, file, load_table(file, partition, scored_with))
    table = load_table(file)
    told = table.provenance
    seed = guess.seed if told.seed is None else told.seed
    guess = RunIdentity(told.model or guess.model, told.strategy or guess.strategy, seed)
    return _named(Run(guess, file, table), label, whole_folder, thresholds)


def _named(run: Run, label: str, whole_folder: bool, thresholds: Sequence[float] | None) -> Run:
    """The run under the user's label and with the user's thresholds, where these concern it."""
    identity = relabelled(run.identity, label, whole_folder) if label else run.identity
    # The recipe's tables of all strategies have the default's ranges. Of a variant those of its
    # specialists are wanted, which say where its cascade was to send an image.
    chosen = thresholds_of(identity.strategy) or thresholds
    partition = run.table.partition
    if chosen and tuple(chosen) != partition.thresholds:  # else the names are the table's own
        partition = CARPartition(chosen)
    return Run(identity, run.path, replace(run.table, partition=partition))


def _rank(identity: RunIdentity) -> tuple:
    known = list(published_models())
    place = known.index(identity.model) if identity.model in known else len(known)
    return (
        place,
        identity.model,
        strategy_rank(identity.strategy),
        -1 if identity.seed is None else identity.seed,
    )


def _refuse_repeats(runs: Iterable[Run]) -> None:
    seen: dict[RunIdentity, Run] = {}
    for run in runs:
        other = seen.setdefault(run.identity, run)
        if other is not run:
            raise UserError(
                f'two runs are {run.identity}: {other.path} and {run.path}. Leave one out, or name '
                f'one: LABEL={run.path} '
                '(LABEL: [MODEL/]STRATEGY[/seed<k>])'
            )


def aligned(runs: Sequence[Run], common: bool = False) -> list[Run]:
    """The runs with the images of all of them in one order, that of the first run.

    Args:
        runs: At least one.
        common: Compare on the images that all runs have, where they differ.

    Raises:
        UserError: Runs over different images (without ``common``), or without a common one; images
            whose labels differ between runs; runs with different scores of 0 / 0.
    """
    first = runs[0]
    for run in runs:
        if run.table.zero_division != first.table.zero_division:
            raise UserError(
                f'{first} counts 0 / 0 as {first.table.zero_division:g}, but {run} as '
                f'{run.table.zero_division:g}: score all alike with --zero-division'
            )
    shared = set(first.table.files).intersection(*(run.table.files for run in runs))
    if not common:
        _refuse_other_images(runs, len(shared))
    files = [file for file in first.table.files if file in shared]
    if not files:
        raise UserError(
            f'{first} and the other runs have no image in common: were they tested on the same '
            'data set?'
        )
    chosen = [Run(run.identity, run.path, _rows(run.table, files)) for run in runs]
    for run in chosen[1:]:
        _refuse_other_labels(chosen[0], run)
    return chosen


def restricted(runs: Sequence[Run], pattern: str) -> list[Run]:
    """The runs with the images alone whose names match a pattern, for instance ``levir/*``.

    Raises:
        UserError: A run without such an image.
    """
    chosen = []
    for run in runs:
        files = [file for file in run.table.files if fnmatchcase(file, pattern)]
        if not files:
            raise UserError(
                f'{run} has no image like {pattern!r}: its images are called '
                f'{some(list(run.table.files))}'
            )
        chosen.append(Run(run.identity, run.path, _rows(run.table, files)))
    return chosen


def _refuse_other_images(runs: Sequence[Run], num_shared: int) -> None:
    first = runs[0]
    wanted = set(first.table.files)
    differing = [run for run in runs[1:] if set(run.table.files) != wanted]
    if not differing:
        return
    lines = []
    for run in differing:
        found = set(run.table.files)
        lacking = [file for file in first.table.files if file not in found]
        parts = [f'lacks {some(lacking)}'] if lacking else []
        parts += [f'has besides {some(sorted(found - wanted))}'] if found - wanted else []
        lines.append(f'{run} with {len(found)} images {" and ".join(parts)}')
    advice = (
        f'--common compares on the {num_shared} images that all have'
        if num_shared
        else 'they have no image in common'
    )
    raise UserError(
        f'the runs are over different images. Compared with {first} with {len(wanted)} images:\n  '
        f'{some(lines, separator=_NEXT_LINE)}\n{advice}'
    )


def _rows(table: ImageTable, files: Sequence[str]) -> ImageTable:
    place = {file: row for row, file in enumerate(table.files)}
    rows = [place[file] for file in files]
    return replace(
        table,
        files=list(files),
        counts=table.counts[rows],
        coarse_cars=[table.coarse_cars[row] for row in rows],
        coarse_ranges=[table.coarse_ranges[row] for row in rows],
    )


def _refuse_other_labels(first: Run, run: Run) -> None:
    ours, others = _label_pixels(first.table.counts), _label_pixels(run.table.counts)
    rows = np.flatnonzero((ours != others).any(1))
    if not len(rows):
        return
    file, (changed, unchanged), (changed_too, unchanged_too) = (
        run.table.files[rows[0]],
        ours[rows[0]],
        others[rows[0]],
    )
    raise UserError(
        f'the labels of {len(rows)} of {len(ours)} images differ: {file} has {changed} changed and '
        f'{unchanged} unchanged pixels in '
        f'{first}, but {changed_too} and {unchanged_too} in {run}. Score both against the same '
        'labels, at the same size'
    )


def _label_pixels(counts: np.ndarray) -> np.ndarray:
    """(N, 2) changed and unchanged pixels of each label, from (N, 4) TP, FP, FN, TN."""
    return np.stack([counts[:, 0] + counts[:, 2], counts[:, 1] + counts[:, 3]], 1)
