"""The per-image table of a run: confusion counts by image, what the run was, on disk and back."""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

import numpy as np

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.csv_files import ENCODING, read_csv
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.text import csv_row, format_markdown_table, from_csv_text
from mtkd_cd.evaluation.counts import COUNT_NAMES
from mtkd_cd.evaluation.scores import (
    CLASSES,
    MEAN_NAMES,
    SCORE_NAMES,
    CARBin,
    image_scores,
    mean_scores,
    pooled_scores,
    predicted_cars,
    scores_by_quantile,
    scores_by_range,
    true_cars,
)
from mtkd_cd.evaluation.statistics import CONFIDENCE, Interval, bootstrap_intervals
from mtkd_cd.version import __version__

TABLE_SUFFIXES = ('.json', '.csv')
NUM_QUANTILES = 5
_MOST_PIXELS = 2**53  # what a float holds exactly
_TEXTS = ('file', 'range', 'coarse_range')  # the columns of a CSV that hold no numbers
_THOUSANDS = re.compile(r'\d{1,3}([.,]\d{3})+')
# As the paper heads its columns.
_HEADINGS = {'IoU': 'IoU', 'Recall': 'Rec', 'Precision': 'Prec', 'Fscore': 'Fscore'}
_MEAN_HEADINGS = [f'm{heading}' for heading in _HEADINGS.values()]


@dataclass(frozen=True)
class Provenance:
    """Which run a table is of. What is not known is ``None``.

    Attributes:
        model: Name of the model's config, ``changer_mitb0``.
        strategy: ``origin``, ``op@0.1+validated``, ``partition/small``, ...
        seed: Of the training.
        dataset: Name of the data set and its split, ``JL1-CD/test``.
        version: Of this package, when the table was made.
        precision: In what the network computed, where that is not float32.
    """

    model: str | None = None
    strategy: str | None = None
    seed: int | None = None
    dataset: str | None = None
    version: str | None = __version__
    precision: str | None = None

    def __post_init__(self) -> None:
        wanted = {'seed': int}
        for item in fields(self):
            value, kind = getattr(self, item.name), wanted.get(item.name, str)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise UserError(
                    f'provenance of a per-image table: {item.name} is '
                    f'{"an integer" if kind is int else "a text"} or None, found {value!r}'
                )

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> 'Provenance':
        """From a dict of its fields. Fields that this version does not know are left out.

        Raises:
            UserError: A value of another kind.
        """
        if not isinstance(stored, Mapping):
            raise UserError(f'provenance is a dict of {_FIELDS}, found {stored!r}')
        known = {item.name for item in fields(cls)}
        return cls(**{key: value for key, value in stored.items() if key in known})

    def as_dict(self) -> dict[str, Any]:
        """What :meth:`of` reads; without ``precision`` where that is ``None``."""
        found = asdict(self)
        if self.precision is None:
            del found['precision']
        return found


_FIELDS = ', '.join(item.name for item in fields(Provenance))
# Of a table that does not say what it is: a CSV, or a JSON of an earlier version.
UNKNOWN = Provenance(version=None)


@dataclass(eq=False)
class ImageTable:
    """Confusion counts of every image of one run, and whatever derives from them.

    Attributes:
        files: Name of each image, see :func:`~mtkd_cd.evaluation.image_names.image_names`.
        counts: (N, 4) int64 TP, FP, FN, TN.
        coarse_cars: CAR that a cascade's origin predicted, by image; ``None`` where no cascade did.
        coarse_ranges: Name of the range that the cascade chose, by image; ``None`` likewise.
        partition: Ranges of the breakdown by CAR.
        zero_division: Score, as a fraction, of what is undefined (0 / 0).
        provenance: Which run the counts are of.
    """

    files: list[str]
    counts: np.ndarray
    coarse_cars: list[float | None]
    coarse_ranges: list[str | None]
    partition: CARPartition = field(default_factory=CARPartition)
    zero_division: float = 1.0
    provenance: Provenance = Provenance()

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
        """A dict per image.

        Its keys are ``file``, ``car``, ``pred_car``, ``range`` of the true CAR, ``TP`` ... ``TN``,
        the scores, ``coarse_car`` and ``coarse_range``; the last two are ``None`` where no cascade
        wrote them.
        """
        cars = true_cars(self.counts)
        columns: dict[str, Sequence] = {
            'file': self.files,
            'car': cars.tolist(),
            'pred_car': predicted_cars(self.counts).tolist(),
            'range': [self.partition.names[index] for index in self.partition.range_of(cars)],
        }
        for column, name in enumerate(COUNT_NAMES):
            columns[name] = self.counts[:, column].tolist()
        for name, values in image_scores(self.counts, self.zero_division).items():
            columns[name] = values.tolist()
        columns['coarse_car'] = self.coarse_cars
        columns['coarse_range'] = self.coarse_ranges
        return [dict(zip(columns, row)) for row in zip(*columns.values())]

    def save(self, path: str | os.PathLike) -> None:
        """Write the table, in one piece or not at all.

        Args:
            path: ``.json`` (with :attr:`provenance`, the partition, ``zero_division``, the means,
                the bounds of their 95 % intervals and the pooled scores) or ``.csv`` (the rows
                alone).

        Raises:
            UserError: Another suffix.
        """
        check_table_suffix(path)
        with atomic_write(path) as file:
            if Path(path).suffix == '.csv':
                self._write_csv(file)
            else:
                json.dump(self.as_dict(), file, indent=1)

    def _write_csv(self, file: IO[str]) -> None:
        rows = [csv_row(row) for row in self.rows()]
        writer = csv.DictWriter(file, rows[0] if rows else [], lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)

    def as_dict(self) -> dict[str, Any]:
        """What :meth:`save` writes as JSON."""
        intervals = self.intervals() if len(self) else {}
        return {
            'provenance': self.provenance.as_dict(),
            'thresholds': self.partition.thresholds,
            'names': self.partition.names,
            'zero_division': self.zero_division,
            'means': self.means(),
            'intervals': {name: [bounds.low, bounds.high] for name, bounds in intervals.items()},
            'pooled': self.pooled(),
            'images': self.rows(),
        }

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
            "paper's figures); interval: bootstrap over the\nimages. Pooled: the pixels of all "
            'images scored together, as most of the LEVIR-CD literature reports; overall accuracy '
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


def is_table(path: str | os.PathLike) -> bool:
    """Whether a file is one that :meth:`ImageTable.save` wrote."""
    try:
        load_table(path)
    except (UserError, OSError):
        return False
    return True


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
        raise UserError(f'{path} {problem}: a per-image table comes from mtkd-cd test --out FILE')
    table = ImageTable(
        files=[_text(path, row, 'file') for row in rows],
        counts=np.array(
            [[_count(path, row, name) for name in COUNT_NAMES] for row in rows], np.int64
        ),
        coarse_cars=[_number(path, row, 'coarse_car') for row in rows],
        coarse_ranges=[
            _text(path, row, 'coarse_range') if row.get('coarse_range') else None for row in rows
        ],
        partition=partition or _partition(path, stored),
        zero_division=_zero_division(path, stored.get('zero_division', zero_division)),
        provenance=_provenance(path, stored),
    )
    _check_consistency(path, rows, table)
    if partition is None:
        _check_ranges(path, rows, table)
    return table


def _partition(path: str | os.PathLike, stored: Mapping[str, Any]) -> CARPartition:
    if 'thresholds' not in stored:
        return CARPartition()
    try:
        return CARPartition(stored['thresholds'], stored.get('names'))
    except UserError as error:
        raise UserError(f'{path}: {error}') from None


def _zero_division(path: str | os.PathLike, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise UserError(f'{path}: zero_division is a number from 0 to 1, found {value!r}')
    return float(value)


def _provenance(path: str | os.PathLike, stored: Mapping[str, Any]) -> Provenance:
    if 'provenance' not in stored:
        return UNKNOWN
    try:
        return Provenance.of({'version': None, **stored['provenance']})
    except (UserError, TypeError) as error:
        raise UserError(f'{path}: {error}') from None


def _read_json(path: str | os.PathLike) -> dict[str, Any]:
    text = _read_text(path)
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is not valid JSON ({error}): write the table again') from error
    images = stored.get('images') if isinstance(stored, dict) else None
    if not isinstance(images, list) or not all(isinstance(row, dict) for row in images):
        raise UserError(
            f"{path} has no list 'images' of rows: a per-image table comes from mtkd-cd test "
            '--out FILE'
        )
    return stored


def _read_csv(path: str | os.PathLike) -> list[dict[str, Any]]:
    try:
        table = read_csv(io.StringIO(_read_text(path), newline=''), str(path))
    except csv.Error as error:
        raise UserError(f'{path} is no CSV table ({error}): write the table again') from None
    rows = [row for _, row in table.rows]
    for row in rows:
        for name in set(table.header) - set(_TEXTS):
            if table.delimiter == ';':  # where a comma is the sign of decimals
                row[name] = row[name].replace(',', '.')
            if name in COUNT_NAMES and _THOUSANDS.fullmatch(row[name].strip()):
                raise UserError(
                    f'{path}, image {row.get("file")}: {name} is a number of pixels, found '
                    f'{row[name]!r}, which may mean thousands: write it without a sign in between'
                )
        for name in ('file', 'coarse_range'):
            if row.get(name):
                row[name] = from_csv_text(row[name])
    return rows


def _read_text(path: str | os.PathLike) -> str:
    try:
        return Path(path).read_text(encoding=ENCODING)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'cannot read the per-image table {path}: {error}') from error


def _count(path: str | os.PathLike, row: Mapping[str, Any], name: str) -> int:
    count = _number(path, row, name)
    if count is None or not 0 <= count <= _MOST_PIXELS or not count.is_integer():
        raise UserError(
            f'{path}, image {row["file"]}: {name} is a number of pixels, found {row[name]!r}'
        )
    return int(count)


def _text(path: str | os.PathLike, row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value or not _is_writable(value):
        raise UserError(f'{path}: {name} of an image is a text, found {value!r}')
    return value


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(path: str | os.PathLike, row: Mapping[str, Any], name: str) -> float | None:
    text = row.get(name)
    if text is None or text == '':
        return None
    try:
        return float(text)
    except (TypeError, ValueError, OverflowError):
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
    cars = true_cars(table.counts)
    for row, car, index in zip(rows, cars.tolist(), table.partition.range_of(cars)):
        name = table.partition.names[index]
        if row.get('range') not in (None, '', name):
            raise UserError(
                f'{path}, image {row["file"]}: its CAR {car:.4f} is called {row["range"]!r}, but '
                f'lies in {name!r} of {table.partition}: '
                'name the thresholds that the run used'
            )


def _score(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'
