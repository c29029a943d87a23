"""Polygons of change maps: traced whole, measured on the ellipsoid, in four formats."""

import json
import warnings

import numpy as np
import pytest
from scipy import ndimage

from mtkd_cd.core.errors import UserError

rasterio = pytest.importorskip('rasterio')
pyogrio = pytest.importorskip('pyogrio')
pyproj = pytest.importorskip('pyproj')
shapely = pytest.importorskip('shapely')

from mtkd_cd.inference.vector import (  # noqa: E402
    check_polygons,
    read_polygons,
    write_polygons,
)

EIGHT = np.ones((3, 3))
UTM = ('EPSG:32632', rasterio.Affine(10, 0, 600_000, 0, -10, 4_850_000))
DEGREES = ('EPSG:4326', rasterio.Affine(1e-4, 0, 10.3, 0, -1e-4, 43.8))
FIELDS = ['id', 'area_m2', 'perimeter_m', 'prob_mean', 'prob_max', 'pixels', 'date_a', 'date_b']
FIELDS += ['detector']


@pytest.fixture
def blobs() -> np.ndarray:
    """(300, 2200) of 0 and 1: over two blocks, some touch in a corner, some have holes."""
    noise = np.random.default_rng(0).normal(size=(300, 2200))
    return (ndimage.gaussian_filter(noise, 4) > 0.12).astype(np.uint8)


@pytest.fixture
def write(tmp_path):
    def write_raster(array, name='map.tif', place=UTM, nodata=255, scale=None, **tags):
        crs, transform = place
        bands = array if array.ndim == 3 else array[None]
        path = tmp_path / name
        profile = dict(driver='GTiff', height=bands.shape[1], width=bands.shape[2])
        profile |= dict(count=len(bands), dtype=bands.dtype, nodata=nodata)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with rasterio.open(path, 'w', crs=crs, transform=transform, **profile) as file:
                file.write(bands)
                file.update_tags(**tags)
                if scale:
                    file.scales = (scale,)
        return path

    return write_raster


def read(path):
    return pyogrio.raw.read(path)


def table(path) -> dict:
    meta, _, _, columns = read(path)
    return dict(zip(meta['fields'], columns))


def pixel_area(place, row, col) -> float:
    crs, transform = place
    to_degrees = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    corners = [(col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1)]
    lon, lat = zip(*(to_degrees.transform(*(transform * corner)) for corner in corners))
    return abs(pyproj.Geod(ellps='WGS84').polygon_area_perimeter(lon, lat)[0])


@pytest.mark.parametrize('place', [UTM, DEGREES], ids=['metres', 'degrees'])
def test_every_8_connected_area_is_one_polygon_of_its_pixels(place, blobs, write, tmp_path):
    out = tmp_path / 'change.gpkg'
    summary = write_polygons(write(blobs, place=place), None, out)
    labels, count = ndimage.label(blobs, EIGHT)
    found = table(out)
    assert summary.count == count
    assert sorted(found['pixels']) == sorted(np.bincount(labels.ravel())[1:])
    assert shapely.is_valid(shapely.from_wkb(read(out)[2])).all()
    rows, cols = np.nonzero(blobs)
    sample = [pixel_area(place, row, col) for row, col in zip(rows[::500], cols[::500])]
    assert found['area_m2'].sum() == pytest.approx(np.mean(sample) * len(rows), rel=1e-3)


def test_probabilities_are_those_of_the_pixels(blobs, write, tmp_path):
    steps = np.random.default_rng(1).integers(0, 251, blobs.shape).astype(np.uint8)
    out = tmp_path / 'change.gpkg'
    write_polygons(write(blobs), write(steps, 'p.tif', scale=1 / 250), out)
    labels, count = ndimage.label(blobs, EIGHT)
    index = np.arange(1, count + 1)
    means = ndimage.mean(steps / 250, labels, index)
    peaks = ndimage.maximum(steps / 250, labels, index)
    found = table(out)
    wanted = sorted(zip(np.bincount(labels.ravel())[1:], means, peaks))
    got = sorted(zip(found['pixels'], found['prob_mean'], found['prob_max']))
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_nodata_is_no_change(write, tmp_path):
    array = np.zeros((20, 20), np.uint8)
    array[:, 10:] = 255
    array[3:5, 3:6] = 1
    write_polygons(write(array), None, tmp_path / 'c.gpkg')
    assert table(tmp_path / 'c.gpkg')['pixels'].tolist() == [6]


@pytest.mark.parametrize('suffix', ['.gpkg', '.fgb', '.geojson'])
@pytest.mark.parametrize('empty', [False, True], ids=['change', 'no change'])
def test_each_format_has_fields_and_crs(suffix, empty, blobs, write, tmp_path):
    out = tmp_path / f'c{suffix}'
    change = write(blobs * np.uint8(not empty))
    summary = write_polygons(change, None, out, date_a='2020-01-01', date_b='2021-01-01')
    meta, _, geometries, columns = read(out)
    crs = pyproj.CRS(meta['crs'])
    assert crs.to_epsg() == (4326 if suffix == '.geojson' else 32632)
    assert len(geometries) == summary.count
    assert (summary.count == 0) == empty
    if suffix != '.geojson' or not empty:  # GeoJSON keeps fields with its features alone
        assert list(meta['fields']) == FIELDS
    if not empty:
        assert {str(date) for date in columns[6]} == {'2020-01-01'}
    if suffix == '.geojson' and not empty:
        lon, lat = json.loads(out.read_text())['features'][0]['geometry']['coordinates'][0][0][0]
        assert (round(lon), round(lat)) == (10, 44)


@pytest.mark.parametrize('suffix', ['.gpkg', '.fgb', '.geojson'])
@pytest.mark.parametrize('name', ['semi;colon', 'ready!', 'two\nlines', 'per%20cent#?&'])
def test_names_that_look_like_addresses_are_names(suffix, name, write, tmp_path):
    """What follows a semicolon was cut off: the polygons went to another file."""
    folder = tmp_path / 'f;old!er'
    folder.mkdir()
    kept = tmp_path / 'f'
    kept.write_text("the user's")
    vector = folder / f'{name}{suffix}'
    array = np.zeros((20, 20), np.uint8)
    array[2:5, 3:9] = 1
    write_polygons(write(array), None, vector)
    assert [path.name for path in folder.iterdir()] == [vector.name]
    assert kept.read_text() == "the user's"
    crs, (shape,) = read_polygons(vector, 'label')
    to_metres = pyproj.Transformer.from_crs(crs, UTM[0], always_xy=True)
    area = shapely.transform(shape, to_metres.transform, interleaved=False).area
    assert area == pytest.approx(18 * 10**2, rel=1e-4)


def test_parquet_has_fields_and_crs(blobs, write, tmp_path):
    geopandas = pytest.importorskip('geopandas')
    pytest.importorskip('pyarrow')
    for name, array in (('some', blobs), ('none', blobs * 0)):
        out = tmp_path / f'{name}.parquet'
        summary = write_polygons(write(array), None, out)
        frame = geopandas.read_parquet(out)
        assert (list(frame.columns[:-1]), frame.crs.to_epsg()) == (FIELDS, 32632)
        assert len(frame) == summary.count


@pytest.mark.parametrize('place', [UTM, DEGREES], ids=['metres', 'degrees'])
def test_smallest_area_is_in_square_metres_whatever_the_crs(place, write, tmp_path):
    array = np.zeros((30, 30), np.uint8)
    array[2:4, 2:4] = 1  # 4 pixels
    array[10:16, 10:16] = 1  # 36 pixels
    limit = 20 * pixel_area(place, 12, 12)
    change = write(array, place=place)
    summary = write_polygons(change, None, tmp_path / 'c.gpkg', min_area=limit)
    assert (summary.count, summary.dropped) == (1, 1)
    assert table(tmp_path / 'c.gpkg')['pixels'].tolist() == [36]


def test_small_holes_are_filled_and_large_ones_stay(write, tmp_path):
    array = np.zeros((40, 40), np.uint8)
    array[5:35, 5:35] = 1
    array[8, 8] = 0  # 100 m2
    array[15:25, 15:25] = 0  # 10,000 m2
    array[20, 20] = 1  # an area of its own in the large hole
    summary = write_polygons(write(array), None, tmp_path / 'c.gpkg', fill_holes=500)
    found = table(tmp_path / 'c.gpkg')
    assert summary.count == 2
    assert found['area_m2'].max() == pytest.approx(800 * 100, rel=2e-3)
    assert sorted(found['pixels']) == [1, 799]


def test_what_lies_in_a_filled_hole_belongs_to_the_polygon_round_it(write, tmp_path):
    array = np.zeros((60, 80), np.uint8)
    array[5:50, 5:60] = 1
    array[10:45, 10:55] = 0
    array[15:40, 15:50] = 1  # a second ring in the hole of the first
    array[18:37, 18:47] = 0
    array[25:28, 25:30] = 1
    array[3, 70] = 1
    rng = np.random.default_rng(0)
    probability = np.where(array, rng.integers(130, 250, array.shape), 10).astype(np.uint8)
    write_polygons(
        write(array),
        write(probability, 'p.tif', scale=1 / 250),
        tmp_path / 'c.gpkg',
        fill_holes=1e6,
    )
    fields, geometries = table(tmp_path / 'c.gpkg'), shapely.from_wkb(read(tmp_path / 'c.gpkg')[2])
    assert sorted(fields['pixels']) == [1, (array[:, :65] == 1).sum()]
    large = int(np.argmax(fields['pixels']))
    inside = probability[:, :65][array[:, :65] == 1] / 250
    assert fields['prob_mean'][large] == pytest.approx(inside.mean())
    assert fields['prob_max'][large] == pytest.approx(inside.max())
    assert shapely.area(geometries[large]) == pytest.approx(45 * 55 * 100)
    assert shapely.union_all(geometries).area == pytest.approx(shapely.area(geometries).sum())


def test_lines_are_simplified_by_metres(write, tmp_path):
    rows, cols = np.mgrid[:80, :80]
    disc = ((rows - 40) ** 2 + (cols - 40) ** 2 < 30**2).astype(np.uint8)
    for place in (UTM, DEGREES):
        change = write(disc, place=place)
        outlines = {}
        for name, simplify in (('fine', None), ('smooth', 10)):
            write_polygons(change, None, tmp_path / f'{name}.gpkg', simplify=simplify)
            outlines[name] = shapely.from_wkb(read(tmp_path / f'{name}.gpkg')[2][0])
        corners = {name: shapely.get_num_coordinates(shape) for name, shape in outlines.items()}
        assert corners['smooth'] < corners['fine'] / 2
        distance = outlines['smooth'].hausdorff_distance(outlines['fine'])
        assert distance < 1.5 * abs(place[1].a)


def test_who_served_is_read_from_the_map(write, tmp_path):
    array = np.zeros((2, 20, 20), np.uint8)
    array[0, 2:5, 2:5] = array[0, 10:15, 10:15] = 1
    array[1, 8:] = 2
    change = write(array, MTKD_CD_DETECTORS=json.dumps(['origin', 'small', 'large']))
    write_polygons(change, None, tmp_path / 'c.gpkg', detector='cascade')
    assert table(tmp_path / 'c.gpkg')['detector'].tolist() == ['origin', 'large']


def test_without_a_crs_polygons_are_in_pixels_and_it_is_said(write, tmp_path):
    array = np.zeros((20, 20), np.uint8)
    array[3:5, 7:10] = 1
    change = write(array, place=(None, rasterio.Affine.identity()))
    (note,) = check_polygons(tmp_path / 'c.gpkg', None, 'map.tif')
    assert 'map.tif has no CRS: the polygons are in pixel coordinates' in note
    write_polygons(change, None, tmp_path / 'c.gpkg')
    geometry = shapely.from_wkb(read(tmp_path / 'c.gpkg')[2][0])
    assert geometry.bounds == (7, 3, 10, 5)
    assert np.isnan(table(tmp_path / 'c.gpkg')['area_m2']).all()
    with pytest.raises(UserError, match='has no CRS, so min_area in metres'):
        write_polygons(change, None, tmp_path / 'd.gpkg', min_area=5)


@pytest.mark.parametrize('suffix', ['gpkg', 'geojson', 'fgb'])
def test_a_local_crs_gives_polygons_without_areas(write, tmp_path, suffix):
    array = np.zeros((20, 20), np.uint8)
    array[3:5, 7:10] = 1
    local = 'LOCAL_CS["site",UNIT["metre",1]]'
    change = write(array, place=(local, rasterio.Affine(0.5, 0, 100, 0, -0.5, 200)))
    path = tmp_path / f'c.{suffix}'
    summary = write_polygons(change, None, path)
    geometry = shapely.from_wkb(read(path)[2][0])
    assert geometry.bounds == (103.5, 197.5, 105, 198.5)
    assert summary.area_m2 is None
    assert np.isnan(np.array(table(path)['area_m2'], float)).all()
    with pytest.raises(UserError, match=r'has a local CRS, .* so min_area in metres'):
        write_polygons(change, None, path, min_area=5)


def test_unknown_extension_is_refused(write, tmp_path):
    change = write(np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match=r"unknown extension '\.shp'.*\.gpkg"):
        write_polygons(change, None, tmp_path / 'c.shp')
