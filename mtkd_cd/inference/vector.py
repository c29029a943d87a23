"""Polygons of a change map: traced, measured on the ellipsoid and written in a GIS's formats."""

import io
import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.inference.grid import is_on_earth

DRIVERS = {'.gpkg': 'GPKG', '.fgb': 'FlatGeobuf', '.geojson': 'GeoJSON', '.parquet': 'Parquet'}
LAYER = 'change'
_CHANGED = 1
_BLOCK = 1024
_LONGEST_EDGE = 32  # pixels; longer edges leave the straight line of the map on the ellipsoid
_PURPOSE = 'writing polygons'


@dataclass(frozen=True)
class PolygonSummary:
    """What was written.

    Attributes:
        path: The file.
        count: Polygons in it.
        area_m2: Their geodesic area together; ``None`` without a CRS.
        dropped: Polygons smaller than the smallest area.
    """

    path: Path
    count: int
    area_m2: float | None
    dropped: int


def check_polygons(
    vector: str | os.PathLike,
    crs: Any,
    name: str | os.PathLike,
    *,
    min_area: float | None = None,
    simplify: float | None = None,
    fill_holes: float | None = None,
) -> list[str]:
    """Refuse now what :func:`write_polygons` would refuse after a long prediction.

    Args:
        vector: File to write.
        crs: Of the map, or ``None``.
        name: Of the map or of the raster whose grid it has.
        min_area: See :func:`write_polygons`; likewise the others.

    Returns:
        Warnings: polygons without a place on the earth have no areas.

    Raises:
        UserError: An unknown extension, a missing extra, or metres asked for without a CRS.
    """
    driver = DRIVERS.get(Path(vector).suffix.lower())
    if driver is None:
        raise UserError(
            f'vector {vector}: unknown extension {Path(vector).suffix!r}; use {", ".join(DRIVERS)}'
        )
    for module in ('rasterio', 'shapely', *(() if driver == 'Parquet' else ('pyogrio.raw',))):
        require(module, 'geo', _PURPOSE)
    if driver == 'Parquet':
        for module in ('geopandas', 'pyarrow'):
            require(module, 'parquet', 'writing Parquet')
    in_metres = dict(min_area=min_area, simplify=simplify, fill_holes=fill_holes)
    asked = [key for key, value in in_metres.items() if value is not None]
    for key in asked:
        if not 0 <= (value := in_metres[key] or 0.0) < math.inf:
            raise UserError(f'{key}={value:g}: a number from 0 is needed')
    if asked and not is_on_earth(crs):
        raise UserError(
            f'{name} has {_no_place(crs)}, so {", ".join(asked)} in metres cannot be measured: '
            'leave it out, or give the raster its CRS with gdal_edit.py -a_srs'
        )
    if is_on_earth(crs):
        return []
    units = 'pixel coordinates, column and row' if crs is None else 'its coordinates'
    return [f'{name} has {_no_place(crs)}: the polygons are in {units}, without areas']


def _no_place(crs: Any) -> str:
    return 'no CRS' if crs is None else 'a local CRS, which lies nowhere on the earth'


def write_polygons(
    change: str | os.PathLike,
    probability: str | os.PathLike | None,
    vector: str | os.PathLike,
    *,
    min_area: float | None = None,
    simplify: float | None = None,
    fill_holes: float | None = None,
    detector: str = '',
    date_a: str | None = None,
    date_b: str | None = None,
) -> PolygonSummary:
    """Trace the changed areas of a written change map, 8-connected, and write them as polygons.

    Every polygon has ``id``, ``area_m2`` and ``perimeter_m`` (geodesic), ``prob_mean``,
    ``prob_max``, ``pixels``, ``date_a``, ``date_b`` and ``detector``. ``pixels`` and the
    probabilities are of the traced pixels, before holes are filled and lines simplified. What lies
    in a filled hole becomes part of the polygon round it. The CRS is the map's; GeoJSON is in
    EPSG:4326.

    Args:
        change: The change map: 1 is change. In a map without a nodata value, whatever is not 0 is
            change. A second band called ``detector`` holds the number of the detector that
            predicted each pixel, counted in the tag ``MTKD_CD_DETECTORS``.
        probability: The probability on the same grid, or None.
        vector: File to write: ``.gpkg``, ``.fgb``, ``.geojson`` or ``.parquet``. The caller names a
            temporary file and renames it.
        min_area: Smallest polygon in square metres.
        simplify: Tolerance of the lines in metres.
        fill_holes: Holes up to that many square metres are filled.
        detector: Name of the detector, where the map does not tell it.
        date_a: Date of the first image, as text.
        date_b: Date of the second image, as text.

    Returns:
        What was written. Without any change, a layer without polygons that has fields and CRS.

    Raises:
        UserError: An unknown extension, a missing extra, or metres asked for without a CRS.
    """
    vector = Path(vector)
    rasterio = require('rasterio', 'geo', _PURPOSE)
    shapely = require('shapely', 'geo', _PURPOSE)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(change) as dataset:
            ruler = _Ruler.of(dataset)
            check_polygons(
                vector,
                dataset.crs,
                Path(change).name,
                min_area=min_area,
                simplify=simplify,
                fill_holes=fill_holes,
            )
            outlines = list(_trace(dataset))  # in pixel coordinates
            columns = _zonal(dataset, probability, outlines, detector)
    transform = ruler.transform
    geometries = [_placed(shapely, outline, transform) for outline in outlines]
    if fill_holes is not None:
        geometries, owners = _filled(shapely, geometries, fill_holes, ruler)
        geometries = [geometries[index] for index in np.unique(owners)]
        columns = _merged(columns, owners)
    if simplify is not None:
        geometries = [ruler.simplified(g, simplify) for g in geometries]
    measured = [ruler.area_and_perimeter(geometry) for geometry in geometries]
    columns['area_m2'] = np.array([area for area, _ in measured], float)
    columns['perimeter_m'] = np.array([perimeter for _, perimeter in measured], float)
    keep = np.ones(len(geometries), bool)
    if min_area is not None:
        keep = columns['area_m2'] >= min_area
    kept = [geometry for geometry, wanted in zip(geometries, keep) if wanted]
    fields = {
        'id': np.arange(1, len(kept) + 1, dtype=np.int64),
        'area_m2': columns['area_m2'][keep],
        'perimeter_m': columns['perimeter_m'][keep],
        'prob_mean': columns['prob_mean'][keep],
        'prob_max': columns['prob_max'][keep],
        'pixels': columns['pixels'][keep],
        'date_a': np.array([date_a or ''] * len(kept), object),
        'date_b': np.array([date_b or ''] * len(kept), object),
        'detector': columns['detector'][keep],
    }
    _write(vector, DRIVERS[vector.suffix.lower()], kept, fields, ruler.crs)
    total = None if ruler.geod is None else float(fields['area_m2'].sum())
    return PolygonSummary(vector, len(kept), total, int((~keep).sum()))


def _trace(dataset: Any) -> Iterator[Any]:
    """Shapely polygons of the changed areas, in (column, row) coordinates, from the top down."""
    features = require('rasterio.features', 'geo', _PURPOSE)
    rasterio = require('rasterio', 'geo', _PURPOSE)
    shapely = require('shapely', 'geo', _PURPOSE)
    band = rasterio.band(dataset, 1)
    to_pixels = (~dataset.transform).to_shapely()
    # GDAL reads the band by rows and masks zeros by the band itself; it places what it traces.
    for geometry, value in features.shapes(band, mask=band, connectivity=8):
        if value == _CHANGED or (dataset.nodata is None and value):
            outline = shapely.affinity.affine_transform(shapely.geometry.shape(geometry), to_pixels)
            yield shapely.transform(outline, np.rint)  # corners of pixels


def _placed(shapely: Any, outline: Any, transform: Any) -> Any:
    """A traced outline in the map's CRS, valid, always a MultiPolygon.

    An 8-connected area may touch itself in a corner, which one ring may not.
    """
    placed = shapely.affinity.affine_transform(outline, transform.to_shapely())
    if not placed.is_valid:
        placed = placed.buffer(0)
    parts = placed.geoms if placed.geom_type == 'MultiPolygon' else [placed]
    return shapely.MultiPolygon(list(parts))


def _filled(
    shapely: Any, geometries: Sequence[Any], largest: float, ruler: '_Ruler'
) -> tuple[list[Any], np.ndarray]:
    """Geometries without their holes up to ``largest`` square metres, and for each of them the
    number of the one that it belongs to: itself, or the outermost one in whose filled hole it lies.
    """
    filled, holes = [], []
    for index, geometry in enumerate(geometries):
        parts = []
        for polygon in geometry.geoms:
            open_rings = []
            for ring in polygon.interiors:
                hole = shapely.Polygon(ring)
                area = ruler.area_and_perimeter(hole)[0]
                if area > largest:
                    open_rings.append(ring)
                else:
                    holes.append((area, index, hole))
            parts.append(shapely.Polygon(polygon.exterior, open_rings))
        whole = shapely.union_all(parts)
        parts = [whole] if whole.geom_type == 'Polygon' else list(whole.geoms)
        filled.append(shapely.MultiPolygon(parts))
    owners = np.arange(len(filled))
    tree = shapely.STRtree([geometry.representative_point() for geometry in geometries])
    for _, index, hole in sorted(holes, key=lambda one: one[0]):
        owners[tree.query(hole, predicate='contains')] = index
    return filled, owners


def _merged(columns: dict[str, np.ndarray], owners: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of the outlines that own themselves, with the pixels of those that they own."""
    kept, groups = np.unique(owners, return_inverse=True)
    pixels, sums = (
        np.bincount(groups, weights, minlength=len(kept))
        for weights in (columns['pixels'], columns['pixels'] * columns['prob_mean'])
    )
    peaks = np.full(len(kept), -np.inf)
    np.maximum.at(peaks, groups, columns['prob_max'])
    return {
        'pixels': pixels.astype(np.int64),
        'prob_mean': sums / np.maximum(pixels, 1),
        'prob_max': peaks,
        'detector': columns['detector'][kept],
    }


@dataclass(frozen=True)
class _Ruler:
    """Measures geometries of one CRS on the ellipsoid.

    Attributes:
        crs: Of the geometries.
        transform: From pixels to the CRS.
        geod: The ellipsoid; None without a CRS that lies on the earth.
        to_degrees: From the CRS to longitude and latitude.
        edge: Longest edge that is taken as straight, in units of the CRS.
    """

    crs: Any
    transform: Any
    geod: Any = None
    to_degrees: Any = None
    edge: float = math.inf

    @classmethod
    def of(cls, dataset: Any) -> '_Ruler':
        transform = dataset.transform
        if not is_on_earth(dataset.crs):
            return cls(dataset.crs, transform)
        pyproj = require('pyproj', 'geo', _PURPOSE)
        crs = pyproj.CRS.from_wkt(dataset.crs.to_wkt())
        to_degrees = pyproj.Transformer.from_crs(crs, 'EPSG:4326', always_xy=True)
        side = min(math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e))
        return cls(
            dataset.crs, transform, pyproj.Geod(ellps='WGS84'), to_degrees, side * _LONGEST_EDGE
        )

    def area_and_perimeter(self, geometry: Any) -> tuple[float, float]:
        """Square metres and metres; NaN without a CRS."""
        if self.geod is None:
            return math.nan, math.nan
        shapely = require('shapely', 'geo', _PURPOSE)
        dense = shapely.segmentize(geometry, self.edge)
        on_earth = shapely.transform(dense, self._degrees)
        area = 0.0
        perimeter = 0.0
        for polygon in getattr(on_earth, 'geoms', [on_earth]):
            outer = self.geod.geometry_area_perimeter(shapely.Polygon(polygon.exterior))
            area += abs(outer[0])
            perimeter += outer[1]
            for ring in polygon.interiors:
                inner = self.geod.geometry_area_perimeter(shapely.Polygon(ring))
                area -= abs(inner[0])
                perimeter += inner[1]
        return area, perimeter

    def simplified(self, geometry: Any, tolerance: float) -> Any:
        """The geometry with lines that may differ by ``tolerance`` metres."""
        shapely = require('shapely', 'geo', _PURPOSE)
        x, y = geometry.centroid.coords[0]
        step = self.edge / _LONGEST_EDGE
        lon, lat = self.to_degrees.transform([x, x + step, x], [y, y, y + step])
        across = self.geod.inv(lon[0], lat[0], lon[1], lat[1])[2] / step
        down = self.geod.inv(lon[0], lat[0], lon[2], lat[2])[2] / step
        in_metres = shapely.affinity.scale(geometry, across, down, origin=(0, 0))
        smooth = shapely.simplify(in_metres, tolerance)
        back = shapely.affinity.scale(smooth, 1 / across, 1 / down, origin=(0, 0))
        if back.is_empty:
            return geometry
        if not back.is_valid:
            back = back.buffer(0)
        parts = list(back.geoms) if back.geom_type == 'MultiPolygon' else [back]
        return shapely.MultiPolygon(parts)

    def _degrees(self, points: np.ndarray) -> np.ndarray:
        lon, lat = self.to_degrees.transform(points[:, 0], points[:, 1])
        return np.column_stack([lon, lat])


def _zonal(
    dataset: Any, probability: str | os.PathLike | None, outlines: Sequence[Any], detector: str
) -> dict[str, np.ndarray]:
    """Pixels, mean and largest probability, and who served, of each outline."""
    count = len(outlines)
    pixels, sums = np.zeros(count, np.int64), np.zeros(count)
    peaks = np.full(count, -np.inf)
    who = _detectors(dataset, detector)
    votes = np.zeros((count, len(who)), np.int64)
    rasterio = require('rasterio', 'geo', _PURPOSE)
    source = rasterio.open(probability) if probability is not None else None
    try:
        for window, ids in _numbered(dataset, outlines):
            found = ids >= 0
            own = ids[found]
            pixels += np.bincount(own, minlength=count)
            if source is not None:
                scale = source.scales[0] or 1.0
                values = source.read(1, window=window)[found] * scale
                sums += np.bincount(own, values, minlength=count)
                np.maximum.at(peaks, own, values)
            if len(who) > 1:
                served = dataset.read(2, window=window)[found]
                np.add.at(votes, (own, np.minimum(served, len(who) - 1)), 1)
    finally:
        if source is not None:
            source.close()
    unknown = np.full(count, math.nan)
    chosen = votes.argmax(1) if count else np.zeros(0, int)
    return {
        'pixels': pixels,
        'prob_mean': sums / np.maximum(pixels, 1) if source is not None else unknown,
        'prob_max': peaks if source is not None else unknown,
        'detector': np.array([who[index] for index in chosen], object),
    }


def _detectors(dataset: Any, detector: str) -> list[str]:
    """Names by the numbers of the map's second band; the one name of a map without it."""
    if dataset.count < 2:
        return [detector]
    names = json.loads(dataset.tags().get('MTKD_CD_DETECTORS', '[]'))
    return names if len(names) > 1 else [detector]


def _numbered(dataset: Any, outlines: Sequence[Any]) -> Iterator[tuple[Any, np.ndarray]]:
    """Blocks of the map and, of each of their pixels, the number of its outline or -1."""
    features = require('rasterio.features', 'geo', _PURPOSE)
    rasterio = require('rasterio', 'geo', _PURPOSE)
    shapely = require('shapely', 'geo', _PURPOSE)
    if not outlines:
        return
    tree = shapely.STRtree(list(outlines))
    for row in range(0, dataset.height, _BLOCK):
        for col in range(0, dataset.width, _BLOCK):
            height = min(_BLOCK, dataset.height - row)
            width = min(_BLOCK, dataset.width - col)
            inside = np.sort(tree.query(shapely.box(col, row, col + width, row + height)))
            if not len(inside):
                continue
            ids = features.rasterize(
                [(outlines[index], int(index) + 1) for index in inside],
                out_shape=(height, width),
                transform=rasterio.Affine.translation(col, row),
                dtype='int32',
            )
            window = rasterio.windows.Window(col, row, width, height)
            # An outline inside another's hole, or filled over it, is told apart by the map.
            ids[dataset.read(1, window=window) == 0] = 0
            yield window, ids - 1


def _write(
    path: Path, driver: str, geometries: Sequence[Any], fields: dict[str, np.ndarray], crs: Any
) -> None:
    shapely = require('shapely', 'geo', _PURPOSE)
    if driver == 'Parquet':
        geopandas = require('geopandas', 'parquet', 'writing Parquet')
        series = geopandas.GeoSeries(list(geometries), crs=None if crs is None else crs.to_wkt())
        geopandas.GeoDataFrame(fields, geometry=series).to_parquet(path)
        return
    raw = require('pyogrio.raw', 'geo', _PURPOSE)
    options: dict[str, Any] = {}
    wkt = None if crs is None else crs.to_wkt()
    if driver == 'GeoJSON':
        options = dict(COORDINATE_PRECISION='9')
        if is_on_earth(crs):
            geometries = [_in_degrees(shapely, crs, geometry) for geometry in geometries]
            wkt = 'EPSG:4326'
        else:
            wkt = None  # the format knows degrees alone
    if driver == 'FlatGeobuf' and not geometries:
        options = dict(SPATIAL_INDEX='NO')  # there is nothing to index
    # What pyogrio would look for elsewhere is written in memory first.
    target: str | io.BytesIO = io.BytesIO() if _looks_like_uri(path) else str(path)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message="'crs' was not provided")
        raw.write(
            target,
            geometry=np.array([shapely.to_wkb(geometry) for geometry in geometries], object),
            field_data=list(fields.values()),
            fields=np.array(list(fields), object),
            geometry_type='MultiPolygon',
            crs=wkt,
            driver=driver,
            layer=LAYER,
            layer_options=options,
        )
    if isinstance(target, io.BytesIO):
        path.write_bytes(target.getvalue())


def read_polygons(path: str | os.PathLike, what: str) -> tuple[str | None, list[Any]]:
    """(CRS, the polygons with an area) of a file.

    Raises:
        UserError: It cannot be read; ``what`` says what it is.
    """
    pyogrio = require('pyogrio', 'geo', f'{what} of polygons')
    shapely = require('shapely', 'geo', f'{what} of polygons')
    try:
        source = Path(path).read_bytes() if _looks_like_uri(path) else path
        meta, _, geometries, _ = pyogrio.raw.read(source, columns=[])
    except Exception as error:  # pyogrio raises all sorts of errors on what it cannot read
        raise UserError(f'{what} {path} cannot be read: {error}') from None
    shapes = [shape for shape in shapely.from_wkb(geometries) if shape is not None]
    return meta['crs'], [shape for shape in shapes if shape.area > 0]


def _looks_like_uri(path: str | os.PathLike) -> bool:
    """Whether pyogrio would take a part of a local path for something else: what follows ``;`` for
    parameters, what precedes ``!`` for an archive."""
    text = os.fspath(path)
    local = not text.startswith('/vsi') and '://' not in text
    return local and any(sign in text for sign in ';!\n\r\t')


def _in_degrees(shapely: Any, crs: Any, geometry: Any) -> Any:
    pyproj = require('pyproj', 'geo', _PURPOSE)
    to_degrees = pyproj.Transformer.from_crs(crs.to_wkt(), 'EPSG:4326', always_xy=True)

    def moved(points: np.ndarray) -> np.ndarray:
        return np.column_stack(to_degrees.transform(points[:, 0], points[:, 1]))

    return shapely.transform(geometry, moved)
