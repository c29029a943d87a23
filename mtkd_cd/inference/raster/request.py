"""What is asked of a pair of rasters: how it is read, how it is predicted, what is written; each
argument checked for itself."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.radiometry import Rule
from mtkd_cd.inference.grid import RESAMPLING

VECTORS = ('.gpkg', '.fgb', '.geojson', '.parquet')
_CHOICES: dict[str, tuple[str | None, ...]] = dict(
    probability_dtype=('uint8', 'float32'),
    route=('window', 'raster'),
    gsd=(None, 'keep', 'model'),
    resampling=(None, *RESAMPLING),
)
_LEAST = dict(batch_size=1, edge_buffer=0, strip=1)


@dataclass(frozen=True)
class PairOptions:
    """How two rasters become a pair.

    Attributes:
        bands: Band numbers of the files, from 1, in the order of the card's ``band_order``.
        trained_bands: Numbers of the bands that the model learned from, which are read where
            ``bands`` is ``None`` and a file has other bands than red, green and blue.
        band_names: What the model calls these bands.
        mask: Raster on A's grid whose pixels are left out where it is not 0.
        mask_values: Leave out the pixels where it has one of these values instead.
        nodata: Value of invalid pixels in files that declare none.
        bbox: (left, bottom, right, top) in A's CRS. Only that window is predicted.
        aoi: File of polygons; only their bounds are predicted, and nothing outside of them.
        assume_aligned: Whether rasters of equal size lie on one grid, whatever they say.
        resampling: Rule by which B is brought to A's grid; ``None``: bilinear, or average if B is
            more than twice as fine.
        edge_buffer: Valid pixels within that many pixels of an invalid one are left out too.
        offset_a: Added to the values of A.
        offset_b: Added to the values of B.
    """

    bands: tuple[int, ...] | None = None
    trained_bands: tuple[int, ...] | None = None
    band_names: tuple[str, ...] = ('red', 'green', 'blue')
    mask: str | os.PathLike | None = None
    mask_values: tuple[int, ...] | None = None
    nodata: float | None = None
    bbox: tuple[float, float, float, float] | None = None
    aoi: str | os.PathLike | None = None
    assume_aligned: bool = False
    resampling: str | None = None
    edge_buffer: int = 0
    offset_a: float = 0.0
    offset_b: float = 0.0


@dataclass(frozen=True)
class RunOptions:
    """How a pair of rasters is predicted.

    Attributes:
        threshold: Threshold instead of the card's.
        window: Side of the windows in pixels; ``None``: the model's training size.
        overlap: Overlap of the windows, as a fraction below 1 or in pixels.
        stretch: Radiometry instead of the card's.
        gsd: ``'model'``, ``'keep'`` or ``None``: whether to resample to the model's ground sample
            distance, to predict at any, or to refuse another.
        coregister: Whether the measured shift between the dates is taken out.
        resampling: Rule by which B is brought to A's grid.
        batch_size: Windows that go through the network together.
        strip: Columns that are predicted at a time.
        route: Of a cascade: ``'window'`` or ``'raster'``, for which one detector is picked.
        detector_band: Whether the number of each pixel's detector is kept.
    """

    threshold: float | None
    window: int | None
    overlap: float
    stretch: str | Mapping | Rule | None
    gsd: str | None
    coregister: bool
    resampling: str | None
    batch_size: int
    strip: int
    route: str
    detector_band: bool


@dataclass(frozen=True)
class OutputOptions:
    """What is written of a pair of rasters.

    Attributes:
        targets: The files: ``change``, and as asked ``probability`` and ``vector``.
        probability_dtype: ``'uint8'`` or ``'float32'``.
        cog: Whether GeoTIFFs become cloud-optimised ones with overviews.
        tags: Further tags of the change map and the probability.
        min_area: Smallest polygon in square metres.
        simplify: Tolerance of the polygons' lines in metres.
        fill_holes: Holes in polygons up to that many square metres are filled.
        date_a: For the polygons; ``None``: what the file's tags say.
        date_b: Likewise.
    """

    targets: dict[str, Path]
    probability_dtype: str
    cog: bool
    tags: Mapping[str, Any]
    min_area: float | None
    simplify: float | None
    fill_holes: float | None
    date_a: str | None
    date_b: str | None

    def dates_or(self, tagged: tuple[str | None, str | None]) -> tuple[str | None, str | None]:
        """The dates as they were given, or as the files' tags say."""
        return self.date_a or tagged[0], self.date_b or tagged[1]

    @property
    def shaping(self) -> dict[str, float | None]:
        """What is done to the polygons, by the names that :mod:`~mtkd_cd.inference.vector` has."""
        return dict(min_area=self.min_area, simplify=self.simplify, fill_holes=self.fill_holes)


def check_paths(**given: Any) -> None:
    """Refuse what is no path, and is not needed or left out either."""
    for name, value in given.items():
        if value is None and name not in ('a', 'b', 'out'):
            continue
        if not isinstance(value, (str, os.PathLike)):
            raise UserError(
                f'{name}: the path of a file is needed, found {type(value).__name__}. A dataset of '
                'rasterio has its path in .name; pairs of arrays are predicted with '
                'inferencer([[a, b]])'
            )


def map_targets(out: Any, probability: Any, vector: Any) -> dict[str, Path]:
    """The files that are written, by what they are.

    Raises:
        UserError: An unknown kind of polygons.
    """
    targets = dict(change=Path(out))
    if probability is not None:
        targets['probability'] = Path(probability)
    if vector is not None:
        targets['vector'] = Path(vector)
        if targets['vector'].suffix.lower() not in VECTORS:
            raise UserError(
                f'vector {vector}: unknown extension {targets["vector"].suffix!r}; use '
                f'{", ".join(VECTORS)}'
            )
    return targets


def as_box(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    """Read a bounding box.

    Raises:
        UserError: It has not four numbers.
    """
    try:
        left, bottom, right, top = map(float, bbox)
    except (TypeError, ValueError):
        raise UserError(
            f'bbox={bbox!r}: left, bottom, right, top are needed, in this order'
        ) from None
    return left, bottom, right, top


def check_choices(**given: Any) -> None:
    """Refuse options that are none of their choices."""
    for name, value in given.items():
        choices = _CHOICES[name]
        if value not in choices:
            raise UserError(f'{name}={value!r}: one of {", ".join(map(repr, choices))} is needed')


def check_whole_numbers(**given: Any) -> None:
    """Refuse numbers of pixels or windows that are no whole numbers, or too small."""
    for name, number in given.items():
        least = _LEAST[name]
        if not isinstance(number, int) or number < least:
            raise UserError(f'{name}={number!r}: a whole number from {least} up is needed')


def check_finite(**given: float) -> None:
    """Refuse numbers that are infinite or none."""
    for name, number in given.items():
        if not math.isfinite(number):
            raise UserError(f'{name}={number:g}: a finite number is needed')
