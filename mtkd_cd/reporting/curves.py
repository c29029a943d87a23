"""Validation curves of the trainings behind the runs: the file ``curves.csv`` that the recipe
writes beside its per-image tables."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import CURVES
from mtkd_cd.core.text import from_csv_text
from mtkd_cd.reporting.scored_run import Run

COLUMNS = ('strategy', 'range', 'iter', 'mIoU')


@dataclass(frozen=True)
class Curve:
    """The validations of one training.

    Attributes:
        model: Name of the model.
        strategy: ``origin``, ``continued``, ``partition``, ``mtkd``, with ``@`` and a variant where
            it is one.
        range_name: CAR range of a specialist, which validates on the images of its range; else
            empty.
        seed: ``None`` where the path names none.
        iters: Iteration of each validation, increasing.
        scores: mIoU in percent.
    """

    model: str
    strategy: str
    range_name: str
    seed: int | None
    iters: tuple[int, ...]
    scores: tuple[float, ...]


def read_curves(runs: Iterable[Run]) -> list[Curve]:
    """The curves beside the tables of some runs, in the order of the runs and of the files; none
    where there are no files.

    Raises:
        UserError: A file lacks a column or holds something else than numbers.
    """
    sources = dict.fromkeys(
        (run.path.with_name(CURVES), run.identity.model, run.identity.seed) for run in runs
    )
    curves: list[Curve] = []
    for path, model, seed in sources:
        points: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for row in _rows(path) if path.is_file() else ():
            key = from_csv_text(row['strategy']), from_csv_text(row['range'])
            points.setdefault(key, []).append(_point(path, row))
        for (strategy, range_name), found in points.items():
            iters, scores = zip(*sorted(found))
            curves.append(Curve(model, strategy, range_name, seed, iters, scores))
    return curves


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding='utf-8', newline='') as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            rows = [] if missing else list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'cannot read the validation curves {path}: {error}') from None
    if missing:
        raise UserError(
            f'{path} lacks the column {", ".join(missing)}: validation curves come from '
            'mtkd-cd recipe; move it away'
        )
    for row in rows:
        if None in row or None in row.values():
            raise UserError(f'{path}: a row has not as many cells as the first line: {row}')
    return rows


def _point(path: Path, row: dict[str, str]) -> tuple[int, float]:
    try:
        return int(row['iter']), float(row['mIoU'])
    except (TypeError, ValueError):
        raise UserError(
            f'{path}: iter and mIoU are numbers, found {row["iter"]!r} and {row["mIoU"]!r}'
        ) from None
