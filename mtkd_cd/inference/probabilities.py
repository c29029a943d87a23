"""Probabilities of change of normalised pairs, each from the detector that serves it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mtkd_cd.core.car import IGNORE_INDEX, change_area_ratio
from mtkd_cd.inference.card import Card
from mtkd_cd.inference.predictor import Model, Predictor, TorchPredictor
from mtkd_cd.models.mtkd.routing import ORIGIN


@dataclass(frozen=True)
class RoutedModel:
    """A model on its device. Of a cascade, the origin's CAR in a pair picks the detector.

    Attributes:
        model: The model.
        device: Where its input goes.
    """

    model: Model
    device: torch.device

    @property
    def card(self) -> Card:
        """How the model takes its input."""
        return self.model.card

    @property
    def is_cascade(self) -> bool:
        """Whether it has several detectors."""
        return self.model.routing is not None

    def normalise_(self, images: Tensor) -> Tensor:
        """Normalise float32 images, (..., 2C, H, W) from 0 to 255, in their place."""
        mean, std = (
            torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1)
            for numbers in (self.card.mean, self.card.std)
        )
        return images.sub_(mean).div_(std)

    def padded(self, batch: Tensor) -> Tensor:
        """Pad (N, 2C, H, W) at the right and the bottom to sides that the networks take."""
        height, width = batch.shape[-2:]
        right, bottom = -width % self.card.divisor, -height % self.card.divisor
        return F.pad(batch, (0, right, 0, bottom)) if right or bottom else batch

    def probabilities(
        self,
        batch: Tensor,
        valid: Sequence[np.ndarray],
        threshold: float,
        detector: str | None = None,
        shape: tuple[int, int] | None = None,
    ) -> tuple[list[np.ndarray], list[str]]:
        """Probabilities of each pair, and who served it.

        Args:
            batch: (N, 2C, H, W), padded at the right and the bottom.
            valid: Of each pair the pixels that the CAR is taken of, at the size of the result.
            threshold: A pixel has changed if its probability is above it.
            detector: Of a cascade: who serves, instead of the routing's choice.
            shape: (h, w) of the images without padding, where the results have another size.
        """
        batch = batch.to(self.device)

        def run(name: str, members: list[int]) -> list[np.ndarray]:
            predictor = self.model.predictor(name)
            pairs = batch if len(members) == len(batch) else batch[members]
            if shape is None:
                found = predictor.probability(pairs)
                return [
                    one[: valid[index].shape[0], : valid[index].shape[1]]
                    for index, one in zip(members, _arrays(found))
                ]
            return _at_sizes(predictor, pairs, shape, [valid[index].shape for index in members])

        everyone = list(range(len(batch)))
        if not self.is_cascade or detector is not None:
            name = detector or self.model.names[0]
            return run(name, everyone), [name] * len(batch)
        results = run(ORIGIN, everyone)
        names = []
        for probability, pixels in zip(results, valid):
            label = np.where(pixels, probability > threshold, IGNORE_INDEX)
            names.append(self.serving(float(np.float32(change_area_ratio(label)))))
        for name in dict.fromkeys(names):
            if name == ORIGIN:
                continue
            members = [index for index, chosen in enumerate(names) if chosen == name]
            for index, probability in zip(members, run(name, members)):
                results[index] = probability
        return results, names

    def serving(self, car: float) -> str:
        """Name of the detector that serves pairs of this CAR, as the origin predicts it."""
        routing = self.model.routing
        if routing is None:
            return self.model.names[0]
        return routing.detectors[int(routing.serving(torch.tensor([car]))[0])]

    def range_of(self, car: float) -> str:
        """Name of the CAR range."""
        partition = self.model.partition
        return partition.names[int(partition.range_of(np.array([car]))[0])]


def _arrays(probability: Tensor) -> list[np.ndarray]:
    return list(probability.float().cpu().numpy())


def _at_sizes(
    predictor: Predictor,
    pairs: Tensor,
    shape: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
) -> list[np.ndarray]:
    """Probabilities at the sizes of the images before the pipeline resized them."""
    if isinstance(predictor, TorchPredictor):
        return [one.cpu().numpy() for one in predictor.probability_at(pairs, shape, sizes)]
    found = predictor.probability(pairs)[:, None, : shape[0], : shape[1]].float().cpu()
    return [
        (
            one
            if shape == size
            else F.interpolate(one[None], size, mode='bilinear', align_corners=False)[0]
        )[0].numpy()
        for one, size in zip(found, sizes)
    ]
