"""The predictions of several runs beside each other, for a paper's figures (arXiv:2502.13407,
figures 4 and 9)."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from mtkd_cd.analysis.check import splits_on_disk
from mtkd_cd.core.car import IGNORE_INDEX, change_area_ratio
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import OutputFolder
from mtkd_cd.core.text import did_you_mean, label_and_path, some
from mtkd_cd.data.labels import read_label
from mtkd_cd.data.pairs import IMAGE_SUFFIXES, Pair, list_pairs, raise_if_any
from mtkd_cd.drawing.error_map import (
    OUTCOME_COLOURS,
    OUTLINE_COLOURS,
    error_map,
    mask_image,
    outline_map,
)
from mtkd_cd.drawing.panel import Row, Sheet, png_bytes, zoom_of
from mtkd_cd.drawing.photo import read_photo
from mtkd_cd.evaluation.counts import map_counts
from mtkd_cd.evaluation.scores import image_scores, predicted_cars

SHEET_FORMATS = ('png', 'pdf', 'svg')
CHOICES = ('best', 'worst', 'gain', 'loss')
_PREDICTIONS = 'prediction'  # the folder that ChangeVisualizationHook writes masks to


@dataclass
class PredictedMasks:
    """One run's predicted masks.

    Attributes:
        label: What its tiles are titled.
        folder: Where the masks are.
        files: Path of each mask by the name of its image, which is its path below ``folder``
            without suffix.
    """

    label: str
    folder: Path
    files: dict[str, Path] = field(repr=False)


def open_runs(texts: Sequence[str]) -> list[PredictedMasks]:
    """Find the masks of runs.

    Args:
        texts: ``PATH`` or ``LABEL=PATH`` each: a folder that ``mtkd-cd test --show-dir`` wrote, or
            any folder of masks. Without a label, the folder's name is it.

    Raises:
        UserError: No such folder, no mask in it, two masks of one name, or two runs of one label.
    """
    runs = [_open_run(text) for text in texts]
    labels = [run.label for run in runs]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UserError(f'two runs are called {twice!r}: name them, as in LABEL=PATH')
    return runs


def _open_run(text: str) -> PredictedMasks:
    label, path = label_and_path(text)
    if not os.path.isdir(path):
        raise UserError(f'run {text}: there is no folder {path} (current folder: {os.getcwd()})')
    folder = Path(path, _PREDICTIONS) if Path(path, _PREDICTIONS).is_dir() else Path(path)
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob('*')):
        name = file.relative_to(folder)
        if file.suffix.lower() in IMAGE_SUFFIXES and not any(
            part.startswith('.') for part in name.parts
        ):
            other = files.setdefault(name.with_suffix('').as_posix(), file)
            if other != file:
                raise UserError(f'run {text}: {other} and {file} have the same name: remove one')
    if not files:
        raise UserError(
            f'run {text}: {folder} holds no mask ({", ".join(IMAGE_SUFFIXES)}); mtkd-cd test '
            '--show-dir DIR writes them'
        )
    own_name = Path(path).resolve()
    return PredictedMasks(
        label or (own_name.parent.name if own_name.name == _PREDICTIONS else own_name.name),
        folder,
        files,
    )


class MaskComparison:
    """Image pairs of a split and what each run predicted for them.

    Args:
        runs: At least one.
        data_root: Folder with ``train``, ``val``, ``test`` or with ``list/<split>.txt``.
        split: Whose images the runs predicted.
        dataset_type: Class whose folder names, suffixes and label coding hold; by default the names
            of the folders tell.

    Raises:
        UserError: No such data or split; no image of it has a prediction in every run.
    """

    def __init__(
        self,
        runs: Sequence[PredictedMasks],
        data_root: str,
        split: str = 'test',
        dataset_type: str | None = None,
    ) -> None:
        self.runs = list(runs)
        places = {place[0]: place for place in splits_on_disk(data_root, dataset_type)}
        if split not in places:
            held_out = (
                "; a validation split held out of train is shown by split 'train'"
                if split == 'val' and 'train' in places
                else ''
            )
            raise UserError(
                f'{data_root} has no split {split!r} on disk: there are '
                f'{", ".join(places)}{held_out}'
            )
        _, dataset, folders, ann_file = places[split]
        pairs, problems = list_pairs(folders, ann_file, dataset.img_suffix, dataset.seg_map_suffix)
        raise_if_any(problems)
        self._pairs = {pair.name: pair for pair in pairs}
        self._format_seg_map = dataset.format_seg_map
        self.names = [name for name in self._pairs if all(name in run.files for run in self.runs)]
        if not self.names:
            run = next(
                (run for run in self.runs if not run.files.keys() & self._pairs.keys()),
                self.runs[-1],
            )
            last_of_several = run is self.runs[-1] and len(self.runs) > 1
            others = ' and in every other run' if last_of_several else ''
            raise UserError(
                f'run {run.label}: no image of the {split} split has a prediction in {run.folder}'
                f'{others}; the images are called '
                f'{_some(self._pairs)}, the masks {_some(run.files)}'
            )

    @property
    def num_pairs(self) -> int:
        """Pairs of the split, with or without predictions."""
        return len(self._pairs)

    def select(self, wanted: Sequence[str]) -> list[str]:
        """Names of images.

        Args:
            wanted: Names, with or without suffix, the last part being enough where it is unique;
                ``'all'``; ``'worst:K'`` and ``'best:K'`` by the mIoU of all runs together;
                ``'gain:K'`` and ``'loss:K'`` by how much the last run's exceeds the first run's.

        Returns:
            Each image once, in this order.

        Raises:
            UserError: An unknown name (tells the closest); a K that is no number from 1 up; a gain
                of one run; an image without label.
        """
        found: list[str] = []
        for text in wanted:
            choice, separator, number = text.partition(':')
            if text == 'all':
                found += self.names
            elif separator and choice in CHOICES:
                found += self._extremes(choice, number, text)
            else:
                found.append(self._find(text))
        return list(dict.fromkeys(found))

    def _extremes(self, choice: str, number: str, text: str) -> list[str]:
        if not number.isdecimal() or int(number) < 1:
            raise UserError(f'{text}: {choice}:K takes a number of images from 1 up')
        if choice in ('gain', 'loss') and len(self.runs) < 2:
            raise UserError(
                f'{text}: a {choice} is that of the last run against the first, and there is only '
                'one run'
            )
        with ThreadPoolExecutor() as pool:
            counts = np.array(list(pool.map(self.counts, self.names)))  # (images, runs, 4)
        scores = np.stack([image_scores(counts[:, run])['mIoU'] for run in range(len(self.runs))])
        key = scores.mean(0) if choice in ('best', 'worst') else scores[-1] - scores[0]
        order = np.argsort(-key if choice in ('best', 'gain') else key, kind='stable')
        return [self.names[row] for row in order[: int(number)]]

    def _find(self, text: str) -> str:
        suffix = Path(text).suffix.lower()
        name = text[: -len(suffix)] if suffix in IMAGE_SUFFIXES else text
        matches = [known for known in self._pairs if known == name] or [
            known for known in self._pairs if known.endswith(f'/{name}')
        ]
        if len(matches) > 1:
            raise UserError(f'image {text!r} may be {_some(matches)}: give the folder too')
        if not matches:
            advice = did_you_mean(name, self._pairs) or f'there are {_some(self._pairs)}'
            raise UserError(f'unknown image {text!r}: {advice}')
        lacking = next((run for run in self.runs if matches[0] not in run.files), None)
        if lacking is not None:
            raise UserError(
                f'run {lacking.label}: {lacking.folder} has no prediction for {matches[0]!r}, only '
                f'for {_some(lacking.files)}'
            )
        return matches[0]

    def counts(self, name: str) -> np.ndarray:
        """(runs, 4) TP, FP, FN, TN of one image.

        Raises:
            UserError: It has no label; a mask is unreadable, of another coding or of another size.
        """
        pair = self._pairs[name]
        label = self._label(pair)
        if label is None:
            raise UserError(
                f'{pair.date_a} has no label, so that predictions cannot be ranked: give names, or '
                'all'
            )
        return np.stack([map_counts(mask, label) for mask in self._masks(pair, label).values()])

    def row(self, name: str, style: Literal['errors', 'contours'] = 'errors') -> Row:
        """Date A, date B, label and a tile per run: its errors, or the outlines of label and
        prediction on date B.

        Above them are name and CAR, below each run its CAR and IoU. Without a label the masks
        themselves are shown.

        Raises:
            UserError: As :meth:`counts` does; an image cannot be read.
        """
        pair = self._pairs[name]
        label = self._label(pair)
        masks = self._masks(pair, label)
        shape = next(iter(masks.values())).shape
        tiles = {
            date: read_photo(path, shape) for date, path in (('A', pair.date_a), ('B', pair.date_b))
        }
        if label is not None:
            tiles['label'] = mask_image(label)
        for run, mask in masks.items():
            if style == 'contours':
                tiles[run] = outline_map(tiles['B'], mask, label, zoom_of(shape[1]))
            else:
                tiles[run] = mask_image(mask) if label is None else _errors(mask, label)
        if label is None:
            cars = {run: float(change_area_ratio(mask)) for run, mask in masks.items()}
            return Row(tiles, name, {run: f'CAR {car:.2%}' for run, car in cars.items()})
        counts = np.stack([map_counts(mask, label) for mask in masks.values()])
        caption = f'{name}    CAR {change_area_ratio(label):.2%}'
        return Row(tiles, caption, dict(zip(masks, _notes(counts))))

    def _label(self, pair: Pair) -> np.ndarray | None:
        return (
            None
            if pair.label is None
            else read_label(pair.label, format_seg_map=self._format_seg_map)
        )

    def _masks(self, pair: Pair, label: np.ndarray | None) -> dict[str, np.ndarray]:
        masks = {}
        wanted_path, wanted = (
            pair.label,
            label.shape if label is not None else _image_shape(pair.date_b),
        )
        for run in self.runs:
            path = run.files[pair.name]
            masks[run.label] = mask = read_label(path, format_seg_map='to_binary')
            if mask.shape != wanted:
                raise UserError(
                    f'run {run.label}: {path} is {mask.shape[1]} x {mask.shape[0]} pixels, but '
                    f'{wanted_path or pair.date_b} is '
                    f'{wanted[1]} x {wanted[0]}: write the masks at the size of the labels'
                )
        return masks


def _errors(mask: np.ndarray, label: np.ndarray) -> np.ndarray:
    return error_map(mask, np.where(mask == IGNORE_INDEX, IGNORE_INDEX, label))


def _image_shape(path: str) -> tuple[int, ...]:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise UserError(f'{path}: cannot be read as an image to draw it: {error}') from error


def _notes(counts: np.ndarray) -> list[str]:
    scores = image_scores(counts)
    return [
        f'IoU {iou:.1f}   mIoU {mean:.1f}   CAR {car:.2%}'
        for iou, mean, car in zip(scores['IoU_changed'], scores['mIoU'], predicted_cars(counts))
    ]


def _some(names: Iterable[str]) -> str:
    return some(map(repr, names))


def legend_of(style: Literal['errors', 'contours']) -> dict[str, tuple[int, int, int]]:
    """Colours of the tiles of :meth:`MaskComparison.row`."""
    return OUTLINE_COLOURS if style == 'contours' else OUTCOME_COLOURS


def write_sheets(
    comparison: MaskComparison,
    names: Sequence[str],
    out_dir: str | os.PathLike,
    style: Literal['errors', 'contours'] = 'errors',
    rows_per_sheet: int | None = None,
    formats: Sequence[str] = ('png',),
    reads: Sequence[str | os.PathLike] = (),
) -> list[Path]:
    """Write the images as figures; those of an earlier call go.

    Args:
        comparison: Where they come from.
        names: As :meth:`MaskComparison.select` returns them.
        out_dir: Gets a file per image, ``<name>.png``; or ``sheet.png``; or ``sheet_1.png``,
            ``sheet_2.png``, ... where one does not do.
        style: Of the runs' tiles.
        rows_per_sheet: Images on one sheet; ``None`` for a file per image.
        formats: Of :data:`SHEET_FORMATS`.
        reads: Folders that images and predictions are read from.

    Returns:
        The files written.

    Raises:
        UserError: As :meth:`MaskComparison.row` does; ``out_dir`` lies in one of ``reads``, or
            holds other files of these names.
    """
    output = OutputFolder(out_dir, 'sheets', reads)
    output.clear()
    step = rows_per_sheet or 1
    groups = [names[start : start + step] for start in range(0, len(names), step)]
    written = []
    for number, group in enumerate(groups, 1):
        sheet = Sheet([comparison.row(name, style) for name in group], legend_of(style))
        stem = (
            group[0]
            if rows_per_sheet is None
            else 'sheet'
            if len(groups) == 1
            else f'sheet_{number}'
        )
        for kind in formats:
            content = (
                png_bytes(sheet.pixels())
                if kind == 'png'
                else sheet.vector('pdf' if kind == 'pdf' else 'svg')
            )
            path = Path(out_dir, f'{stem}.{kind}')  # not with_suffix: a name may have dots
            with output.open(path.relative_to(out_dir)) as file:
                file.write(content)
            written.append(path)
    return written
