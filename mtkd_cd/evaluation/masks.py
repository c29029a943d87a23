"""Per-image scores of masks from anywhere, arrays or folders of files, counted and averaged as the
metric does it."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mtkd_cd.core.car import DEFAULT_THRESHOLDS, IGNORE_INDEX, CARPartition, is_tensor
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.text import some
from mtkd_cd.data.labels import read_label
from mtkd_cd.data.layout import PairFolders
from mtkd_cd.data.pairs import Pair, Problem, list_pairs
from mtkd_cd.evaluation.counts import map_counts
from mtkd_cd.evaluation.image_names import image_names
from mtkd_cd.evaluation.image_table import ImageTable
from mtkd_cd.evaluation.scores import check_zero_division

_SHOWN = 5


def per_image_scores(
    predictions: Any,
    labels: Any,
    *,
    ignore_index: int | None = None,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    zero_division: float = 1.0,
    num_workers: int | None = None,
    progress: bool = False,
) -> ImageTable:
    """Score change masks per image: ``per_image_scores(predictions, labels).means()['mIoU']``
    (arXiv:2502.13407, Appendix D).

    Args:
        predictions: A folder of mask files, searched with its sub-folders; or masks (N, H, W), or N
            masks (H, W) that may differ in size, arrays or tensors, in a list or one after the
            other. A mask holds 0 unchanged and 1 or 255 changed, of any dtype; a file may also be
            anti-aliased (gray of 128 and more is change). Masked pixels of ``numpy.ma`` arrays
            don't count.
        labels: The same for the truth: a folder too, whose files have the same relative names up to
            the suffix; or as many masks, in the same order and of the same sizes.
        ignore_index: Value of the labels' pixels that don't count, from 2 to 255; by default all
            count.
        thresholds: CAR thresholds of the breakdown by range.
        zero_division: Score, as a fraction, of what is undefined (0 / 0).
        num_workers: Threads that read folders; by default one for each CPU.
        progress: Whether to show a progress bar while reading folders.

    Returns:
        The table: ``rows()``, ``means()``, ``intervals()``, ``pooled()``, ``ranges()``,
            ``report()``, ``save(path)``. Images are called by the label's path below its folder, or
            ``image00000``, ...

    Raises:
        UserError: A mask without a partner; masks of unequal size or of another coding; a file that
            cannot be read; an empty folder; labels of which ``ignore_index`` leaves no changed
            pixel; ``zero_division`` outside [0, 1].
    """
    check_zero_division(zero_division)
    if ignore_index is not None and not 2 <= ignore_index <= 255:
        raise UserError(
            f'ignore_index={ignore_index}: the value of ignored pixels is one from 2 to 255; 0 and '
            '1 are the classes'
        )
    partition = CARPartition(thresholds)
    paths = [isinstance(masks, (str, os.PathLike)) for masks in (predictions, labels)]
    if all(paths):
        files, counts = _score_folders(
            Path(predictions), Path(labels), ignore_index, num_workers, progress
        )
    elif any(paths):
        raise UserError(
            'one of predictions and labels is a folder, the other is not: give two folders, or two '
            'sequences of masks'
        )
    else:
        counts = _score_arrays(list(predictions), list(labels), ignore_index)
        files = image_names([()] * len(counts))
    return ImageTable(
        files, counts, [None] * len(files), [None] * len(files), partition, zero_division
    )


def _score_arrays(
    predictions: Sequence[Any], labels: Sequence[Any], ignore_index: int | None
) -> np.ndarray:
    if len(predictions) != len(labels):
        raise UserError(
            f'{len(predictions)} predictions cannot be compared with {len(labels)} labels: one of '
            'each per image is needed'
        )
    if not len(labels):
        raise UserError('no masks to score: at least one prediction and its label are needed')
    counts, ignores = np.empty((len(labels), 4), np.int64), False
    for index, (prediction, label) in enumerate(zip(predictions, labels)):
        try:
            classes = _classes(label, ignore_index)
            counts[index] = map_counts(_classes(prediction, None), classes)
        except UserError as error:
            raise UserError(f'image {index}: {error}') from None
        ignores = ignores or (classes == IGNORE_INDEX).any()
    if ignore_index is not None and ignores:
        _refuse_no_change(counts, ignore_index, 'label')
    return counts


def _classes(mask: Any, ignore_index: int | None) -> np.ndarray:
    """(H, W) uint8 of 0, 1 and, where the mask holds ``ignore_index`` or is masked, 255."""
    array = mask.detach().cpu().numpy() if is_tensor(mask) else np.asarray(mask)
    if array.ndim != 2:
        raise UserError(
            f'a mask has the shape (H, W), found {array.shape}: masks of several images are (N, H, '
            'W) or a sequence'
        )
    ignored = np.zeros(array.shape, bool) if ignore_index is None else array == ignore_index
    if np.ma.isMaskedArray(mask):
        ignored = ignored | np.ma.getmaskarray(mask)
    blank = ignored | (array == 0)
    for change in (1, 255):
        changed = (array == change) & ~ignored
        if (blank | changed).all():
            return np.where(ignored, np.uint8(IGNORE_INDEX), changed.astype(np.uint8))
    values = ', '.join(f'{value:g}' for value in np.unique(array)[:8])
    raise UserError(
        'a mask holds 0 and 1, or 0 and '
        f'255{"" if ignore_index is None else f", and {ignore_index} (ignored)"}; found {values}'
    )


def _score_folders(
    predictions: Path,
    labels: Path,
    ignore_index: int | None,
    num_workers: int | None,
    progress: bool,
) -> tuple[list[str], np.ndarray]:
    """(names of the images, (N, 4) counts)."""
    pairs = _matched(predictions, labels)
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        scored = pool.map(lambda pair: _score_files(pair, ignore_index), pairs)
        bar = tqdm(
            scored,
            'scoring masks',
            len(pairs),
            unit='image',
            delay=2,
            leave=False,
            disable=not progress,
        )
        counts, ignores = zip(*bar)
    table = np.stack(counts)
    if ignore_index is not None and any(ignores):
        _refuse_no_change(table, ignore_index, f'label in {labels}')
    return [Path(pair.date_b).relative_to(labels).as_posix() for pair in pairs], table


def _refuse_no_change(counts: np.ndarray, ignore_index: int, labels: str) -> None:
    """Refuse labels that have ignored pixels and, in all images, none that has changed."""
    if not counts[:, [0, 2]].any():
        raise UserError(
            f'with ignore_index={ignore_index} no {labels} has a changed pixel: if '
            f'{ignore_index} means change, leave it out'
        )


def _matched(predictions: Path, labels: Path) -> list[Pair]:
    """Pairs of which date A is the prediction and date B the label."""
    for folder in (predictions, labels):
        if not folder.is_dir():
            found = (
                'is a file'
                if folder.is_file()
                else f'does not exist (current folder: {os.getcwd()})'
            )
            raise UserError(
                f'{folder} {found}: two folders are compared, one with the predictions and one '
                'with the labels'
            )
    pairs, problems = list_pairs(PairFolders(str(predictions), str(labels)))
    if problems:
        raise UserError(_unmatched(problems, len(pairs)))
    return pairs


def _unmatched(problems: Sequence[Problem], num_pairs: int) -> str:
    shown = some(problems, _SHOWN, '\n  ')
    return (
        f'masks without a partner: {len(problems)}; pairs: {num_pairs}.\n  {shown}\n'
        'A prediction and its label need the same path below their folders, up to the suffix'
    )


def _score_files(pair: Pair, ignore_index: int | None) -> tuple[np.ndarray, bool]:
    """((4,) counts, whether the label has ignored pixels)."""
    prediction = read_label(pair.date_a, format_seg_map='to_binary')
    label = read_label(pair.date_b, format_seg_map='to_binary', ignored_value=ignore_index)
    if prediction.shape != label.shape:
        sizes = [f'{mask.shape[1]} x {mask.shape[0]}' for mask in (prediction, label)]
        raise UserError(
            f'prediction {pair.date_a} is {sizes[0]} pixels, but label {pair.date_b} is '
            f'{sizes[1]}: bring predictions to the size of the '
            'labels'
        )
    counts = map_counts(prediction, label)
    return counts, int(counts.sum()) < label.size
