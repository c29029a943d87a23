"""Opens every file of a data set on disk and reports what is there and what is wrong with it."""

import hashlib
import io
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tqdm import tqdm

from mtkd_cd.core.car import CARPartition, car_histogram
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import own_file
from mtkd_cd.core.text import some
from mtkd_cd.data.car_index import car_of_file
from mtkd_cd.data.images import RULE_OPTION, orientation_problem, read_header, read_stored
from mtkd_cd.data.labels import check_not_black_and_white, label_coding
from mtkd_cd.data.layout import LAYOUTS, SPLITS, DatasetLayout, layout_of_class
from mtkd_cd.data.pairs import (
    Pair,
    PairFolders,
    Problem,
    list_pairs,
    size_problems,
)
from mtkd_cd.data.radiometry import from_spec, no_rule_error, thinned
from mtkd_cd.drawing.car_histogram import draw_car_histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# One class for each set of folder names that there is.
_TOLD_BY_FOLDERS = (
    'CDDataset',
    'SVCD_Dataset',
    'DSIFN_Dataset',
    'CLCD_Dataset',
    'S2Looking_Dataset',
)
# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = {'train': '#0072B2', 'val': '#E69F00', 'test': '#009E73'}
_LINES = (('#CC79A7', '-'), ('#D55E00', '-.'), ('#56B4E9', ':'))
FIGURE_SUFFIXES = ('.png', '.pdf', '.svg')


@dataclass
class PairFacts:
    """What was found in the files of one pair; ``None`` and missing entries where a file could not
    be read.

    Attributes:
        pair: Its files.
        sizes: {path: (width, height)} of the images and the label.
        modes: ``RGB``, ``L`` for gray, or the bands and type of each image.
        digests: Hash of each image's pixels.
        coding: Of the label, as ``label_coding`` names it.
        car: CAR of the label.
    """

    pair: Pair
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    modes: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    coding: str | None = None
    car: float | None = None


@dataclass
class SplitReport:
    """What one split holds, and one problem per bad file."""

    name: str
    pairs: list[PairFacts] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def cars(self) -> np.ndarray:
        """(N,) CARs of the readable labels."""
        return np.array([facts.car for facts in self.pairs if facts.car is not None], np.float64)


def check_dataset(
    data_root: str,
    dataset_type: str | None = None,
    progress: bool = False,
    *,
    bands: Sequence[int] | None = None,
    radiometry: Any = None,
) -> list[SplitReport]:
    """Open every file of a data set, with the readers that training uses.

    It looks for missing partners, unreadable files, and unequal sizes and orientations. It looks
    for images of other bands, or of values that need a radiometry rule, for unknown and mixed label
    codings, and for splits without any change. It looks for pairs that are in two splits: the same
    pixels, whatever the names of the files and the order of the dates.

    Args:
        data_root: Folder with ``train``, ``val``, ``test`` or with ``list/<split>.txt``.
        dataset_type: Class whose folder names, suffixes and label coding hold; by default the names
            of the folders tell.
        progress: Show a progress bar.
        bands: Those that training takes, see :func:`~mtkd_cd.data.images.read_image`.
        radiometry: The rule that training uses.

    Returns:
        A report for each split that is there.

    Raises:
        UserError: ``data_root`` does not exist or holds no split; an unknown class.
    """
    needs_rule = radiometry is None or from_spec(radiometry).name == 'identity'
    reports = [
        _check_split(*split, progress, bands, needs_rule)
        for split in splits_on_disk(data_root, dataset_type)
    ]
    _add_duplicates(reports)
    _add_odd_codings(reports)
    return reports


def splits_on_disk(
    data_root: str, dataset_type: str | None
) -> list[tuple[str, DatasetLayout, PairFolders, str]]:
    """Name, layout, folders and list file of each split that exists.

    Args:
        data_root: Folder with ``train``, ``val``, ``test`` or with ``list/<split>.txt``.
        dataset_type: Class whose folder names, suffixes and label coding hold; by default the names
            of the folders tell.

    Raises:
        UserError: ``data_root`` does not exist or holds no split; an unknown class.
    """
    if not os.path.isdir(data_root):
        raise UserError(
            f'data set folder {data_root} does not exist (current folder: {os.getcwd()})'
        )
    if dataset_type is None:
        layouts = [
            replace(LAYOUTS[name], img_suffix='', seg_map_suffix='') for name in _TOLD_BY_FOLDERS
        ]
    else:
        layouts = [layout_of_class(dataset_type)]
    found = []
    for layout in layouts:
        places = ((split, layout.place(data_root, split)) for split in SPLITS)
        found.append([(split, layout, *place) for split, place in places if place])
    # Several layouts share the names of their image folders: the label folder tells them apart.
    best = max(
        found,
        key=lambda splits: (
            any(os.path.isdir(folders.label or '') for _, _, folders, _ in splits),
            len(splits),
        ),
    )
    if best:
        return best
    folders = ', '.join(
        f'<split>/{{{",".join(filter(None, layout.folders))}}}' for layout in layouts
    )
    present = ', '.join(sorted(os.listdir(data_root))[:10]) or 'nothing'
    raise UserError(
        f'{data_root} holds no split {", ".join(SPLITS)}: looked for {folders} and '
        f'list/<split>.txt, found {present}'
    )


def _check_split(
    name: str,
    layout: DatasetLayout,
    folders: PairFolders,
    ann_file: str,
    progress: bool,
    bands: Sequence[int] | None,
    needs_rule: bool,
) -> SplitReport:
    report = SplitReport(name)
    try:
        pairs, report.problems = list_pairs(
            folders, ann_file, layout.img_suffix, layout.seg_map_suffix
        )
    except UserError as error:
        report.problems.append(Problem(ann_file or os.path.dirname(folders.date_a), str(error)))
        return report
    with ThreadPoolExecutor() as pool:
        inspected = pool.map(
            lambda pair: _inspect(pair, layout.format_seg_map, bands, needs_rule), pairs
        )
        for facts, problems in tqdm(
            inspected,
            f'opening {report.name}',
            len(pairs),
            unit='pair',
            leave=False,
            disable=not progress,
        ):
            report.pairs.append(facts)
            report.problems += problems
    if len(report.cars) > 1 and not report.cars.any():
        report.problems.append(
            Problem(
                str(folders.label),
                'no label has a changed pixel: are these the labels, and is their coding right?',
            )
        )
        if layout.format_seg_map is None:
            labels = [facts.pair.label for facts in report.pairs if facts.car is not None]
            try:
                check_not_black_and_white([label for label in labels if label is not None])
            except UserError as error:
                report.problems.append(Problem(str(folders.label), str(error)))
    return report


def _inspect(
    pair: Pair, format_seg_map: str | None, bands: Sequence[int] | None, needs_rule: bool
) -> tuple[PairFacts, list[Problem]]:
    facts, problems, turns = PairFacts(pair), [], []
    for path in (pair.date_a, pair.date_b):
        try:
            pixels, _, header = read_stored(path, bands)
            if needs_rule and pixels.dtype != np.uint8:
                sample = {'it': thinned(pixels, band_axis=-1)}
                raise no_rule_error(f'image {path}', sample, RULE_OPTION)
        except UserError as error:
            problems.append(Problem(path, str(error).removeprefix(f'image {path} ')))
            continue
        facts.modes.append(_mode(pixels))
        facts.sizes[path] = (pixels.shape[1], pixels.shape[0])
        facts.digests.append(hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest())
        turns.append(header.orientation)
    if len(set(turns)) > 1:
        text = orientation_problem(turns, (pair.date_a, pair.date_b))
        problems.append(Problem(pair.date_a, text))
    if pair.label is not None:
        try:
            facts.car = car_of_file(pair.label, format_seg_map=format_seg_map)
            facts.coding = label_coding(pair.label)
            with open(pair.label, 'rb') as file:
                facts.sizes[pair.label] = read_header(file).size
        except UserError as error:
            problems.append(Problem(pair.label, str(error).removeprefix(f'label {pair.label} ')))
    return facts, problems + size_problems(facts.sizes, pair)


def _mode(pixels: np.ndarray) -> str:
    channels = pixels.shape[2]
    if pixels.dtype == np.uint8 and channels in (1, 3):
        return 'L' if channels == 1 else 'RGB'
    return f'{channels} x {pixels.dtype}'


def _add_duplicates(reports: Sequence[SplitReport]) -> None:
    first_place: dict[tuple[str, ...], tuple[str, str]] = {}
    for report in reports:
        for facts in report.pairs:
            if len(facts.digests) == 2:
                split, path = first_place.setdefault(
                    tuple(sorted(facts.digests)), (report.name, facts.pair.date_a)
                )
                if split != report.name:
                    report.problems.append(
                        Problem(facts.pair.date_a, f'the same pair is in split {split}: {path}')
                    )


def _add_odd_codings(reports: Sequence[SplitReport]) -> None:
    """A few 0 / 1 labels among 0 / 255 ones, or the reverse, are a mistake: noise taken for change,
    or two data sets mixed."""
    groups: dict[bool, list[tuple[SplitReport, PairFacts]]] = {True: [], False: []}
    for report in reports:
        for facts in report.pairs:
            # Without change, 255 is ignored under one coding and change under the other.
            if facts.coding not in (None, 'all 0') and not (
                facts.coding == '0/255' and facts.car == 0
            ):
                groups[facts.coding in ('0/1', '0/1/255')].append((report, facts))
    odd, usual = sorted(groups.values(), key=len)
    for report, facts in odd:
        text = (
            f'is coded {facts.coding}, but {len(usual)} other labels are coded '
            f'{usual[0][1].coding}: bring all to one coding'
        )
        report.problems.append(Problem(str(facts.pair.label), text))


def report_text(reports: Sequence[SplitReport], partition: CARPartition) -> str:
    """The reports as a table, followed by the CAR histogram of each split."""
    rows = [
        [
            'split',
            'pairs',
            'sizes',
            'images',
            'labels',
            'CAR mean',
            'median',
            'no change',
            *partition.names,
            'problems',
        ]
    ]
    for report in reports:
        cars = report.cars
        shares = (
            [f'{cars.mean():.1%}', f'{np.median(cars):.1%}', f'{(cars == 0).mean():.1%}']
            if len(cars)
            else ['-'] * 3
        )
        rows.append(
            [
                report.name,
                str(len(report.pairs)),
                _counts(
                    f'{size[0]} x {size[1]}'
                    for facts in report.pairs
                    if (size := facts.sizes.get(facts.pair.date_a))
                ),
                _counts(mode for facts in report.pairs for mode in facts.modes),
                _counts(facts.coding for facts in report.pairs if facts.coding),
                *shares,
                *map(str, partition.counts(cars).values()),
                str(len(report.problems)),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    table = [
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    ]
    histograms = [
        f'\nCAR in {report.name}\n{car_histogram(report.cars, partition)}'
        for report in reports
        if len(report.cars)
    ]
    return '\n'.join([*table, *histograms])


def _counts(values: Iterable[str], most: int = 3) -> str:
    """``a (10), b (2)``; the number is left out where there is one value only."""
    counts = Counter(values).most_common()
    if len(counts) <= 1:
        return counts[0][0] if counts else '-'
    return some((f'{value} ({count})' for value, count in counts), most)


class SplitCARs(Protocol):
    """Whatever has the CARs of a split."""

    name: str

    @property
    def cars(self) -> np.ndarray:
        """(N,) CARs of the labels."""


def draw_car_histograms(
    splits: Sequence[SplitCARs],
    partition: CARPartition,
    path: str | os.PathLike,
    others: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Draw the CAR histogram of each split that has labels, on a logarithmic axis, and the
    thresholds in it.

    Args:
        splits: They get an axis each.
        partition: Its thresholds are dashed, its counts are in the titles.
        path: File to write; its suffix is the format, ``.png``, ``.pdf`` or ``.svg``.
        others: More thresholds by what they are, drawn in other colours and named in a legend.

    Raises:
        UserError: Another suffix.
        OSError: The file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FIGURE_SUFFIXES:
        raise UserError(
            f'{path}: a figure is a file {", ".join(FIGURE_SUFFIXES)}, found the suffix {suffix!r}'
        )
    splits = [split for split in splits if len(split.cars)]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.8 + 2.2 * max(len(splits), 1)), layout='constrained')
    axes = figure.subplots(max(len(splits), 1), sharex=True, squeeze=False)[:, 0]
    for axis, split in zip(axes, splits):
        _draw_histogram(axis, split, partition)
        for (name, thresholds), (colour, style) in zip(
            (others or {}).items(), itertools.cycle(_LINES)
        ):
            for number, threshold in enumerate(thresholds):
                axis.axvline(
                    np.log10(threshold),
                    color=colour,
                    linestyle=style,
                    linewidth=2,
                    label=name if number == 0 else None,
                )
    axes[-1].set_xlabel('Change Area Ratio of the label')
    if others:
        figure.legend(
            *axes[0].get_legend_handles_labels(),
            loc='outside lower left',
            ncols=len(others),
            fontsize=8,
            frameon=False,
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix[1:], dpi=150)
    with own_file(path) as file:
        file.write(buffer.getvalue())


def _draw_histogram(axis: 'Axes', split: SplitCARs, partition: CARPartition) -> None:
    cars = split.cars
    draw_car_histogram(axis, {split.name: (cars, _COLOURS[split.name])}, partition)
    ranges = ', '.join(f'{name} {count}' for name, count in partition.counts(cars).items())
    axis.set_title(
        f'{split.name}: {len(cars)} labels ({ranges}; dashed: thresholds)', loc='left', fontsize=10
    )
    axis.set_ylabel('labels')
    axis.spines[['top', 'right']].set_visible(False)
