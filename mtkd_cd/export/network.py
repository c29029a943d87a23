"""A detector as one module, from a pair to its probability of change: what is exported."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mtkd_cd.inference.card import Card
from mtkd_cd.inference.predictor import TorchPredictor, change_probability

InputKind = Literal['normalised', 'raw']


class PairNetwork(nn.Module):
    """What a predictor computes, with everything around the detector inside.

    Input and output are those of the graph: pairs of (N, 2C, H, W) in the order of the card's
    ``band_order`` (red, green, blue for models of these), and (N, ``channels``, H, W).

    Args:
        predictor: The detector with its temperature and, of a specialist, its converter.
        card: What the detector takes.
        input: ``'normalised'``: pairs less the mean, divided by the standard deviation; ``'raw'``:
            values from 0 to 255.
        channels: 1 for the probability of change, 2 for that of no change before it.
    """

    mean: Tensor
    std: Tensor
    order: Tensor

    def __init__(
        self,
        predictor: TorchPredictor,
        card: Card,
        input: InputKind = 'normalised',
        channels: int = 1,
    ) -> None:
        super().__init__()
        self.detector = predictor.detector
        self.temperature = predictor.temperature
        self.convert = predictor.convert
        self.input = input
        self.channels = channels
        per_date = len(card.bands)
        own = [place + date * per_date for date in range(2) for place in card.permutation]
        self.is_permuted = own != sorted(own)
        self.register_buffer('order', torch.tensor(own), persistent=False)
        for name, numbers in (('mean', card.mean), ('std', card.std)):
            self.register_buffer(name, torch.tensor(numbers).view(1, -1, 1, 1), persistent=False)

    def forward(self, pair: Tensor) -> Tensor:
        """(N, 2C, H, W) -> (N, channels, H, W)."""
        if self.is_permuted:
            pair = pair[:, self.order]
        if self.input == 'raw':
            pair = (pair - self.mean) / self.std
        if self.convert is not None:
            pair = self.convert(pair)
        size = pair.shape[2:]
        meta = dict(img_shape=size, pad_shape=size, ori_shape=size)
        logits = self.detector.encode_decode(pair, [meta])
        if logits.shape[1] == 1:
            probability = (logits / self.temperature).sigmoid()
        else:
            probability = change_probability(logits, self.temperature).unsqueeze(1)
        if self.channels == 2:
            probability = torch.cat((1 - probability, probability), 1)
        return probability


def in_band_order(card: Card, numbers: Sequence[float]) -> tuple[float, ...]:
    """Numbers of both dates' channels, from the model's order to that of the graph's input."""
    per_date = len(card.bands)
    ordered = [0.0] * len(numbers)
    for date in range(2):
        for position, place in enumerate(card.permutation):
            ordered[date * per_date + place] = numbers[date * per_date + position]
    return tuple(ordered)
