"""Scores in percent from confusion counts: per image, their means, pooled over all pixels, and by
CAR.

Definitions: arXiv:2502.13407, Appendix D. What is undefined (0 / 0) counts as ``zero_division``.
"""

from dataclasses import dataclass

import numpy as np

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError

CLASSES = ('unchanged', 'changed')
SCORE_NAMES = ('IoU', 'Recall', 'Precision', 'Fscore')  # the paper's order
MEAN_NAMES = tuple(f'm{name}' for name in SCORE_NAMES)


def check_zero_division(value: float) -> None:
    """Refuse a score of 0 / 0 that is no fraction.

    Raises:
        UserError: ``value`` is outside [0, 1].
    """
    if not 0 <= value <= 1:
        raise UserError(f'zero_division={value}: the score of 0 / 0 is a fraction from 0 to 1')


def image_scores(counts: np.ndarray, zero_division: float = 1.0) -> dict[str, np.ndarray]:
    """Scores of each image.

    Args:
        counts: (N, 4) TP, FP, FN, TN.
        zero_division: Score, as a fraction, where nothing is there to be divided by. 1: nothing to
            find and nothing found is perfect.

    Returns:
        (N,) float64 in percent under ``mIoU``, ``mRecall``, ``mPrecision``, ``mFscore`` (mean of
        the two classes), then ``IoU_unchanged``, ..., ``Fscore_changed``.
    """
    tp, fp, fn, tn = np.asarray(counts, np.float64).reshape(-1, 4).T
    by_class = {
        'unchanged': _class_scores(tn, fn, fp, zero_division),
        'changed': _class_scores(tp, fp, fn, zero_division),
    }
    means = {
        f'm{name}': (by_class['unchanged'][name] + by_class['changed'][name]) / 2
        for name in SCORE_NAMES
    }
    return means | {
        f'{name}_{class_name}': by_class[class_name][name]
        for class_name in CLASSES
        for name in SCORE_NAMES
    }


def _class_scores(
    tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, zero_division: float
) -> dict[str, np.ndarray]:
    fractions = {
        'IoU': (tp, tp + fp + fn),
        'Precision': (tp, tp + fp),
        'Recall': (tp, tp + fn),
        'Fscore': (2 * tp, 2 * tp + fp + fn),
    }
    return {
        name: 100 * np.divide(above, below, out=np.full_like(above, zero_division), where=below > 0)
        for name, (above, below) in fractions.items()
    }


def mean_scores(counts: np.ndarray, zero_division: float = 1.0) -> dict[str, float]:
    """The paper's figures: :func:`image_scores` averaged over the images, each image of equal
    weight."""
    return {
        name: float(values.mean()) for name, values in image_scores(counts, zero_division).items()
    }


def pooled_scores(counts: np.ndarray, zero_division: float = 1.0) -> dict[str, float]:
    """Score the pixels of all images together, as most of the LEVIR-CD literature does. ``aAcc`` is
    the overall accuracy.

    Args:
        counts: (N, 4) TP, FP, FN, TN.
        zero_division: As in :func:`image_scores`.
    """
    total = np.asarray(counts, np.int64).reshape(-1, 4).sum(0)
    accuracy = (total[0] + total[3]) / total.sum() if total.sum() else zero_division
    return mean_scores(total, zero_division) | {'aAcc': 100 * float(accuracy)}


def true_cars(counts: np.ndarray) -> np.ndarray:
    """(N,) CAR of each label: (TP + FN) / valid pixels; 0 without a valid pixel."""
    return (counts[:, 0] + counts[:, 2]) / np.maximum(counts.sum(1), 1)


def predicted_cars(counts: np.ndarray) -> np.ndarray:
    """(N,) CAR of each prediction over the label's valid pixels: (TP + FP) / valid pixels."""
    return (counts[:, 0] + counts[:, 1]) / np.maximum(counts.sum(1), 1)


@dataclass(frozen=True)
class CARBin:
    """The images whose label's CAR lies in one bin, and their mean scores.

    Attributes:
        name: Name of the CAR range, or ``q1``, ``q2``, ...
        low: Smallest CAR of the bin: of its images for a quantile; for a range its lower bound,
            which it excludes.
        high: Largest CAR, included.
        num_images: How many images lie in it.
        scores: Their :func:`mean_scores`; empty without images.
    """

    name: str
    low: float
    high: float
    num_images: int
    scores: dict[str, float]


def scores_by_range(
    counts: np.ndarray, partition: CARPartition, zero_division: float = 1.0
) -> list[CARBin]:
    """One bin per range of ``partition``, from the smallest CAR up; ranges without images are
    listed too."""
    index = partition.range_of(true_cars(counts))
    members = [np.flatnonzero(index == i) for i in range(len(partition))]
    bounds = [partition.bounds(name) for name in partition.names]
    return [
        _car_bin(name, *low_high, counts[rows], zero_division)
        for name, low_high, rows in zip(partition.names, bounds, members)
    ]


def scores_by_quantile(
    counts: np.ndarray, num_bins: int = 5, zero_division: float = 1.0
) -> list[CARBin]:
    """Bins of equally many images in ascending order of CAR (the paper's figures 5 and 8).

    Args:
        counts: (N, 4) TP, FP, FN, TN.
        num_bins: How many; fewer where there are fewer images. Where they don't divide, the first
            bins take one image more.
        zero_division: As in :func:`image_scores`.
    """
    cars = true_cars(counts)
    return [
        _car_bin(f'q{i}', float(cars[rows[0]]), float(cars[rows[-1]]), counts[rows], zero_division)
        for i, rows in enumerate(quantile_rows(cars, num_bins), 1)
        if len(rows)
    ]


def quantile_rows(cars: np.ndarray, num_bins: int) -> list[np.ndarray]:
    """Rows of the images in each bin of :func:`scores_by_quantile`, by ascending CAR."""
    return np.array_split(np.argsort(cars, kind='stable'), min(num_bins, len(cars)) or 1)


def _car_bin(
    name: str, low: float, high: float, counts: np.ndarray, zero_division: float
) -> CARBin:
    return CARBin(
        name, low, high, len(counts), mean_scores(counts, zero_division) if len(counts) else {}
    )
