"""What is refused, and what the message tells to do about it."""

import datetime
import os
import shutil
import sys
import warnings

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.control import GroundControlPoint

from mtkd_cd.core.errors import UserError
from mtkd_cd.inference.inferencer import ChangeInferencer
from mtkd_cd.inference.stack import stack_pair
from tests.inference.conftest import ORIGIN, UTM, Constant, Difference

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
    assert '1 kB free' in message
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


def test_a_colour_palette_is_no_values(refused, write_raster, gray):
    path = write_raster('palette.tif', gray[:1])
    with rasterio.open(path, 'r+') as file:
        file.write_colormap(1, {value: (255 - value, 7, value, 255) for value in range(256)})
    for options in ({}, dict(bands=(1, 1, 1))):
        message = refused(a=path, **options)
        assert 'palette.tif has a colour palette: its band 1 holds the numbers' in message
        assert f'gdal_translate -expand rgb {path}' in message


def test_options_without_an_effect(refused, tool, tmp_path):
    assert '--route raster: only a cascade has several detectors' in refused(route='raster')
    assert '--cog: ' in refused(out='o.png', cog=True)
    argv = ('a.tif', 'b.tif', '-m', 'x.mtkd', '-o', tmp_path / 'o.tif', '--prob-dtype', 'float32')
    assert '--prob-dtype is about --probability' in tool('predict', *argv)[1]


def test_what_is_no_path_is_named(refused, write_raster, gray):
    with rasterio.open(write_raster('c.tif', gray)) as dataset:
        message = refused(b=dataset)
    assert 'b: the path of a file is needed, found DatasetReader' in message
    assert 'inferencer([[a, b]])' in message
    assert 'mask: the path of a file is needed, found ndarray' in refused(mask=gray[0])


@pytest.mark.parametrize(
    'options', [dict(window=0), dict(window=64.0), dict(strip=0), dict(batch_size=2.5)]
)
def test_whole_numbers_are_needed(refused, options):
    ((name, value),) = options.items()
    assert f'{name}={value!r}: a whole number from 1 up is needed' in refused(**options)


def test_default_type_of_the_session_does_not_matter(inferencer_of, tmp_path, write_raster, gray):
    seen = []

    class Noting(Constant):
        def probability(self, pairs):
            seen.append(pairs.dtype)
            return super().probability(pairs)

    torch.set_default_dtype(torch.float64)
    try:
        path = write_raster('a.tif', gray), write_raster('b.tif', gray)
        inferencer_of(Noting(0.4)).predict_raster(*path, tmp_path / 'o.tif')
    finally:
        torch.set_default_dtype(torch.float32)
    assert set(seen) == {torch.float32}


def test_one_file_for_both_dates_is_said(inferencer_of, tmp_path, write_raster, gray):
    path = write_raster('a.tif', gray)
    with pytest.warns(UserWarning, match=r'both dates are one file, .*a\.tif'):
        inferencer_of(Constant(0.4)).predict_raster(path, path, tmp_path / 'o.tif')


def test_values_that_say_the_reverse_are_refused(refused, write_raster, gray):
    path = write_raster('fax.tif', gray[:1], photometric='MINISWHITE')
    for options in (dict(a=path, bands=(1, 1, 1)), dict(mask=path)):
        message = refused(**options)
        assert 'fax.tif stores white as 0 (MINISWHITE)' in message
        assert '-scale 0 255 255 0' in message


def test_a_local_crs_beside_one_on_the_earth(refused, write_raster, gray):
    local = write_raster('site.tif', gray, crs='LOCAL_CS["site",UNIT["metre",1]]')
    assert 'site.tif has a local CRS, which lies nowhere on the earth' in refused(b=local)
    assert '--gsd model: the rasters have no CRS that lies' in refused(
        a=local, b=local, card=dict(gsd_m=0.5), gsd='model'
    )


@pytest.mark.parametrize(
    ('scale_b', 'offset_b', 'options', 'said'),
    [
        (1e-4, -0.1, {}, '--offset-b -1000 brings them to one'),
        (1e-4, -0.1, dict(offset_b=-1000.0), None),
        (1e-4, -0.1, dict(offset_a=1000.0), None),
        (1e-4, 0.0, {}, None),
        (1e-4, 0.0, dict(offset_b=-10.0), None),
        (2e-4, 0.0, {}, 'gdal_translate -unscale'),
    ],
)
def test_two_scales_warn(inferencer_of, tmp_path, scale_b, offset_b, options, said, write_raster):
    paths = []
    for name, scale, offset in (('a.tif', 1e-4, 0.0), ('b.tif', scale_b, offset_b)):
        paths.append(write_raster(name, np.full(SHAPE, 900, np.uint16)))
        with rasterio.open(paths[-1], 'r+') as file:
            file.scales, file.offsets = (scale,) * 3, (offset,) * 3
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        result = inferencer_of(Constant(0.4)).predict_raster(
            *paths, tmp_path / 'o.tif', stretch='linear(low=0, high=3000)', **options
        )
        stack_pair(*paths, tmp_path / 's.tif', rule='linear(low=0, high=3000)', **options)
    notes = result.report['warnings']
    assert len(notes) == (said is not None)
    assert all(said in note and 'stored * 0.0001 +0' in note for note in notes)
    assert [str(one.message) for one in told if one.category is UserWarning] == 2 * notes


@pytest.mark.parametrize('box', [(0, 0, 10, 10), (10, 10, 0, 0)])
def test_box_outside_or_upside_down(refused, box):
    message = refused(bbox=box)
    assert 'lies outside of' in message or 'left, bottom, right, top are needed' in message


def test_settings_out_of_range(refused):
    assert 'threshold=1.5' in refused(threshold=1.5)
    assert 'overlap=64' in refused(overlap=64)
    assert "route='best'" in refused(route='best')
    assert "resampling='best'" in refused(resampling='best')
    assert 'left, bottom, right, top are needed' in refused(bbox=(1, 2, 3))
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


def cut(path):
    """The file without its second half: GDAL opens it, and finds pixels missing."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.parametrize('which', ['a', 'b', 'b elsewhere', 'mask'])
def test_truncated_raster_is_named(refused, write_raster, gray, which, tmp_path):
    large = np.tile(gray, (1, 4, 4))
    a, b, mask = (write_raster(f'{name}.tif', large) for name in ('a', 'b', 'mask'))
    if which == 'b elsewhere':
        b = write_raster('b.tif', large, origin=(ORIGIN[0] + 3, ORIGIN[1]))
    if which == 'mask':  # it is read with the windows
        mask = cut(write_raster('mask.tif', large[:1]))
        with pytest.raises(UserError, match=r'mask\.tif cannot be read to its end') as error:
            stack_pair(a, b, tmp_path / 'o.tif', mask=mask)
        message = str(error.value)
    else:
        cut(a if which == 'a' else b)
        message = refused(a=a, b=b)
        assert f'{which[0]}.tif cannot be read to its end, it is truncated or damaged' in message
    assert 'restore the file' in message
    assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize('key', ['min_area', 'simplify', 'fill_holes'])
@pytest.mark.parametrize('value', [-1.0, float('nan'), float('inf')])
def test_measures_of_polygons_are_numbers_from_zero(refused, key, value):
    assert f'{key}={value:g}: a number from 0 is needed' in refused(vector='v.gpkg', **{key: value})


def test_offset_that_is_no_number(refused):
    assert 'offset_b=nan: a finite number is needed' in refused(offset_b=float('nan'))


def test_output_in_a_folder_that_is_a_file(refused, write_raster, gray):
    write_raster('a.tif', gray)
    message = refused(out='a.tif/there/o.tif')
    assert 'a.tif is a file, not a folder: choose another place' in message


def test_folder_that_cannot_be_written_to(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda *_: False)
    assert f'folder {tmp_path} cannot be written to' in refused(out='new/o.tif')


@pytest.mark.parametrize(
    ('model', 'parts'),
    [
        ('.', ['is a folder', 'a bundle (.mtkd)']),
        ('a.tif', ['is none: give a bundle (.mtkd)', 'a config (.py)']),
        ('tinycd', ['work_dirs/mtkd/tinycd/tinycd.mtkd', 'configs/mtkd/tinycd.py']),
        ('tynicd', ['does not exist: give a bundle (.mtkd)']),
        ('configs/origin/fc_eff.py', ["does not exist: did you mean 'fc_ef'?"]),
        ('best.pth', ['is a checkpoint: give its config', 'mtkd-cd bundle create']),
    ],
)
def test_model_that_is_none(model, parts, tmp_path, monkeypatch, write_raster, gray):
    monkeypatch.chdir(tmp_path)
    write_raster('a.tif', gray)
    with pytest.raises(UserError) as error:
        ChangeInferencer(model)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize('given', [dict(weights='w.pth'), dict(cfg_options={'model.x': 1})])
def test_what_would_not_change_a_bundle_is_refused(given):
    with pytest.raises(UserError, match=r'bundle m\.mtkd has its own'):
        ChangeInferencer('m.mtkd', **given)
    if 'weights' in given:
        with pytest.raises(UserError, match=r'exported model m\.onnx has its own'):
            ChangeInferencer('m.onnx', **given)


def test_dates_of_two_types_warn_and_are_told_apart(write_raster, gray, inferencer_of, tmp_path):
    a, b = write_raster('a.tif', gray), write_raster('b.tif', gray.astype(np.uint16) * 20)
    inferencer = inferencer_of(Constant(0.4))
    with pytest.raises(UserError, match='for both dates: bring them to one type and scale first'):
        inferencer.predict_raster(a, b, tmp_path / 'o.tif')
    with pytest.warns(UserWarning, match=r'a\.tif holds uint8 and .*b\.tif uint16'):
        inferencer.predict_raster(a, b, tmp_path / 'o.tif', stretch='linear(low=0, high=3000)')


@pytest.mark.parametrize(
    ('dates', 'warns'),
    [
        (('2020-01-01', '2018-01-01'), True),
        (('2020', '2018-05'), True),
        (('2018', '2018-05'), False),
        (('2018-05-01', '2020-05-01'), False),
        (('2020-01-01', None), False),
    ],
)
def test_order_of_given_dates(write_raster, gray, inferencer_of, tmp_path, dates, warns):
    a, b = write_raster('a.tif', gray), write_raster('b.tif', gray)
    report = (
        inferencer_of(Constant(0.4))
        .predict_raster(a, b, tmp_path / 'o.tif', date_a=dates[0], date_b=dates[1], dry_run=True)
        .report
    )
    assert any('wrong way round' in note for note in report['warnings']) == warns


@pytest.fixture
def pictures(scene, tmp_path):
    """(3, H, W) arrays, and two PNG files of them."""
    arrays = scene(40, 50)
    paths = tmp_path / 'a.png', tmp_path / 'b.png'
    for array, path in zip(arrays, paths):
        Image.fromarray(np.moveaxis(array, 0, -1)).save(path)
    return arrays, paths


def test_nodata_and_offsets_hold_for_pictures_too(
    pictures, inferencer_of, write_raster, read, tmp_path
):
    (a, b), paths = pictures
    a[:, 5:9, 3:30] = 7
    Image.fromarray(np.moveaxis(a, 0, -1)).save(paths[0])
    rasters = [write_raster(name, date, crs=None) for name, date in (('a.tif', a), ('b.tif', b))]
    maps = []
    for index, files in enumerate((paths, rasters)):
        maps.append(tmp_path / f'o{index}.tif')
        inferencer_of(Difference()).predict_raster(
            *files, maps[-1], nodata=7.0, offset_a=40.0, stretch='linear(low=0, high=255)'
        )
    found, wanted = map(read, maps)
    assert np.array_equal(found, wanted)
    assert np.array_equal(found == 255, ((a == 7) | (b == 7)).any(0))


def test_transparent_pixels_of_a_picture_are_left_out(pictures, inferencer_of, read, tmp_path):
    (_, b), paths = pictures
    opacity = np.full((1, 40, 50), 255, np.uint8)
    opacity[:, :10] = 0
    Image.fromarray(np.moveaxis(np.concatenate([b, opacity]), 0, -1)).save(paths[1])
    inferencer_of(Difference()).predict_raster(*paths, tmp_path / 'o.tif')
    assert np.array_equal(read(tmp_path / 'o.tif') == 255, opacity[0] == 0)


def test_sixteen_bit_pictures_take_a_stretch(pictures, inferencer_of, write_raster, read, tmp_path):
    (a, b), _ = pictures
    paths = []
    for name, date in (('a16.png', a), ('b16.png', b)):
        paths.append(write_raster(name, date.astype(np.uint16) * 20, crs=None, driver='PNG'))
    inferencer = inferencer_of(Difference())
    with pytest.raises(UserError, match='set --stretch'):
        inferencer.predict_raster(*paths, tmp_path / 'o.tif')
    inferencer.predict_raster(*paths, tmp_path / 'o.tif', stretch='linear(low=0, high=5100)')
    rasters = [write_raster(name, date, crs=None) for name, date in (('a.tif', a), ('b.tif', b))]
    inferencer.predict_raster(*rasters, tmp_path / 'w.tif')
    assert np.array_equal(read(tmp_path / 'o.tif'), read(tmp_path / 'w.tif'))


def test_picture_masks_hold_numbers_of_a_palette_or_opaque_colours(
    pictures, inferencer_of, read, tmp_path
):
    _, paths = pictures
    classes = np.zeros((40, 50), np.uint8)
    classes[:10], classes[10:15] = 3, 4
    palette = Image.fromarray(classes, 'P')
    palette.putpalette([90, 90, 90, 1, 2, 3, 4, 5, 6, 90, 90, 90, 200, 0, 0])
    palette.save(tmp_path / 'classes.png')
    opaque = np.dstack([classes, classes, classes, np.full_like(classes, 255)])
    Image.fromarray(opaque).save(tmp_path / 'opaque.png')
    for name, options, out in (
        ('classes.png', dict(mask_values=[3]), classes == 3),
        ('opaque.png', {}, classes > 0),
    ):
        inferencer_of(Difference()).predict_raster(
            *paths, tmp_path / 'o.tif', mask=tmp_path / name, overwrite=True, **options
        )
        assert np.array_equal(read(tmp_path / 'o.tif') == 255, out)
