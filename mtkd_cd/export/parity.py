"""How an exported network differs from the one that torch runs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtkd_cd.core.errors import UserError
from mtkd_cd.inference.card import Card
from mtkd_cd.inference.predictor import Predictor

TOLERANCE = 1e-4  # of a probability, and of the share of flipped pixels
BATCHES = (1, 3)


@dataclass(frozen=True)
class Parity:
    """Differences over all pixels of some pairs.

    Attributes:
        max_difference: Of a probability.
        flips: Pixels whose decision differs.
        pixels: How many there were.
        batches: The batch sizes that were compared.
    """

    max_difference: float
    flips: int
    pixels: int
    batches: tuple[int, ...]

    @property
    def flipped(self) -> float:
        """Share of the pixels whose decision differs."""
        return self.flips / self.pixels

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dict(
            max_difference=self.max_difference,
            flips=self.flips,
            pixels=self.pixels,
            batches=list(self.batches),
        )

    def check(self, what: str, tolerance: float = TOLERANCE) -> None:
        """Refuse what differs by more.

        Raises:
            UserError: Names what was found and allowed.
        """
        if self.max_difference <= tolerance and self.flipped <= tolerance:
            return
        raise UserError(
            f'{what} differs from torch by {self.max_difference:.1e} in a probability, and '
            f'{self.flips} of {self.pixels} pixels flip; {tolerance:.0e} of both is allowed. '
            'Nothing was written. Networks that were not trained, or see images unlike those that '
            'they were trained on, make much of rounding: export trained weights, compare on pairs '
            'of yours with --pairs, or allow more with --tolerance'
        )


def made_up_pairs(card: Card, size: int, count: int) -> np.ndarray:
    """(N, 2C, S, S) uint8 in the card's ``band_order``: coarse blocks and fine noise, of which a
    part has changed; the same for equal arguments."""
    rng = np.random.default_rng(0)
    channels = len(card.bands)
    cells = size // 16 + 1
    coarse = rng.integers(0, 256, (count, 2, channels, cells, cells))
    coarse[:, 1, :, : cells // 2] = coarse[:, 0, :, : cells // 2]
    dates = np.kron(coarse, np.ones((16, 16), int))[..., :size, :size]
    dates = dates + rng.integers(-12, 13, dates.shape)
    return np.clip(dates, 0, 255).astype(np.uint8).reshape(count, 2 * channels, size, size)


def normalised(images: np.ndarray, card: Card) -> Tensor:
    """(N, 2C, H, W) as a model with this card takes it, of values in its ``band_order``."""
    per_date = len(card.bands)
    order = [place + date * per_date for date in range(2) for place in card.permutation]
    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (card.mean, card.std))
    return (torch.from_numpy(images[:, order]).float() - mean) / std


def compare_predictors(
    reference: Predictor,
    exported: Predictor,
    images: np.ndarray,
    cards: tuple[Card, Card],
    threshold: float,
) -> Parity:
    """Predict pairs one by one and together, and count differences.

    Args:
        reference: Run by torch.
        exported: Run by something else.
        images: (N, 2C, H, W) in the cards' ``band_order``, 0 to 255.
        cards: Of the two.
        threshold: Where a pixel's decision flips.
    """
    wanted = reference.probability(normalised(images, cards[0])).cpu()
    inputs = normalised(images, cards[1])
    worst, flips, pixels = 0.0, 0, 0
    batches = tuple(size for size in BATCHES if size <= len(images))
    for size in batches:
        found = exported.probability(inputs[:size]).cpu()
        expected = wanted[:size]
        if found.shape != expected.shape:
            raise UserError(
                f'the exported graph gives {tuple(found.shape)} for a batch of {size}, '
                f'{tuple(expected.shape)} is wanted'
            )
        difference = (found - expected).abs().max().item()
        worst = difference if not difference <= worst else worst  # NaN stays
        flips += int(((found > threshold) != (expected > threshold)).sum())
        pixels += expected.numel()
    return Parity(worst, flips, pixels, batches)
