"""Threshold and temperature of a model, chosen on validation images.

The logit margin of every valid pixel is counted into fine bins, for each image and each class, so
that memory does not grow with the pixels. From these counts alone come

- the temperature, one number that the margins are divided by, with the smallest negative log
  likelihood (Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599);
- precision and recall at 101 thresholds on the calibrated probability;
- the threshold, the one of these with the best pooled F1 of change, and among equals the nearest to
  one half;
- the per-image scores at that threshold, with their intervals.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mtkd_cd.core.car import IGNORE_INDEX
from mtkd_cd.core.errors import UserError
from mtkd_cd.evaluation.scores import image_scores, pooled_scores
from mtkd_cd.evaluation.statistics import bootstrap_intervals

RULE = 'best pooled F1 of change on validation among 101 thresholds, nearest to 0.5 among equals'
NUM_THRESHOLDS = 101
# Bins of margins. A small temperature spreads those near 0 over all probabilities, a large one
# brings those of hundreds back to ones that matter. Those beyond the last edge are counted there.
_POSITIVE = np.concatenate(
    [
        np.linspace(0, 2, 1001),
        np.linspace(2, 20, 901)[1:],
        np.geomspace(20, 2000, 201)[1:],
    ]
)
_EDGES = np.concatenate([-_POSITIVE[:0:-1], _POSITIVE])
_BINS = len(_EDGES) - 1
_CENTRES = (_EDGES[:-1] + _EDGES[1:]) / 2
_LOG_TEMPERATURES = (np.log(0.05), np.log(20.0))


@dataclass(frozen=True)
class Calibration:
    """What was found on validation.

    Attributes:
        temperature: What the margins are divided by.
        threshold: On the calibrated probability.
        rule: How the threshold was chosen.
        images: How many there were.
        pixels: Valid pixels.
        likelihoods: Mean negative log likelihood of a pixel, before and after.
        curve: (101, 3): threshold, precision, recall of change, pooled.
        scores: Mean, low and high of each per-image score at the threshold, in percent.
        pooled: Scores over all pixels at the threshold, in percent.
    """

    temperature: float
    threshold: float
    rule: str
    images: int
    pixels: int
    likelihoods: tuple[float, float]
    curve: np.ndarray
    scores: dict[str, tuple[float, float, float]]
    pooled: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """As JSON values, for the bundle's card."""
        return {
            'rule': self.rule,
            'images': self.images,
            'pixels': self.pixels,
            'negative_log_likelihood': dict(zip(('before', 'after'), self.likelihoods)),
            'curve': [
                dict(zip(('threshold', 'precision', 'recall'), map(_rounded, row)))
                for row in self.curve
            ],
            'scores': {
                name: dict(zip(('mean', 'low', 'high'), map(_rounded, interval)))
                for name, interval in self.scores.items()
            },
            'pooled': {name: _rounded(value) for name, value in self.pooled.items()},
        }

    def lines(self) -> list[str]:
        """As lines of text."""
        before, after = self.likelihoods
        mean, low, high = self.scores['mIoU']
        return [
            f'On {self.images} validation images ({self.pixels} pixels):',
            '',
            f'- Threshold {self.threshold:.2f}: {self.rule}',
            f'- Temperature {self.temperature:.3f}: negative log likelihood {before:.4f} before, '
            f'{after:.4f} after',
            f'- mIoU per image {mean:.2f} [{low:.2f}, {high:.2f}], pooled F1 of change '
            f'{self.pooled["Fscore_changed"]:.2f}',
        ]


def _rounded(value: float) -> float:
    return round(float(value), 6)


class MarginCounts:
    """Counts of logit margins, per image and class."""

    def __init__(self) -> None:
        self._images: list[np.ndarray] = []

    def add(self, margin: np.ndarray, label: np.ndarray, ignore_index: int = IGNORE_INDEX) -> None:
        """Count an image.

        Args:
            margin: (H, W) log-odds of change, with temperature 1.
            label: (H, W): 0, 1 or ``ignore_index``.
        """
        # A margin of exactly 0 is no change, so bins are open on the left.
        index = np.searchsorted(_EDGES, margin, side='left') - 1
        index = np.clip(index, 0, _BINS - 1)
        counts = [np.bincount(index[label == value], minlength=_BINS) for value in (0, 1)]
        if ((label != 0) & (label != 1) & (label != ignore_index)).any():
            raise UserError(
                f'a label holds {np.unique(label)[:8]}: 0, 1 and {ignore_index} are known'
            )
        self._images.append(np.stack(counts).astype(np.int32))

    def __len__(self) -> int:
        return len(self._images)

    def calibrate(self, threshold: float | None = None) -> Calibration:
        """Choose temperature and threshold.

        Args:
            threshold: Threshold to take, instead of choosing one.

        Raises:
            UserError: No valid pixel was counted.
        """
        counts = np.stack(self._images) if self._images else np.zeros((0, 2, _BINS), np.int32)
        pooled = counts.sum(0, dtype=np.int64)  # (2, bins)
        if not pooled.sum():
            raise UserError(
                'the validation data have no valid pixel: threshold and temperature cannot be '
                'chosen; leave the validation out'
            )
        temperature = _best_temperature(pooled)
        calibrated = np.exp(-np.logaddexp(0, -_CENTRES / temperature))
        thresholds = np.linspace(0, 1, NUM_THRESHOLDS)
        curve, f1 = _curve(pooled, calibrated, thresholds)
        rule = RULE
        if threshold is None:
            best = np.flatnonzero(np.isclose(f1, f1.max(), rtol=0, atol=1e-12))
            threshold = float(thresholds[best[np.abs(thresholds[best] - 0.5).argmin()]])
        else:
            rule = 'given'
        table = _table(counts, calibrated > threshold)
        columns = image_scores(table)
        intervals = bootstrap_intervals({name: columns[name] for name in columns})
        return Calibration(
            temperature,
            threshold,
            rule,
            len(counts),
            int(pooled.sum()),
            (_likelihood(pooled, 1.0), _likelihood(pooled, temperature)),
            curve,
            {name: (i.mean, i.low, i.high) for name, i in intervals.items()},
            pooled_scores(table),
        )


def _likelihood(counts: np.ndarray, temperature: float) -> float:
    """Mean negative log likelihood of the pixels, in nats."""
    margin = _CENTRES / temperature
    losses = np.stack([np.logaddexp(0, margin), np.logaddexp(0, -margin)])
    return float((counts * losses).sum() / counts.sum())


def _best_temperature(counts: np.ndarray) -> float:
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log: _likelihood(counts, float(np.exp(log))),
        bounds=_LOG_TEMPERATURES,
        method='bounded',
        options=dict(xatol=1e-4),
    )
    return float(np.exp(found.x))


def _curve(
    counts: np.ndarray, probability: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Threshold, precision and recall, and F1; 1 where there is nothing to divide by."""
    above = probability[None] > thresholds[:, None]  # (T, bins)
    false, true = above @ counts[0], above @ counts[1]
    changed = counts[1].sum()
    precision = np.where(true + false > 0, true / np.maximum(true + false, 1), 1.0)
    recall = true / changed if changed else np.ones(len(true))
    f1 = np.where(true + false + changed > 0, 2 * true / np.maximum(true + false + changed, 1), 1.0)
    return np.stack([thresholds, precision, recall], 1), f1


def _table(counts: np.ndarray, above: np.ndarray) -> np.ndarray:
    """(images, 4): TP, FP, FN, TN."""
    positive = counts[:, :, above].sum(2, dtype=np.int64)
    negative = counts[:, :, ~above].sum(2, dtype=np.int64)
    return np.stack([positive[:, 1], positive[:, 0], negative[:, 1], negative[:, 0]], 1)
