"""What a prediction gives back: of a pair of images, of a pair of rasters."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtkd_cd.core.errors import UserError
from mtkd_cd.inference.map_files import read_map, read_probability


@dataclass
class PairResult:
    """What was predicted of a pair of images.

    Attributes:
        change: (H, W) uint8: 0, 1; 0 where nothing is known.
        probability: (H, W) float32, NaN where nothing is known.
        valid: (H, W) bool: where both files have data.
        car: Changed share of the valid pixels.
        range: The named CAR range that it lies in.
        detector: Name of the detector that predicted the pair; ``''`` where the model is no
            cascade.
        report: Further facts.
    """

    change: np.ndarray
    probability: np.ndarray
    valid: np.ndarray
    car: float
    range: str
    detector: str = ''
    report: dict[str, Any] = field(default_factory=dict)


@dataclass
class RasterResult:
    """What was predicted of a pair of rasters.

    Attributes:
        change: The change map; ``None`` after a dry run.
        probability: The probability, if it was asked for.
        vector: The polygons, if they were asked for.
        report: What was found in the inputs, and what was done: ``grid``, ``windows``, ``gsd``,
            ``shift``, ``stretch``, ``warnings`` and more, as JSON values.
        car: Changed share of the valid pixels.
        area_m2: Changed square metres, geodesic; ``None`` without a CRS that lies on the earth.
        changed_pixels: Number of changed pixels.
        valid_pixels: Number of valid pixels.
        range: The named CAR range of the scene.
        detectors: Of a cascade: the detectors that predicted.
        seconds: How long it took.
    """

    change: Path | None
    probability: Path | None
    vector: Path | None
    report: dict[str, Any]
    car: float | None = None
    area_m2: float | None = None
    changed_pixels: int = 0
    valid_pixels: int = 0
    range: str | None = None
    detectors: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def detector(self) -> str:
        """Name of the detector that predicted; of a cascade all that did, separated by commas."""
        return ', '.join(self.detectors)

    def read(self) -> PairResult:
        """Read the written files as whole arrays, for rasters that fit into memory.

        ``probability`` is NaN where it is not known, and everywhere if it was not asked for.

        Raises:
            UserError: It was a dry run.
        """
        if self.change is None:
            raise UserError('a dry run writes no map that could be read')
        change, valid = read_map(self.change)
        probability = np.full(change.shape, np.nan, np.float32)
        if self.probability is not None:
            probability = read_probability(self.probability)
        return PairResult(
            change,
            probability,
            valid,
            self.car or 0.0,
            self.range or '',
            self.detector,
            self.report,
        )
