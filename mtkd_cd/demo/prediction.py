"""One prediction that the page holds: its probability is kept, so that another threshold costs a
comparison and no network."""

import os
import shutil
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.data.radiometry import Rule, from_spec
from mtkd_cd.demo.uploads import Limits, take_upload
from mtkd_cd.inference.grid import Grid, Shift, is_on_earth
from mtkd_cd.inference.inferencer import ChangeInferencer
from mtkd_cd.inference.map_files import MapWriter
from mtkd_cd.inference.outputs import Staged
from mtkd_cd.inference.raster.files import date_of, is_picture
from mtkd_cd.inference.raster.opening import open_pair
from mtkd_cd.inference.raster.pair import RasterPair
from mtkd_cd.inference.raster.request import PairOptions
from mtkd_cd.inference.vector import write_polygons
from mtkd_cd.inference.windows import Rows, Window

SHOWN_SIDE = 1024  # pixels of what the browser gets, at most
# Polygons that are written for a visitor: more take minutes, and are noise.
MOST_POLYGONS = 20_000
_LEAST_SIDE = 512  # smaller images are shown with larger pixels
_PREFIX = 'MTKD_CD_'
_CHANGE_COLOUR = np.array((255, 64, 32), np.float32)
_UNKNOWN_COLOUR = np.array((60, 60, 60), np.uint8)


@dataclass(frozen=True)
class Choices:
    """What the user may choose beside the images, as ``mtkd-cd predict`` calls it.

    Attributes:
        gsd: ``None``, ``'keep'`` or ``'model'``.
        stretch: Radiometry rule; empty for the model's.
        bands: Band numbers with commas; empty for the first ones.
        coregister: Whether the shift between the dates is taken out.
        assume_aligned: Whether images of equal size lie on one grid, whatever they say.
    """

    gsd: str | None = None
    stretch: str = ''
    bands: str = ''
    coregister: bool = False
    assume_aligned: bool = False

    def band_numbers(self) -> tuple[int, ...] | None:
        """The bands as numbers.

        Raises:
            UserError: Something else.
        """
        if not self.bands.strip():
            return None
        try:
            return tuple(int(part) for part in self.bands.split(','))
        except ValueError:
            raise UserError(
                f'bands {self.bands!r}: whole numbers with commas between them are needed, for '
                'instance 3,2,1'
            ) from None


@dataclass(frozen=True)
class Counts:
    """What has changed at a threshold.

    Attributes:
        threshold: A pixel has changed if its probability is above it.
        changed: Pixels.
        valid: Pixels of which something is known.
        area_m2: Of the changed pixels, geodesic; ``None`` without a CRS.
        polygons: Areas of changed pixels that touch, also in a corner.
    """

    threshold: float
    changed: int
    valid: int
    area_m2: float | None
    polygons: int


@dataclass
class Prediction:
    """A predicted pair.

    Attributes:
        folder: Where its files are.
        grid: Of all maps.
        probability: (H, W) float32 of change; NaN where nothing is known.
        shown: (h, w, 3) uint8 of both dates, as the browser gets them.
        notes: Warnings.
        detector: Who served, for the polygons.
        dates: What the files' tags say of their dates.
        tags: Of the written maps.
        picture: Whether the change map is a PNG.
    """

    folder: Path
    grid: Grid
    probability: np.ndarray
    shown: tuple[np.ndarray, np.ndarray]
    notes: list[str] = field(default_factory=list)
    detector: str = ''
    dates: tuple[str | None, str | None] = (None, None)
    tags: Mapping[str, Any] = field(default_factory=dict)
    picture: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._removed = False
        self._valid = ~np.isnan(self.probability)
        self._pixel_areas = self.grid.pixel_areas()

    def changed(self, threshold: float) -> np.ndarray:
        """(H, W) bool."""
        return self.probability > threshold  # no comparison with NaN is true

    def counts(self, threshold: float) -> Counts:
        """What has changed at a threshold, from the probability that is kept."""
        changed = self.changed(threshold)
        by_row = changed.sum(1)
        areas = self._pixel_areas
        labels, _ = cv2.connectedComponents(changed.astype(np.uint8), connectivity=8)
        return Counts(
            threshold,
            int(by_row.sum()),
            int(self._valid.sum()),
            None if areas is None else float((by_row * areas).sum()),
            labels - 1,
        )

    def overlay(self, threshold: float) -> np.ndarray:
        """(h, w, 3) uint8: date B in grey, what has changed in colour."""
        b = self.shown[1]
        grey = cv2.cvtColor(cv2.cvtColor(b, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        picture = (grey * 0.75 + 40).astype(np.uint8)
        changed = _to_shown(self.changed(threshold), b.shape[:2])
        mixed = 0.3 * grey[changed] + 0.7 * _CHANGE_COLOUR
        picture[changed] = mixed.astype(np.uint8)
        picture[_to_shown(~self._valid, b.shape[:2])] = _UNKNOWN_COLOUR
        return picture

    def write(self, threshold: float) -> dict[str, Path]:
        """Write what the page offers at a threshold, as ``mtkd-cd predict`` does.

        Returns:
            ``change``, ``probability`` and, unless there are more than :data:`MOST_POLYGONS`,
            ``polygons``.

        Raises:
            UserError: It has been removed.
        """
        with self._lock:
            if self._removed:
                raise UserError('this prediction is no longer kept: press Predict again')
            return self._write(threshold)

    def remove(self) -> None:
        """Remove its files, once none is being written."""
        with self._lock:
            self._removed = True
            shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, threshold: float) -> dict[str, Path]:
        counts = self.counts(threshold)
        probability = self.folder / 'probability.tif'
        targets = dict(change=self.folder / ('change.png' if self.picture else 'change.tif'))
        if counts.polygons <= MOST_POLYGONS:
            targets['polygons'] = self.folder / 'change.gpkg'
        tags = dict(self.tags, threshold=threshold, car=counts.changed / max(counts.valid, 1))
        with Staged(targets) as staged:
            change = staged.paths['change']
            writer = MapWriter(self.grid, change, None, 'uint8', threshold)
            try:
                writer.write(Rows(0, 0, self.probability, self._valid, None))
                writer.tag(tags)
            except BaseException:
                writer.abandon()
                raise
            writer.close()
            if 'polygons' in targets:
                write_polygons(
                    change,
                    probability,
                    staged.paths['polygons'],
                    detector=self.detector,
                    date_a=self.dates[0],
                    date_b=self.dates[1],
                )
            staged.commit()
        return dict(targets, probability=probability)


def predict(
    inferencer: ChangeInferencer,
    a: str | os.PathLike | None,
    b: str | os.PathLike | None,
    folder: Path,
    limits: Limits | None = None,
    choices: Choices | None = None,
) -> Prediction:
    """Predict two uploads.

    Args:
        inferencer: The model.
        a: Upload of date A; ``None`` if there is none.
        b: Of date B.
        folder: Where the prediction's files go; of no other prediction.
        limits: What is too large.
        choices: What the user has chosen.

    Raises:
        UserError: What is wrong with the uploads, by the names that they have on the page.
    """
    limits, choices = limits or Limits(), choices or Choices()
    (path_a, name_a), (path_b, name_b) = (
        take_upload(path, date, folder, limits) for path, date in ((a, 'A'), (b, 'B'))
    )
    names = {str(path_a): name_a, str(path_b): name_b}
    try:
        return _predict(inferencer, path_a, path_b, folder, choices, names)
    except UserError as error:
        raise UserError(_renamed(str(error), names)) from None


def _predict(
    inferencer: ChangeInferencer,
    a: Path,
    b: Path,
    folder: Path,
    choices: Choices,
    names: Mapping[str, str],
) -> Prediction:
    probability = folder / 'probability.tif'
    bands = choices.band_numbers()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # they are in the report
        result = inferencer.predict_raster(
            a,
            b,
            folder / 'change.tif',
            probability=probability,
            probability_dtype='float32',
            overwrite=True,
            gsd=choices.gsd,
            stretch=choices.stretch.strip() or None,
            bands=bands,
            coregister=choices.coregister,
            assume_aligned=choices.assume_aligned,
        )
    rasterio = require('rasterio', 'geo', 'the page')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(probability) as dataset:
            grid, values, tags = Grid.of(dataset), dataset.read(1), dataset.tags()
    kept = {
        key.removeprefix(_PREFIX).lower(): value
        for key, value in tags.items()
        if key.startswith(_PREFIX)
    }
    options = PairOptions(
        bands=bands,
        trained_bands=inferencer.trained_bands,
        band_names=inferencer.card.band_order,
        assume_aligned=choices.assume_aligned,
    )
    stretch = {key: value for key, value in result.report['stretch'].items() if key != 'text'}
    with open_pair(a, b, options) as pair:
        if result.report['coregistered']:
            found = dict(result.report['shift'])
            pair.coregister(Shift(**{one.name: found[one.name] for one in fields(Shift)}))
        pair.bring_to_grid(folder / '.warped.tif')
        shown = _pictures(pair, from_spec(stretch))
    (folder / '.warped.tif').unlink(missing_ok=True)
    notes = [_renamed(note, names) for note in result.report['warnings']]
    if grid.crs is None:
        notes.append('the images have no CRS: areas are in pixels, polygons in pixel coordinates')
    elif not is_on_earth(grid.crs):
        notes.append('the CRS of the images lies nowhere on the earth: areas are in pixels')
    return Prediction(
        folder,
        grid,
        values,
        shown,
        notes=notes,
        detector=inferencer.card.name,
        dates=(date_of(a), date_of(b)),
        tags={**kept, 'input_a': names[str(a)], 'input_b': names[str(b)]},
        picture=is_picture(a) and is_picture(b),
    )


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """A message with the names of the page for the paths of the server."""
    for path, name in names.items():
        text = text.replace(f'image {path}', name).replace(path, name)
    return text


def _pictures(pair: RasterPair, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """Both dates, the first three bands as red, green and blue, at the size that is shown."""
    height, width = pair.grid.height, pair.grid.width
    step = max(1, -(-max(height, width) // SHOWN_SIDE))
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    rows = step * max(1, 512 // step)
    for top in range(0, height, rows):
        window = Window(top, 0, min(rows, height - top), width)
        size = (-(-width // step), -(-window.height // step))
        for date, strips in zip((pair.a, pair.b), parts):
            values, valid = date.read(window)
            colour = np.nan_to_num(rule.apply(values[_three(len(values))]), nan=0.0)
            colour[:, ~valid] = 0
            image = np.ascontiguousarray(colour.transpose(1, 2, 0)).astype(np.uint8)
            strips.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    factor = max(1, _LEAST_SIDE // max(height, width))
    a, b = (
        np.concatenate(strips).repeat(factor, 0).repeat(factor, 1)
        if factor > 1
        else np.concatenate(strips)
        for strips in parts
    )
    return a, b


def _three(bands: int) -> list[int]:
    return [0, 1, 2] if bands >= 3 else [0, 0, 0]


def _to_shown(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask at the size that is shown; a shown pixel with any of it has it."""
    if mask.shape == shape:
        return mask
    size = (shape[1], shape[0])
    if shape[0] > mask.shape[0]:
        return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return share > 0
