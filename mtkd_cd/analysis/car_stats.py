"""How the CARs of a data set are distributed, what candidate thresholds make of them, and the
config lines for the chosen ones."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtkd_cd.analysis.check import splits_on_disk
from mtkd_cd.core.car import THRESHOLD_RULES, CARPartition, car_histogram, propose_thresholds
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import own_file
from mtkd_cd.core.strategy import Layout, Strategy
from mtkd_cd.core.text import csv_row, format_markdown_table
from mtkd_cd.data.car_index import label_cars
from mtkd_cd.data.images import read_header
from mtkd_cd.data.pairs import list_pairs, raise_if_any

Candidates = Mapping[str, Sequence[float]]
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(eq=False)
class SplitLabels:
    """The labels of one split.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        files: (N) paths of the labels; none where the split is published without.
        cars: (N,) their CARs.
        changed_pixels: (N,) float64, CAR times the pixels of the file: too large where a label has
            ignored pixels.
    """

    name: str
    files: list[str]
    cars: np.ndarray
    changed_pixels: np.ndarray


def read_splits(data_root: str, dataset_type: str | None = None) -> list[SplitLabels]:
    """The labels of every split on disk. CARs come from the index that training uses, so that a
    second call reads headers only.

    Args:
        data_root: Folder with ``train``, ``val``, ``test`` or with ``list/<split>.txt``.
        dataset_type: Class whose folder names, suffixes and label coding hold; by default the names
            of the folders tell.

    Raises:
        UserError: No such folder or no split in it; a file lacks its partner; a label is broken or
            of another coding; no label at all.
    """
    splits = []
    for name, dataset, folders, ann_file in splits_on_disk(data_root, dataset_type):
        pairs, problems = list_pairs(folders, ann_file, dataset.img_suffix, dataset.seg_map_suffix)
        raise_if_any(problems)
        files = [pair.label for pair in pairs if pair.label is not None]
        cars = label_cars(files, format_seg_map=dataset.format_seg_map)
        splits.append(split_labels(name, files, cars))
    if not any(split.files for split in splits):
        raise UserError(
            f'{data_root} has no label in any split, so there is no Change Area Ratio to look at'
        )
    return splits


def split_labels(name: str, files: Sequence[str], cars: np.ndarray) -> SplitLabels:
    """Labels whose CARs are known, with their changed pixels.

    Args:
        name: Of the split.
        files: (N) paths of the labels.
        cars: (N,) their CARs.
    """
    with ThreadPoolExecutor() as pool:
        sizes = np.array(list(pool.map(_num_pixels, files, chunksize=16)), np.float64)
    return SplitLabels(name, list(files), cars, cars * sizes)


def _num_pixels(path: str) -> int:
    with open(path, 'rb') as file:
        header = read_header(file)
    return header.width * header.height


def propose_for(
    splits: Sequence[SplitLabels], num_ranges: int
) -> tuple[str, dict[str, tuple[float, ...]]]:
    """Thresholds by each rule, for the images that specialists are trained on.

    Returns:
        The split they were made for: ``train``, where it has labels, else ``all splits``; and the
            thresholds by rule.

    Raises:
        UserError: Fewer than two ranges, or more of them than there are different CARs.
    """
    train = [split for split in splits if split.name == 'train' and split.files]
    used = train or splits
    cars, pixels = (
        np.concatenate([getattr(split, name) for split in used])
        for name in ('cars', 'changed_pixels')
    )
    return 'train' if train else 'all splits', propose_thresholds(cars, num_ranges, pixels)


def split_rows(splits: Sequence[SplitLabels]) -> list[dict[str, Any]]:
    """A dict per split that has labels: ``split``, ``images``, ``no_change`` (images of CAR 0),
    ``mean``, ``q05`` ... ``q95``, ``max``."""
    return [
        {
            'split': split.name,
            'images': len(split.cars),
            'no_change': int((split.cars == 0).sum()),
            'mean': float(split.cars.mean()),
            **{
                f'q{round(100 * share):02d}': float(np.quantile(split.cars, share))
                for share in _QUANTILES
            },
            'max': float(split.cars.max()),
        }
        for split in splits
        if split.files
    ]


def range_rows(splits: Sequence[SplitLabels], candidates: Candidates) -> list[dict[str, Any]]:
    """What each candidate makes of each split.

    Args:
        splits: Those without labels are left out.
        candidates: Thresholds by what they are.

    Returns:
        A dict per candidate, split and range: ``candidate``, ``thresholds``, ``split``, ``range``,
            ``low``, ``high``, ``images`` and
        ``changed_pixels`` with their shares of the split, ``images_share`` and
        ``changed_pixels_share`` in [0, 1].
    """
    rows = []
    for candidate, thresholds in candidates.items():
        partition = CARPartition(thresholds)
        for split in splits:
            if not split.files:
                continue
            index = partition.range_of(split.cars)
            pixels = np.bincount(index, split.changed_pixels, minlength=len(partition))
            for name, images, changed in zip(
                partition.names, partition.counts(split.cars).values(), pixels.tolist()
            ):
                low, high = partition.bounds(name)
                rows.append(
                    {
                        'candidate': candidate,
                        'thresholds': list(partition.thresholds),
                        'split': split.name,
                        'range': name,
                        'low': low,
                        'high': high,
                        'images': images,
                        'images_share': images / len(split.cars),
                        'changed_pixels': round(changed),
                        'changed_pixels_share': changed / max(pixels.sum(), 1),
                    }
                )
    return rows


def stats_text(splits: Sequence[SplitLabels], candidates: Candidates) -> str:
    """Quantiles and histogram of each split's CARs, then images and changed pixels in each range of
    each candidate, as tables."""
    summary = split_rows(splits)
    header = [
        'split',
        'images',
        'no change',
        'mean',
        *(f'{share:.0%}' for share in _QUANTILES),
        'largest',
    ]
    cells = [
        [
            row['split'],
            str(row['images']),
            str(row['no_change']),
            *(f'{value:.4f}' for value in list(row.values())[3:]),
        ]
        for row in summary
    ]
    parts = [f'CAR\n{format_markdown_table(header, cells)}']
    parts += [
        f'CAR in {split.name}\n{car_histogram(split.cars)}' for split in splits if split.files
    ]
    unlabelled = [split.name for split in splits if not split.files]
    parts += [f'No labels in {", ".join(unlabelled)}'] if unlabelled else []
    return '\n\n'.join(
        [
            *parts,
            *(
                _candidate_text(name, range_rows(splits, {name: candidates[name]}))
                for name in candidates
            ),
        ]
    )


def _candidate_text(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    partition = CARPartition(rows[0]['thresholds'])
    names = list(dict.fromkeys(row['split'] for row in rows))
    header = [
        'range',
        'CAR',
        *(f'{split} {what}' for split in names for what in ('images', '%', '% of change')),
    ]
    cells = []
    for range_name in partition.names:
        found = [row for row in rows if row['range'] == range_name]
        shares = [
            [str(row['images']), f'{row["images_share"]:.1%}', f'{row["changed_pixels_share"]:.1%}']
            for row in found
        ]
        cells.append(
            [
                range_name,
                partition.bounds_text(range_name),
                *(cell for share in shares for cell in share),
            ]
        )
    return (
        f'{name}: thresholds '
        f'{_spaced(partition.thresholds)}\n{format_markdown_table(header, cells)}'
    )


def _spaced(thresholds: Sequence[float]) -> str:
    return ' '.join(f'{threshold:.6g}' for threshold in thresholds)


def candidate_name(thresholds: Sequence[float]) -> str:
    """What thresholds are called that the user gave."""
    return f'given {_spaced(thresholds)}'


def config_lines(thresholds: Sequence[float]) -> dict[str, str]:
    """What to write below ``_base_`` in a config derived from one of the shipped ones.

    Returns:
        The lines by the folder of the config that they are for (``partition``, ``op``, ``mtkd``),
        those for each of these and for ``origin`` under ``report``; and, under ``recipe``, the
        command that does without any.
    """
    partition = CARPartition(thresholds)
    values = f'thresholds={partition.thresholds}'
    renamed = partition.names != CARPartition().names
    data = f'dict(dataset=dict({values}{f", range={partition.names[0]!r}" if renamed else ""}))'
    listed = ' '.join(map(repr, partition.thresholds))
    return {
        'recipe': f'mtkd-cd recipe MODEL --thresholds {listed}\n',
        'partition': f'train_dataloader = {data}\nval_dataloader = {data}\n',
        'op': _model_lines(partition, 'op'),
        'mtkd': _model_lines(partition, 'mtkd'),
        'report': f'val_evaluator = dict({values})\ntest_evaluator = dict({values})\n',
    }


def _model_lines(partition: CARPartition, kind: str) -> str:
    # Where the recipe keeps the specialists on these ranges; under the default's names there may
    # be others in partition/.
    layout = Layout('{{fileBasenameNoExtension}}')
    paths = layout.checkpoints(Strategy(kind, partition.thresholds))
    checkpoints = ''.join(f'        {name}={path!r},\n' for name, path in paths.items())
    return (
        f'model = dict(\n    thresholds={partition.thresholds},\n    checkpoints=dict(\n  '
        f'      _delete_=True,\n{checkpoints}    ),\n)\n'
    )


def config_text(proposals: Candidates) -> str:
    """The config lines of each proposal, for people to copy from."""
    parts = []
    for rule, thresholds in proposals.items():
        lines = config_lines(thresholds)
        places: dict[str, str] = {}  # those of equal lines together
        for folder in ('partition', 'op', 'mtkd'):
            places[lines[folder]] = ', '.join(
                filter(None, (places.get(lines[folder]), f'configs/{folder}/MODEL.py'))
            )
        places[lines['report']] = (
            'all of these and configs/origin/MODEL.py, for the scores by range'
        )
        parts += [f'# {_rule_text(rule)}: {CARPartition(thresholds)}', lines['recipe'].rstrip()]
        parts += [f'# or in {place}:\n{text.rstrip()}' for text, place in places.items()]
        parts.append('')
    return '\n'.join(parts)


def _rule_text(rule: str) -> str:
    return next((text for name, text in THRESHOLD_RULES.items() if name == rule), rule)


def save_stats(
    path: str | os.PathLike,
    splits: Sequence[SplitLabels],
    candidates: Candidates,
    proposals: Candidates,
) -> None:
    """Write what :func:`stats_text` shows for programs to read.

    Args:
        path: ``.json``: ``splits`` (with all CARs), ``ranges`` and, for each proposal, its
            thresholds and config lines; or ``.csv``: the rows of :func:`range_rows`, thresholds
            separated by spaces.
        splits: The data.
        candidates: All thresholds that were tried, those proposed among them.
        proposals: Thresholds by rule.

    Raises:
        UserError: Another suffix.
    """
    suffix = Path(path).suffix
    if suffix not in ('.json', '.csv'):
        raise UserError(
            f'{path}: the figures are written to a file .json or .csv, found the suffix {suffix!r}'
        )
    rows = range_rows(splits, candidates)
    if suffix == '.csv':
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator='\n')
        writer.writeheader()
        writer.writerows(
            csv_row({**row, 'thresholds': ' '.join(map(repr, row['thresholds']))}) for row in rows
        )
    cars = {split.name: split.cars.tolist() for split in splits}
    content = {
        'splits': [{**row, 'cars': cars[row['split']]} for row in split_rows(splits)],
        'ranges': rows,
        'proposals': {
            rule: {'thresholds': thresholds, 'config': config_lines(thresholds)}
            for rule, thresholds in proposals.items()
        },
    }
    with own_file(path, 'w') as file:
        file.write(text.getvalue() if suffix == '.csv' else json.dumps(content, indent=1) + '\n')
