"""The per-image table of a run, on disk and back; score tables as aligned Markdown for logs and
reports."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.evaluation.counts import COUNT_NAMES
from mtkd_cd.evaluation.scores import (
    CLASSES,
    MEAN_NAMES,
    SCORE_NAMES,
    CARBin,
    image_scores,
    label_cars,
    mean_scores,
    pooled_scores,
    predicted_cars,
    scores_by_quantile,
    scores_by_range,
)
from mtkd_cd.evaluation.statistics import CONFIDENCE, Interval, bootstrap_intervals

TABLE_SUFFIXES = ('.json', '.csv')
NUM_QUANTILES = 5
# As the paper heads its columns.
_HEADINGS = {'IoU': 'IoU', 'Recall': 'Rec', 'Precision': 'Prec', 'Fscore': 'Fscore'}
_MEAN_HEADINGS = [f'm{heading}' for heading in _HEADINGS.values()]


@dataclass(eq=False)
class ImageTable:
    """Confusion counts of every image of one run, and whatever derives from them.

    Attributes:
        files: Name of each image, see :func:`~mtkd_cd.evaluation.names.image_names`.
        counts: (N, 4) int64 TP, FP, FN, TN.
        coarse_cars: CAR that a cascade's origin predicted, by image; ``None`` where no cascade did.
        coarse_ranges: Name of the range that the cascade chose, by image; ``None`` likewise.
        partition: Ranges of the breakdown by CAR.
        zero_division: Score, as a fraction, of what is undefined (0 / 0).
    """

    files: list[str]
    counts: np.ndarray
    coarse_cars: list[float | None]
    coarse_ranges: list[str | None]
    partition: CARPartition = field(default_factory=CARPartition)
    zero_division: float = 1.0

    def __len__(self) -> int:
        return len(self.files)

    def means(self) -> dict[str, float]:
        """Per-image scores averaged over the images: the paper's figures, in percent."""
        return mean_scores(self.counts, self.zero_division)

    def pooled(self) -> dict[str, float]:
        """Scores of all pixels together, in percent."""
        return pooled_scores(self.counts, self.zero_division)

    def intervals(self) -> dict[str, Interval]:
        """:meth:`means` with 95 % bootstrap intervals, images resampled; the same each time."""
        return bootstrap_intervals(image_scores(self.counts, self.zero_division))

    def ranges(self) -> list[CARBin]:
        """Mean scores in each range of :attr:`partition`."""
        return scores_by_range(self.counts, self.partition, self.zero_division)

    def quantiles(self, num_bins: int = 5) -> list[CARBin]:
        """Mean scores in bins of equally many images, in ascending order of CAR."""
        return scores_by_quantile(self.counts, num_bins, self.zero_division)

    def rows(self) -> list[dict[str, Any]]:
        """A dict per image: ``file``, ``car``, ``pred_car``, ``range`` of the true CAR, ``TP`` ...
        ``TN``, the scores, ``coarse_car``
        and ``coarse_range``, which are ``None`` where no cascade wrote them."""
        cars = label_cars(self.counts)
        columns: dict[str, Sequence] = {
            'file': self.files,
            'car': cars.tolist(),
            'pred_car': predicted_cars(self.counts).tolist(),
            'range': [self.partition.names[index] for index in self.partition.range_of(cars)],
            **{name: self.counts[:, column].tolist() for column, name in enumerate(COUNT_NAMES)},
            **{
                name: values.tolist()
                for name, values in image_scores(self.counts, self.zero_division).items()
            },
            'coarse_car': self.coarse_cars,
            'coarse_range': self.coarse_ranges,
        }
        return [dict(zip(columns, row)) for row in zip(*columns.values())]

    def save(self, path: str | os.PathLike) -> None:
        """Write the table, in one piece or not at all.

        Args:
            path: ``.json`` (with the partition, ``zero_division``, the means, the bounds of their
                95 % intervals and the pooled scores) or ``.csv`` (the rows alone).

        Raises:
            UserError: Another suffix.
        """
        check_table_suffix(path)
        rows = self.rows()
        with atomic_write(path) as file:
            if Path(path).suffix == '.csv':
                writer = csv.DictWriter(file, rows[0] if rows else [], lineterminator='\n')
                writer.writeheader()
                writer.writerows(rows)
                return
            partition = {'thresholds': self.partition.thresholds, 'names': self.partition.names}
            intervals = (
                {name: [interval.low, interval.high] for name, interval in self.intervals().items()}
                if rows
                else {}
            )
            scores = {'means': self.means(), 'intervals': intervals, 'pooled': self.pooled()}
            json.dump(
                {**partition, 'zero_division': self.zero_division, **scores, 'images': rows},
                file,
                indent=1,
            )

    def report(self, num_quantiles: int = NUM_QUANTILES) -> str:
        """All figures as text: the paper's with their intervals, pooled ones beside them, both by
        class; then the breakdown by CAR.

        Args:
            num_quantiles: Bins of equally many images.
        """
        bins_header = ['', 'CAR', 'images', *_MEAN_HEADINGS]
        quantiles = [
            [b.name, f'{b.low:.4f} to {b.high:.4f}', *_bin_cells(b)]
            for b in self.quantiles(num_quantiles)
        ]
        ranges = [
            [b.name, self.partition.bounds_text(b.name), *_bin_cells(b)] for b in self.ranges()
        ]
        parts = {
            f'Scores of {len(self)} images, in percent': self._overall_tables(),
            'Per-image mean by CAR range': format_markdown_table(bins_header, ranges),
            'Per-image mean by CAR, equally many images in each bin': format_markdown_table(
                bins_header, quantiles
            ),
        }
        return '\n\n'.join(f'{title}:\n{table}' for title, table in parts.items())

    def _overall_tables(self) -> str:
        intervals, pooled = self.intervals(), self.pooled()
        classes = [
            [name if not row else '', *cells]
            for name in CLASSES
            for row, cells in enumerate(_figure_rows(intervals, pooled, '{}_' + name))
        ]
        notes = (
            'Per-image mean: each image scored by itself, then averaged over the images (the '
            "paper's figures); interval: bootstrap over "
            'the\nimages. Pooled: the pixels of all images scored together, as most of the LEVIR-CD literature reports; overall accuracy '
            f'{_score(pooled["aAcc"])}.'
        )
        tables = (
            format_markdown_table(['', *_MEAN_HEADINGS], _figure_rows(intervals, pooled, 'm{}')),
            format_markdown_table(['class', '', *_HEADINGS.values()], classes),
        )
        return '\n\n'.join((*tables, notes))


def _figure_rows(
    intervals: Mapping[str, Interval], pooled: Mapping[str, float], key: str
) -> list[list[str]]:
    keys = [key.format(name) for name in SCORE_NAMES]
    return [
        ['per-image mean', *(_score(intervals[key].mean) for key in keys)],
        [
            f'{CONFIDENCE:.0%} interval'.replace('%', ' %'),
            *(f'{intervals[key].low:.2f} to {intervals[key].high:.2f}' for key in keys),
        ],
        ['pooled', *(_score(pooled[key]) for key in keys)],
    ]


def _bin_cells(car_bin: CARBin) -> list[str]:
    return [str(car_bin.num_images), *(_score(car_bin.scores.get(name)) for name in MEAN_NAMES)]


def check_table_suffix(path: str | os.PathLike) -> None:
    """Refuse a path that no per-image table can be written to or read from.

    Raises:
        UserError: The suffix is neither ``.json`` nor ``.csv``.
    """
    if Path(path).suffix not in TABLE_SUFFIXES:
        raise UserError(
            f'{path}: a per-image table is a file {" or ".join(TABLE_SUFFIXES)}, found the suffix '
            f'{Path(path).suffix!r}'
        )


def load_table(
    path: str | os.PathLike, partition: CARPartition | None = None, zero_division: float = 1.0
) -> ImageTable:
    """Read a table that :meth:`ImageTable.save` wrote. Scores are computed again from the counts.

    Args:
        path: ``.json`` or ``.csv``.
        partition: Overrides the ranges of the table. A JSON table stores its own; a CSV names them
            without their bounds, and is read with the default ones.
        zero_division: What a CSV was scored with; a JSON table knows.

    Raises:
        UserError: The file is missing, unreadable or empty, lacks a column, holds something else
            than counts, names an image twice, or its stored mIoU doesn't follow from its counts, or
            its ranges are others than those it is read with by default.
    """
    check_table_suffix(path)
    stored: dict[str, Any] = (
        _read_json(path) if Path(path).suffix == '.json' else {'images': _read_csv(path)}
    )
    rows = stored['images']
    missing = [
        name for name in ('file', *COUNT_NAMES) if any(row.get(name) is None for row in rows)
    ]
    if missing or not rows:
        problem = f'lacks the column {", ".join(missing)}' if missing else 'holds no image'
        raise UserError(f'{path} {problem}: a per-image table comes from tools/test.py --out FILE')
    own_partition = (
        CARPartition(stored['thresholds'], stored['names'])
        if 'thresholds' in stored
        else CARPartition()
    )
    table = ImageTable(
        files=[row['file'] for row in rows],
        counts=np.array(
            [[_count(path, row, name) for name in COUNT_NAMES] for row in rows], np.int64
        ),
        coarse_cars=[_number(path, row, 'coarse_car') for row in rows],
        coarse_ranges=[row.get('coarse_range') or None for row in rows],
        partition=partition or own_partition,
        zero_division=stored.get('zero_division', zero_division),
    )
    _check_consistency(path, rows, table)
    if partition is None:
        _check_ranges(path, rows, table)
    return table


def _read_json(path: str | os.PathLike) -> dict[str, Any]:
    try:
        stored = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f'{path} is not valid JSON ({error}): write the table again') from error
    images = stored.get('images') if isinstance(stored, dict) else None
    if not isinstance(images, list) or not all(isinstance(row, dict) for row in images):
        raise UserError(
            f"{path} has no list 'images' of rows: a per-image table comes from tools/test.py "
            '--out FILE'
        )
    return stored


def _read_csv(path: str | os.PathLike) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(_read_text(path), newline='')))


def _read_text(path: str | os.PathLike) -> str:
    try:
        return Path(path).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'cannot read the per-image table {path}: {error}') from error


def _count(path: str | os.PathLike, row: Mapping[str, Any], name: str) -> int:
    count = _number(path, row, name)
    if count is None or count < 0 or not count.is_integer():
        raise UserError(
            f'{path}, image {row["file"]}: {name} is a number of pixels, found {row[name]!r}'
        )
    return int(count)


def _number(path: str | os.PathLike, row: Mapping[str, Any], name: str) -> float | None:
    text = row.get(name)
    if text is None or text == '':
        return None
    try:
        return float(text)
    except (TypeError, ValueError):
        raise UserError(
            f'{path}, image {row["file"]}: {name} is a number, found {text!r}'
        ) from None


def _check_consistency(
    path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], table: ImageTable
) -> None:
    file, repeats = Counter(table.files).most_common(1)[0]
    if repeats > 1:
        raise UserError(f'{path} holds {file} {repeats} times: one row per image is wanted')
    for row, score in zip(rows, image_scores(table.counts, table.zero_division)['mIoU']):
        stored = _number(path, row, 'mIoU')
        if stored is not None and abs(stored - score) > 0.01:
            raise UserError(
                f'{path}, image {row["file"]}: the stored mIoU {stored:.2f} is not the {score:.2f} '
                'that its counts give with '
                f'zero_division={table.zero_division:g}: pass the zero_division that the run used, '
                'or write the table again'
            )


def _check_ranges(
    path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], table: ImageTable
) -> None:
    cars = label_cars(table.counts)
    for row, car, index in zip(rows, cars.tolist(), table.partition.range_of(cars)):
        name = table.partition.names[index]
        if row.get('range') not in (None, '', name):
            raise UserError(
                f'{path}, image {row["file"]}: its CAR {car:.4f} is called {row["range"]!r}, but '
                f'lies in {name!r} of {table.partition}: '
                'name the thresholds that the run used'
            )


def format_markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns, readable as plain text too; the first column to the
    left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
    cells = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        for row in (header, *rows)
    ]
    return '\n'.join(f'| {" | ".join(line)} |' for line in (cells[0], rule, *cells[1:]))


def format_score_table(
    runs: Mapping[str, Mapping[str, float]], columns: Sequence[str] = MEAN_NAMES, corner: str = ''
) -> str:
    """Scores of several runs as a Markdown table; from the second row on with the difference to the
    first: ``75.35 (+0.50)``.

    Args:
        runs: Scores in percent by column name, by run. A missing score is shown as ``-``.
        columns: Which scores, in order.
        corner: Heading of the first column.
    """
    first = next(iter(runs.values()), {})
    rows = [
        [
            name,
            *(_score(scores.get(column), first.get(column) if row else None) for column in columns),
        ]
        for row, (name, scores) in enumerate(runs.items())
    ]
    return format_markdown_table([corner, *columns], rows)


def _score(value: float | None, reference: float | None = None) -> str:
    if value is None:
        return '-'
    # Adding zero turns a rounded -0.0 into 0.0.
    return (
        f'{value:.2f}'
        if reference is None
        else f'{value:.2f} ({round(value - reference, 2) + 0.0:+.2f})'
    )
