"""What is refused, and what the message tells to do about it."""

import datetime
import shutil
import sys

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint

from mtkd_cd.core.errors import UserError
from tests.inference.conftest import ORIGIN, UTM, Constant

SHAPE = (3, 40, 50)


@pytest.fixture
def gray() -> np.ndarray:
    return np.full(SHAPE, 90, np.uint8)


@pytest.fixture
def refused(inferencer_of, tmp_path, write_raster, gray):
    """Predict with bad input; gives the message, and sees that nothing was written."""

    def run(a=None, b=None, card=None, out='o.tif', **options) -> str:
        a = a or write_raster('a.tif', gray)
        b = b or write_raster('b.tif', gray)
        before = sorted(tmp_path.iterdir())
        model = Constant(0.4)
        with pytest.raises(UserError) as error:
            inferencer_of(model, **(card or {})).predict_raster(a, b, tmp_path / out, **options)
        assert model.calls == 0
        assert sorted(tmp_path.iterdir()) == before
        print(error.value)
        return str(error.value)

    return run


def test_missing_file(refused, tmp_path):
    assert f'{tmp_path / "none.tif"} does not exist' in refused(a=tmp_path / 'none.tif')


def test_not_a_raster(refused, tmp_path):
    path = tmp_path / 'text.tif'
    path.write_text('hello')
    message = refused(b=path)
    assert 'text.tif is not a raster that GDAL can read' in message
    assert 'give a GeoTIFF, PNG or JPEG' in message


def test_no_overlap_shows_both_bounds_in_both_crs(refused, write_raster, gray):
    far = write_raster('far.tif', gray, 0.001, (20.0, 10.0), 'EPSG:4326')
    message = refused(b=far)
    assert 'the rasters do not overlap' in message
    for part in ('500000, 4.7996e+06', f'in {UTM}', '20, 9.96, 20.05, 10 in EPSG:4326'):
        assert part in message
    assert message.count('EPSG:4326') == 2
    assert message.count(UTM) == 2


def test_crs_in_one_only(refused, write_raster, gray):
    bare = write_raster('bare.tif', gray, crs=None)
    message = refused(b=bare)
    assert 'bare.tif has no CRS, but' in message
    assert UTM in message
    assert '--assume-aligned' in message
    assert 'gdal_edit.py -a_srs' in message


def test_assumed_alignment_is_taken(write_raster, gray, inferencer_of, tmp_path):
    a, b = write_raster('a.tif', gray), write_raster('bare.tif', gray, crs=None)
    result = inferencer_of(Constant(0.7)).predict_raster(
        a, b, tmp_path / 'o.tif', assume_aligned=True
    )
    assert result.car == 1


def test_assumed_alignment_of_unequal_sizes(refused, write_raster, gray):
    bare = write_raster('bare.tif', gray[:, :30], crs=None)
    message = refused(b=bare, assume_aligned=True)
    assert 'is 50 x 30 pixels, but' in message
    assert 'only rasters of equal size' in message


def test_no_georeference_and_unequal_sizes(refused, write_raster, gray):
    a = write_raster('x.tif', gray, crs=None)
    b = write_raster('y.tif', gray[:, :, :20], crs=None)
    message = refused(a=a, b=b)
    assert 'y.tif is 20 x 40 pixels' in message
    assert 'neither has a georeference' in message


def test_no_georeference_and_equal_sizes_is_taken(write_raster, gray, inferencer_of, tmp_path):
    a, b = (write_raster(name, gray, crs=None) for name in ('x.tif', 'y.tif'))
    result = inferencer_of(Constant(0.7)).predict_raster(a, b, tmp_path / 'o.tif')
    assert result.area_m2 is None


def test_rotated_grid(refused, write_raster, gray):
    transform = rasterio.Affine.translation(*ORIGIN) * rasterio.Affine.rotation(30)
    turned = write_raster('turned.tif', gray, transform=transform * rasterio.Affine.scale(10, -10))
    message = refused(b=turned)
    assert 'turned.tif is on a rotated grid' in message
    assert 'gdalwarp' in message


def test_ground_control_points(refused, tmp_path, gray):
    path = tmp_path / 'gcps.tif'
    points = [
        GroundControlPoint(row, col, ORIGIN[0] + col * 10, ORIGIN[1] - row * 10)
        for row, col in ((0, 0), (0, 49), (39, 0), (39, 49))
    ]
    with rasterio.open(
        path, 'w', driver='GTiff', width=50, height=40, count=3, dtype='uint8'
    ) as file:
        file.write(gray)
        file.gcps = points, rasterio.crs.CRS.from_string(UTM)
    message = refused(b=path)
    assert 'is located by ground control points' in message
    assert 'gdalwarp -tps' in message


def test_rational_polynomials(refused, tmp_path, gray):
    path = tmp_path / 'rpc.tif'
    with rasterio.open(
        path, 'w', driver='GTiff', width=50, height=40, count=3, dtype='uint8'
    ) as file:
        file.write(gray)
        coefficients = [1.0] + [0.0] * 19
        file.rpcs = rasterio.rpc.RPC(
            err_bias=None,
            err_rand=None,
            height_off=0,
            height_scale=1,
            lat_off=45,
            lat_scale=1,
            line_den_coeff=coefficients,
            line_num_coeff=coefficients,
            line_off=0,
            line_scale=1,
            long_off=10,
            long_scale=1,
            samp_den_coeff=coefficients,
            samp_num_coeff=coefficients,
            samp_off=0,
            samp_scale=1,
        )
    message = refused(b=path)
    assert 'RPCs' in message
    assert 'gdalwarp -rpc' in message


def test_wrong_number_of_bands_lists_them(refused, write_raster):
    many = np.zeros((4, 40, 50), np.uint8)
    path = write_raster('many.tif', many, photometric='MINISBLACK')
    with rasterio.open(path, 'r+') as file:
        for index, name in enumerate(('B02', 'B03', 'B04', 'B08'), 1):
            file.set_band_description(index, name)
    message = refused(b=path)
    assert 'many.tif has 4 bands (1 B02, 2 B03, 3 B04, 4 B08)' in message
    assert 'the model takes 3: red, green, blue' in message
    assert '--bands 3,2,1' in message


@pytest.mark.parametrize(
    ('count', 'advice'), [(1, '--bands 1,1,1'), (2, 'Give a raster that has them')]
)
def test_too_few_bands(refused, write_raster, gray, count, advice, inferencer_of, tmp_path):
    few = write_raster('few.tif', gray[:count])
    message = refused(few, few)
    assert f'few.tif has {count} band' in message
    assert advice in message
    if count == 1:
        inferencer_of(Constant(0.4)).predict_raster(few, few, tmp_path / 'o.tif', bands=(1, 1, 1))


def test_complex_values(refused, write_raster, gray):
    waves = write_raster('waves.tif', gray.astype(np.complex64))
    assert 'waves.tif holds complex64 values: real numbers are needed' in refused(waves)


@pytest.mark.parametrize('bands', [(1, 2), (1, 2, 9)])
def test_bands_that_do_not_fit(refused, bands):
    message = refused(bands=bands)
    assert '--bands' in message
    assert 'the model takes 3' in message or 'has no band 9; it has 1' in message


def test_dtype_without_a_rule_shows_percentiles_and_the_option(refused, write_raster):
    values = np.random.default_rng(0).integers(200, 3000, SHAPE).astype(np.uint16)
    message = refused(a=write_raster('deep.tif', values), b=write_raster('deep2.tif', values))
    assert 'uint16' in message
    assert 'percentiles' in message
    assert "--stretch 'percentile(2, 98)'" in message
    assert "--stretch 'linear(" in message


def test_mask_of_another_size(refused, write_raster):
    mask = write_raster('mask.tif', np.zeros((1, 40, 49), np.uint8))
    message = refused(mask=mask)
    assert 'mask.tif is 49 x 40 pixels' in message
    assert 'is 50 x 40' in message
    assert 'gdalwarp -ts 50 40' in message


def test_mask_that_lies_elsewhere(refused, write_raster):
    mask = write_raster('mask.tif', np.zeros((1, 40, 50), np.uint8), origin=(0.0, 0.0))
    assert 'lies elsewhere' in refused(mask=mask)


@pytest.mark.parametrize('name', ['change', 'probability'])
def test_existing_output(refused, tmp_path, name):
    (tmp_path / 'there.tif').write_text('mine')
    options = (
        dict(out='there.tif') if name == 'change' else dict(probability=tmp_path / 'there.tif')
    )
    message = refused(**options)
    assert f'{name} {tmp_path / "there.tif"} exists' in message
    assert '--overwrite' in message
    assert (tmp_path / 'there.tif').read_text() == 'mine'


def test_output_that_is_an_input(refused):
    assert 'is an input' in refused(out='a.tif', overwrite=True)


def test_one_output_twice(refused, tmp_path):
    assert 'give two names' in refused(probability=tmp_path / 'o.tif')


@pytest.mark.parametrize(
    'options', [dict(out='o.jpg'), dict(probability='p.png'), dict(vector='v.shp')]
)
def test_unknown_extension(refused, options):
    message = refused(**options)
    assert 'unknown extension' in message
    assert '.tif' in message or '.gpkg' in message


def test_disk_too_small(refused, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    message = refused()
    assert '0.00 GB free' in message
    assert 'are needed' in message


def test_dates_the_wrong_way_round_warn(write_raster, gray, inferencer_of, tmp_path):
    paths = []
    for name, year in (('a.tif', 2020), ('b.tif', 2018)):
        path = write_raster(name, gray)
        with rasterio.open(path, 'r+') as file:
            taken = datetime.datetime(year, 3, 1, 10)
            file.update_tags(TIFFTAG_DATETIME=taken.strftime('%Y:%m:%d %H:%M:%S'))
        paths.append(path)
    with pytest.warns(UserWarning, match=r'2020-03-01T10.*2018-03-01T10.*wrong way round'):
        inferencer_of(Constant(0.4)).predict_raster(*paths, tmp_path / 'o.tif')


@pytest.mark.parametrize('box', [(0, 0, 10, 10), (10, 10, 0, 0)])
def test_box_outside_or_upside_down(refused, box):
    message = refused(bbox=box)
    assert 'lies outside of' in message or 'left, bottom, right, top are needed' in message


def test_settings_out_of_range(refused):
    assert 'threshold=1.5' in refused(threshold=1.5)
    assert 'overlap=64' in refused(overlap=64)
    assert "route='best'" in refused(route='best')
    assert 'only a cascade' in refused(detector_band=True)
    assert 'ground sample distance is not known' in refused(gsd='model')


def test_extra_missing(refused, monkeypatch):
    real = __import__('importlib').import_module

    def without(name, *args):
        if name.startswith('pyproj'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
        return real(name, *args)

    monkeypatch.setattr('importlib.import_module', without)
    message = refused(card=dict(gsd_m=10.0))
    assert "needs pyproj, which is not installed: pip install 'mtkd-cd[geo]'" in message


def test_polygons_are_refused_before_the_prediction(refused, write_raster, gray, monkeypatch):
    bare = write_raster('x.tif', gray, crs=None), write_raster('y.tif', gray, crs=None)
    message = refused(*bare, vector='v.gpkg', min_area=5.0)
    assert 'x.tif has no CRS, so min_area in metres cannot be measured' in message
    assert 'gdal_edit.py -a_srs' in message
    monkeypatch.setitem(sys.modules, 'geopandas', None)
    assert "pip install 'mtkd-cd[parquet]'" in refused(vector='v.parquet')
    monkeypatch.setitem(sys.modules, 'shapely', None)
    assert "pip install 'mtkd-cd[geo]'" in refused(vector='v.gpkg')
