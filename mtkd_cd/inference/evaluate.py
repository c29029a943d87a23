"""Change maps against labels on any grid: scores per tile and pooled, and of objects."""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtkd_cd.core.car import IGNORE_INDEX
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.core.text import format_markdown_table, some
from mtkd_cd.data.labels import read_label
from mtkd_cd.data.pairs import IMAGE_SUFFIXES
from mtkd_cd.evaluation.counts import confusion_counts
from mtkd_cd.evaluation.image_table import ImageTable
from mtkd_cd.inference.batch import DONE, read_results
from mtkd_cd.inference.grid import Grid, reading, transformer_between, white_is_zero
from mtkd_cd.inference.raster.files import is_picture
from mtkd_cd.inference.vector import read_polygons

VECTORS = ('.gpkg', '.fgb', '.geojson', '.shp', '.parquet')
# Sides of squares of that many pixels, as COCO has them.
DEFAULT_SIZES = (32**2, 96**2)
_IOU = 0.5
_WINDOW = 'MTKD_CD_WINDOW'
_PURPOSE = 'an evaluation'
_ROWS = 512  # of pixel centres that are brought to another CRS at a time


@dataclass(frozen=True)
class Objects:
    """How many objects of one size class were found.

    An object is an 8-connected area of changed pixels; ignored pixels are left out of it. A
    predicted one and one of the label match if their intersection over union is above 0.5, so that
    no object has two partners (arXiv:1801.00868).

    Attributes:
        name: Name of the size class.
        label: Objects of the label in this class.
        found: Those of them that have a partner.
        predicted: Predicted objects in this class, by their own size.
        right: Those of them that have a partner.
    """

    name: str
    label: int
    found: int
    predicted: int
    right: int

    @property
    def recall(self) -> float | None:
        """Percent; ``None`` without an object of the label."""
        return 100 * self.found / self.label if self.label else None

    @property
    def precision(self) -> float | None:
        """Percent; ``None`` without a predicted object."""
        return 100 * self.right / self.predicted if self.predicted else None


@dataclass
class Evaluation:
    """What was found of a change map, or of several.

    Attributes:
        table: Counts and scores, an entry per tile.
        objects: By size class, all of them last.
        size_unit: Unit of the size classes: ``'pixels'`` or ``'m2'``.
        ignored_pixels: Pixels that did not count: nodata of the map, or unknown to the label.
        notes: What a reader should know.
    """

    table: ImageTable
    objects: list[Objects]
    size_unit: str
    ignored_pixels: int
    notes: list[str] = field(default_factory=list)

    def report(self) -> str:
        """The figures as text."""
        rows = [
            [
                one.name,
                str(one.label),
                _percent(one.recall),
                str(one.predicted),
                _percent(one.precision),
            ]
            for one in self.objects
        ]
        header = ['size', 'in the label', 'recall', 'predicted', 'precision']
        parts = [self.table.report()]
        if rows:
            parts.append(
                f'Objects at IoU above {_IOU:g}, by their size in {self.size_unit}, in percent:\n'
                + format_markdown_table(header, rows)
            )
        parts.append(
            f'{int(self.table.counts.sum())} pixels counted, {self.ignored_pixels} left out'
        )
        return '\n\n'.join([*parts, *self.notes])

    def as_dict(self) -> dict[str, Any]:
        """As JSON values: the per-image table's, and ``objects``, ``ignored_pixels``,
        ``notes``."""
        objects = [
            dict(
                name=one.name,
                label=one.label,
                found=one.found,
                predicted=one.predicted,
                right=one.right,
                recall=one.recall,
                precision=one.precision,
            )
            for one in self.objects
        ]
        return {
            **self.table.as_dict(),
            'objects': dict(iou=_IOU, size_unit=self.size_unit, classes=objects),
            'ignored_pixels': self.ignored_pixels,
            'notes': self.notes,
        }


def evaluate(
    prediction: str | os.PathLike,
    label: str | os.PathLike | None = None,
    *,
    tile: int | None = None,
    ignore_index: int | None = None,
    sizes: Sequence[float] | None = None,
    sizes_in_m2: bool = False,
    with_objects: bool = True,
) -> Evaluation:
    """Score change maps against labels.

    Args:
        prediction: A change map: 0 unchanged and 1 or 255 changed, nodata left out; a folder of
            them; or the ``results.csv`` of a batch whose list had a column ``label``.
        label: The truth: a raster or picture of 0 and 1 or 255, or a file of polygons; for a
            folder, a folder with files of the same names up to the suffix; for ``results.csv``,
            nothing. It is brought to the map's grid: rasters by nearest neighbour, polygons by the
            pixels' centres. What it does not cover or know is left out.
        tile: Side of the tiles in pixels; default: the window that the map was predicted with, by
            its tag, else the whole map is one tile. Tiles share a map evenly, without overlap.
        ignore_index: Value of pixels of the label that do not count.
        sizes: Bounds between the size classes of objects; default: 1024 and 9216 pixels.
        sizes_in_m2: Whether the sizes are square metres.
        with_objects: Whether objects are counted, which takes some 10 bytes per pixel of a map.

    Returns:
        The scores.

    Raises:
        UserError: A file that is missing or no good, values of another coding, a label of another
            place or size, an image without a partner.
    """
    if tile is not None and tile < 1:
        raise UserError(f'tile={tile}: at least one pixel is needed')
    if sizes_in_m2 and sizes is None:
        raise UserError('sizes in square metres: give their bounds, for instance 100 1000')
    bounds = tuple(sizes) if sizes is not None else DEFAULT_SIZES
    if list(bounds) != sorted(set(bounds)) or any(bound <= 0 for bound in bounds):
        raise UserError(f'sizes={list(bounds)}: bounds above 0 are needed, in ascending order')
    pairs, notes = _pairs(prediction, label)
    tally = _Tally(bounds)
    files: list[str] = []
    counts: list[np.ndarray] = []
    ignored = 0
    for name, predicted_file, label_file in pairs:
        scene = _open(predicted_file, label_file, ignore_index)
        notes += scene.notes
        known = scene.label != IGNORE_INDEX
        ignored += int(known.size - known.sum())
        side = tile or scene.window
        for row, col in _tiles(scene.label.shape, side):
            piece = scene.label[row, col]
            if (piece == IGNORE_INDEX).all():
                continue
            where = '' if side is None else f'/{row.start}_{col.start}'
            files.append(f'{name}{where}')
            counts.append(confusion_counts(scene.change[row, col], piece, IGNORE_INDEX))
        if with_objects:
            areas = None
            if sizes_in_m2:
                areas = scene.grid.pixel_areas()
                if areas is None:
                    raise UserError(
                        f'{predicted_file} has no CRS that lies on the earth, so that its objects '
                        'have no square metres: give sizes in pixels'
                    )
            tally.add(scene.change, scene.label, areas)
    if not counts:
        raise UserError(f'no pixel of {prediction} is known in both the map and its label')
    table = ImageTable(files, np.stack(counts), [None] * len(files), [None] * len(files))
    objects = tally.classes() if with_objects else []
    unit = 'm2' if sizes_in_m2 else 'pixels'
    return Evaluation(table, objects, unit, ignored, list(dict.fromkeys(notes)))


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'


def _pairs(
    prediction: str | os.PathLike, label: str | os.PathLike | None
) -> tuple[list[tuple[str, str, str]], list[str]]:
    """(name, change map, label) of each map, and notes."""
    path = Path(prediction)
    if path.suffix.lower() == '.csv' and path.is_file():
        if label is not None:
            raise UserError(f'{prediction} names the labels itself: leave {label} out')
        return _of_results(path)
    if label is None:
        raise UserError(f'{prediction}: give its label too, or the results.csv of a batch')
    for file in (path, Path(label)):
        if not file.exists():
            raise UserError(f'{file} does not exist')
    if path.is_dir() != Path(label).is_dir():
        raise UserError(
            f'one of {prediction} and {label} is a folder, the other is not: give two files or two '
            'folders'
        )
    if not path.is_dir():
        return [(path.stem, str(path), str(label))], []
    maps = _files(path, IMAGE_SUFFIXES)
    labels = _files(Path(label), (*IMAGE_SUFFIXES, *VECTORS))
    missing = [name for name in labels if name not in maps]
    if missing or not labels:
        raise UserError(
            f'{label} holds no label'
            if not labels
            else f'{len(missing)} labels in {label} have no change map of their name in '
            f'{prediction}: {some(missing, 5)}'
        )
    extra = [name for name in maps if name not in labels]
    notes = [f'{len(extra)} files without a label are left out: {some(extra, 3)}'] if extra else []
    return [(name, maps[name], labels[name]) for name in labels], notes


def _of_results(path: Path) -> tuple[list[tuple[str, str, str]], list[str]]:
    rows = read_results(path)
    done = [row for row in rows if row['status'] == DONE and row.get('label')]
    if not done:
        raise UserError(
            f'{path} has no pair that is done and has a label: give the list of the batch a '
            'column label'
        )
    notes = [f'{len(rows) - len(done)} pairs are left out: they failed, or have no label']
    pairs = [(row['name'], str(path.parent / row['out']), row['label']) for row in done]
    return pairs, notes if len(done) < len(rows) else []


def _files(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.rglob('*')):
        place = path.relative_to(folder)
        if any(part.startswith('.') for part in place.parts) or not path.is_file():
            continue
        if path.suffix.lower() not in suffixes:
            continue
        name = place.with_suffix('').as_posix()
        if name in found:
            raise UserError(f'{folder} has {Path(found[name]).name} and {path.name}: keep one')
        found[name] = str(path)
    return found


@dataclass
class _Scene:
    """A change map and its label, (H, W) uint8 both; the label is 255 where nothing counts."""

    grid: Grid
    change: np.ndarray
    label: np.ndarray
    window: int | None
    notes: list[str]


def _open(prediction: str, label: str, ignore_index: int | None) -> _Scene:
    rasterio = require('rasterio', 'geo', _PURPOSE)
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        with _raster(prediction) as dataset:
            grid = Grid.of(dataset)
            values, known = _mask_in(dataset)
            tag = dataset.tags().get(_WINDOW)
        change = _changed(prediction, values, known).astype(np.uint8)
        if Path(label).suffix.lower() in VECTORS:
            truth = _rasterised(label, grid, prediction)
        else:
            truth = _label_on(grid, label, prediction, ignore_index, notes)
    truth[~known] = IGNORE_INDEX
    return _Scene(grid, change, truth, int(tag) if tag and tag.isdigit() else None, notes)


def _raster(path: str) -> Any:
    rasterio = require('rasterio', 'geo', _PURPOSE)
    if not os.path.exists(path):
        raise UserError(f'{path} does not exist')
    try:
        return rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise UserError(f'{path} is not a raster that GDAL can read ({error})') from None


def _mask_in(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) values, white above black whichever of them is stored as 0, and known pixels."""
    with reading(dataset):
        values = dataset.read(1)
        known = dataset.read_masks(1) > 0
    if white_is_zero(dataset):
        bits = int(dataset.tags(1, ns='IMAGE_STRUCTURE').get('NBITS', 8 * values.itemsize))
        values = values.dtype.type(2**bits - 1) - values
    return values, known


def _changed(path: str, values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(H, W) bool: where a mask of 0 and 1, or 0 and 255, says change."""
    for change in (1, 255):
        changed = (values == change) & known
        if (changed | ~known | (values == 0)).all():
            return changed
    found = np.unique(values[known])
    raise UserError(
        f'{path} holds {", ".join(f"{value:g}" for value in found[:8])}: a mask of 0 and 1, or 0 '
        'and 255, is needed'
    )


def _label_on(
    grid: Grid, label: str, prediction: str, ignore_index: int | None, notes: list[str]
) -> np.ndarray:
    """(H, W) uint8 label on the grid: 0, 1 and 255."""
    shape = grid.height, grid.width
    if is_picture(label):
        array = read_label(label, format_seg_map='to_binary', ignored_value=ignore_index)
        _check_size(label, array.shape, prediction, shape)
        return array
    with _raster(label) as dataset:
        values, known = _mask_in(dataset)
        if dataset.nodata == 0:
            notes.append(f'{label}: its nodata value, 0, is read as unchanged')
            known[values == 0] = True
        own = Grid.of(dataset)
    if ignore_index is not None:
        known &= values != ignore_index
    changed = _changed(label, values, known)
    truth = np.where(known, changed, IGNORE_INDEX).astype(np.uint8)
    if own.crs is None or grid.crs is None:
        _check_size(label, truth.shape, prediction, shape)
        return truth
    if own.same_as(grid):
        return truth
    return _nearest(truth, own, grid, (label, prediction))


def _check_size(
    label: str, found: tuple[int, ...], prediction: str, wanted: tuple[int, ...]
) -> None:
    if tuple(found) != tuple(wanted):
        raise UserError(
            f'label {label} is {found[1]} x {found[0]} pixels, but {prediction} is {wanted[1]} x '
            f'{wanted[0]}, and without a CRS in both nothing says where one lies on the other: '
            'give the label the CRS of its image with gdal_edit.py -a_srs ... -a_ullr ...'
        )


def _nearest(truth: np.ndarray, own: Grid, grid: Grid, names: tuple[str, str]) -> np.ndarray:
    """The value of the label's pixel that each of the grid's pixel centres lies in; 255 outside of
    the label."""
    transformer = None
    if own.crs != grid.crs:
        transformer = transformer_between(grid.crs, own.crs, f'prediction {names[1]}')
    inverse = ~own.transform
    brought = np.full((grid.height, grid.width), IGNORE_INDEX, np.uint8)
    for top in range(0, grid.height, _ROWS):
        rows, cols = np.mgrid[top : min(top + _ROWS, grid.height), : grid.width] + 0.5
        xs, ys = _moved(grid.transform, cols, rows)
        if transformer is not None:
            xs, ys = transformer.transform(xs, ys)
        cols, rows = (np.floor(part) for part in _moved(inverse, xs, ys))
        inside = (cols >= 0) & (cols < own.width) & (rows >= 0) & (rows < own.height)
        part = brought[top : top + _ROWS]
        part[inside] = truth[rows[inside].astype(int), cols[inside].astype(int)]
    if (brought == IGNORE_INDEX).all() and not (truth == IGNORE_INDEX).all():
        raise UserError(
            f'label {names[0]} covers {own.bounds} in {own.crs}, and {names[1]} {grid.bounds} in '
            f'{grid.crs}: they do not overlap'
        )
    return brought


def _moved(transform: Any, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * xs + b * ys + c, d * xs + e * ys + f


def _rasterised(label: str, grid: Grid, prediction: str) -> np.ndarray:
    """(H, W) uint8: 1 where a pixel's centre lies in a polygon."""
    shapely = require('shapely', 'geo', _PURPOSE)
    features = require('rasterio.features', 'geo', _PURPOSE)
    crs, shapes = read_polygons(label, 'label')
    if bool(crs) != (grid.crs is not None):
        without, other = (label, prediction) if not crs else (prediction, label)
        raise UserError(f'{without} has no CRS, but {other} has one: give it its CRS')
    if grid.crs is not None:
        transformer = transformer_between(crs, grid.crs, f'label {label}')
        if transformer is not None:
            shapes = [
                shapely.transform(shape, transformer.transform, interleaved=False)
                for shape in shapes
            ]
    if not shapes:
        return np.zeros((grid.height, grid.width), np.uint8)
    return features.rasterize(
        shapes, (grid.height, grid.width), transform=grid.transform, dtype='uint8'
    )


def _tiles(shape: tuple[int, ...], side: int | None) -> Iterator[tuple[slice, slice]]:
    """Tiles of about that side that share an image evenly: no slivers, and every pixel once."""

    def parts(length: int) -> list[slice]:
        count = 1 if side is None else max(1, round(length / side))
        edges = np.linspace(0, length, count + 1).round().astype(int).tolist()
        return [slice(*edge) for edge in pairwise(edges)]

    for row in parts(shape[0]):
        for col in parts(shape[1]):
            yield row, col


class _Tally:
    """Objects of several maps, by size."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self._sizes: dict[str, list[np.ndarray]] = dict(label=[], predicted=[])
        self._matched: dict[str, list[np.ndarray]] = dict(label=[], predicted=[])

    def add(self, change: np.ndarray, label: np.ndarray, areas: np.ndarray | None) -> None:
        """Take the objects of a map; ``areas`` are those of a pixel of each row."""
        known = label != IGNORE_INDEX
        masks = dict(predicted=(change == 1) & known, label=label == 1)
        numbered, pixels = {}, {}
        for key, mask in masks.items():
            count, numbers = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            numbered[key] = numbers
            pixels[key] = np.bincount(numbers.ravel(), minlength=count)[1:]
            weights = pixels[key]
            if areas is not None:
                by_pixel = np.broadcast_to(areas[:, None], mask.shape).ravel()
                weights = np.bincount(numbers.ravel(), by_pixel, minlength=count)[1:]
            self._sizes[key].append(weights)
        both = masks['predicted'] & masks['label']
        width = len(pixels['label'])
        ids = (numbered['predicted'][both].astype(np.int64) - 1) * width
        shared, common = np.unique(ids + numbered['label'][both] - 1, return_counts=True)
        first, second = np.divmod(shared, max(width, 1))
        union = pixels['predicted'][first] + pixels['label'][second] - common
        match = common > _IOU * union
        for key, index in (('predicted', first), ('label', second)):
            matched = np.zeros(len(pixels[key]), bool)
            matched[index[match]] = True
            self._matched[key].append(matched)

    def classes(self) -> list[Objects]:
        """The size classes, then all objects."""
        sizes = {key: np.concatenate(parts) for key, parts in self._sizes.items()}
        matched = {key: np.concatenate(parts) for key, parts in self._matched.items()}
        edges = [0.0, *self.bounds, np.inf]
        named = [(_class_name(low, high), low, high) for low, high in pairwise(edges)]
        rows = []
        for name, low, high in [*named, ('all', 0.0, np.inf)]:
            inside = {key: (size >= low) & (size < high) for key, size in sizes.items()}
            rows.append(
                Objects(
                    name,
                    int(inside['label'].sum()),
                    int((inside['label'] & matched['label']).sum()),
                    int(inside['predicted'].sum()),
                    int((inside['predicted'] & matched['predicted']).sum()),
                )
            )
        return rows


def _class_name(low: float, high: float) -> str:
    if low == 0:
        return f'below {high:g}'
    return f'{low:g} and more' if np.isinf(high) else f'{low:g} to {high:g}'
