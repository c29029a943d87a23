"""What must be known about a model before it can be given an image."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.radiometry import Identity, Rule, from_spec

RGB = ('red', 'green', 'blue')


@dataclass(frozen=True)
class Card:
    """How a model takes its input, and how its output is read.

    Attributes:
        name: What the model is called in reports.
        mean: Means of both dates' channels, in the model's order, on the scale of 0 to 255.
        std: Standard deviations, likewise.
        bands: Names of one date's bands, in the model's order.
        radiometry: What brings stored values to 0 to 255.
        gsd_m: Ground sample distance of the training images in metres; ``None`` if unknown.
        training_size: Side of the training images in pixels: the window of rasters, and the area
            that the cascade's thresholds hold at.
        divisor: Image sides are padded to multiples of it.
        threshold: A pixel has changed if its probability is above it.
        temperature: What the predictor divides the logits by.
        sha256: Hash of the bundle or of the exported file, if there is one.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bands: tuple[str, ...] = RGB
    radiometry: Rule = field(default_factory=Identity)
    gsd_m: float | None = None
    training_size: int = 512
    divisor: int = 32
    threshold: float = 0.5
    temperature: float = 1.0
    sha256: str | None = None

    @classmethod
    def of(cls, found: Mapping[str, Any], sha256: str | None) -> 'Card':
        """Read the card from the JSON of a bundle or of an exported file.

        Args:
            found: The JSON: ``name``, ``input``, ``threshold``, ``temperature``.
            sha256: Hash of the file.

        Raises:
            KeyError, TypeError, ValueError: An entry is missing or of another kind.
        """
        given = found['input']
        return cls(
            name=str(found['name']),
            mean=tuple(map(float, given['mean'])),
            std=tuple(map(float, given['std'])),
            bands=tuple(map(str, given['bands'])),
            radiometry=from_spec(given['radiometry']),
            gsd_m=given['ground_sample_distance_m'],
            training_size=int(given['training_size']),
            divisor=int(given['divisor']),
            threshold=float(found['threshold']),
            temperature=float(found['temperature']),
            sha256=sha256,
        )

    def input_as_dict(self) -> dict[str, Any]:
        """What the model takes, as JSON values: the entry ``input`` that :meth:`of` reads."""
        return {
            'bands': list(self.bands),
            'radiometry': self.radiometry.describe(),
            'mean': list(self.mean),
            'std': list(self.std),
            'ground_sample_distance_m': self.gsd_m,
            'training_size': self.training_size,
            'divisor': self.divisor,
        }

    @property
    def band_order(self) -> tuple[str, ...]:
        """The order in which bands are asked for and read: red, green, blue for models of these
        three, whatever their own order is."""
        return RGB if set(self.bands) == set(RGB) else self.bands

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """Numbers of the files' bands that the model learned from, where their names tell them:
        ``band 3``."""
        found = [name.removeprefix('band ') for name in self.bands]
        return tuple(map(int, found)) if all(name.isdecimal() for name in found) else None

    @property
    def permutation(self) -> list[int]:
        """Position in :attr:`band_order` of each of the model's bands."""
        return [self.band_order.index(name) for name in self.bands]


def check_threshold(threshold: float | None) -> None:
    """Refuse a threshold that is no probability."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f'threshold={threshold:g}: a probability from 0 to 1 is needed')
