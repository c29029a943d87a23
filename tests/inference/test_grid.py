"""Dates on different grids, resolution, and the shift between them."""

import warnings

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.warp import Resampling, calculate_default_transform, reproject

from mtkd_cd.core.errors import UserError
from mtkd_cd.inference.grid import Grid, measure_shift
from mtkd_cd.inference.windows import Window
from tests.inference.conftest import ORIGIN, UTM, Constant, Difference


def smooth(height, width, seed=0, sigma=3.0):
    """(3, H, W) uint8 without steps, so that interpolation gives nearly what was there."""
    noise = np.random.default_rng(seed).standard_normal((3, height, width))
    blurred = np.stack([cv2.GaussianBlur(band, (0, 0), sigma) for band in noise])
    scaled = (blurred - blurred.min()) / (blurred.max() - blurred.min())
    return (20 + 210 * scaled).astype(np.uint8)


def ground(xs, ys):
    """What lies at map coordinates: a pattern with a period of some 150 m."""
    return 128 + 60 * np.sin(xs / 24) + 50 * np.cos(ys / 31)


def on_grid(height, width, pixel, origin=ORIGIN):
    """(3, H, W) uint8 of ``ground`` at the pixels' centres."""
    xs = origin[0] + (np.arange(width) + 0.5) * pixel
    ys = origin[1] - (np.arange(height) + 0.5) * pixel
    values = ground(xs[None], ys[:, None])
    return np.stack([values, 255 - values, values * 0.5 + 20]).round().astype(np.uint8)


@pytest.mark.parametrize(
    ('pixel', 'origin'),
    [
        (2.0, (ORIGIN[0] - 7.3, ORIGIN[1] + 9.1)),
        (1.0, ORIGIN),
        (1.0, (ORIGIN[0] + 20.4, ORIGIN[1] - 13.7)),
        (4.0, (ORIGIN[0] - 40, ORIGIN[1] + 40)),
    ],
)
def test_other_resolution_and_shifted_origin(write_raster, predict, pixel, origin):
    side = int(300 / pixel) + 30
    a = write_raster('a.tif', on_grid(130, 150, 2.0), 2.0)
    b = write_raster('b.tif', on_grid(side, side, pixel, origin), pixel, origin)
    probability, result = predict(a, b)
    valid = ~np.isnan(probability)
    assert valid.mean() > 0.8
    # The same ground: what is left is interpolation and rounding, at the edge of B too.
    assert probability[valid].max() < 0.12
    assert probability[valid].mean() < 0.04
    assert result.report['grid']['b_warped'] == ((pixel, origin) != (2.0, ORIGIN))


def test_other_crs(write_raster, predict, tmp_path):
    a = write_raster('a.tif', on_grid(130, 150, 2.0), 2.0)
    source = on_grid(260, 280, 1.5, (ORIGIN[0] - 30, ORIGIN[1] + 30))
    transform = rasterio.transform.from_origin(ORIGIN[0] - 30, ORIGIN[1] + 30, 1.5, 1.5)
    bounds = rasterio.transform.array_bounds(260, 280, transform)
    target, width, height = calculate_default_transform(UTM, 'EPSG:4326', 280, 260, *bounds)
    moved = np.zeros((3, height, width), np.uint8)
    reproject(
        source,
        moved,
        src_transform=transform,
        src_crs=UTM,
        dst_transform=target,
        dst_crs='EPSG:4326',
        resampling=Resampling.cubic,
    )
    b = write_raster('b.tif', moved, transform=target, crs='EPSG:4326', nodata=0)
    probability, _ = predict(a, b)
    assert not np.isnan(probability).any()
    assert probability.mean() < 0.06


@pytest.mark.parametrize('crs', ['EPSG:4326', 'EPSG:3857', UTM])
def test_result_does_not_depend_on_the_window(write_raster, predict, crs):
    a = write_raster('a.tif', smooth(300, 340), 2.0)
    left, top = ORIGIN[0] - 100, ORIGIN[1] + 100
    transform = rasterio.transform.from_origin(left, top, 1.7, 1.9)
    b_array = smooth(500, 560, 1)
    if crs != UTM:
        bounds = rasterio.transform.array_bounds(500, 560, transform)
        transform, _, _ = calculate_default_transform(UTM, crs, 560, 500, *bounds)
    b = write_raster('b.tif', b_array, transform=transform, crs=crs)
    found = [predict(a, b, window=window)[0] for window in (64, 100, 512)]
    for other in found[1:]:
        assert (np.isnan(other) == np.isnan(found[0])).all()
        assert np.nanmax(np.abs(other - found[0])) < 1e-6


def test_equal_bounds_with_unequal_sizes_are_two_grids(write_raster, predict):
    a = write_raster('a.tif', on_grid(120, 120, 2.0), 2.0)
    b = write_raster('b.tif', on_grid(240, 240, 1.0), 1.0)
    with rasterio.open(a) as first, rasterio.open(b) as second:
        assert first.bounds == second.bounds
    probability, result = predict(a, b)
    assert result.report['grid']['b_warped']
    assert probability.shape == (120, 120)
    assert probability.mean() < 0.04


def test_nodata_of_the_warped_date_is_left_out(write_raster, predict):
    a = write_raster('a.tif', on_grid(100, 100, 2.0), 2.0)
    array = on_grid(240, 240, 1.0, (ORIGIN[0] - 20, ORIGIN[1] + 20))
    array[1, 100:140, 60:100] = 0  # one band: 40 m x 40 m
    b = write_raster('b.tif', array, 1.0, (ORIGIN[0] - 20, ORIGIN[1] + 20), nodata=0)
    probability, _ = predict(a, b)
    missing = np.isnan(probability)
    expected = np.zeros((100, 100), bool)
    expected[40:60, 20:40] = True
    # GDAL fills a pixel of which a part is known.
    assert missing[41:59, 21:39].all()
    assert not missing[~cv2.dilate(expected.astype(np.uint8), np.ones((5, 5))).astype(bool)].any()
    assert np.nanmax(probability) < 0.15


def test_what_b_does_not_cover_is_left_out(write_raster, predict):
    a = write_raster('a.tif', on_grid(100, 100, 2.0), 2.0)
    b = write_raster(
        'b.tif',
        on_grid(60, 60, 2.0, (ORIGIN[0] + 40, ORIGIN[1] - 60)),
        2.0,
        (ORIGIN[0] + 40, ORIGIN[1] - 60),
    )
    probability, result = predict(a, b)
    expected = np.ones((100, 100), bool)
    expected[30:90, 20:80] = False
    assert (np.isnan(probability) == expected).all()
    assert result.valid_pixels == 3600


def test_much_finer_date_is_averaged(write_raster, predict):
    noisy = np.random.default_rng(0).integers(0, 256, (3, 400, 400)).astype(np.uint8)
    means = noisy.reshape(3, 100, 4, 100, 4).mean((2, 4))
    a = write_raster('a.tif', means.round().astype(np.uint8), 4.0)
    b = write_raster('b.tif', noisy, 1.0)
    probability, result = predict(a, b)
    assert result.report['grid']['resampling'] == 'average'
    assert probability.max() < 0.03  # rounding alone


@pytest.mark.parametrize(('right', 'down'), [(0.0, 0.0), (5.0, -3.0), (-2.4, 7.6)])
def test_applied_shift_is_recovered(right, down):
    land = smooth(600, 700, sigma=4)[0].astype(np.float32)
    moved = cv2.warpAffine(
        land, np.float32([[1, 0, right], [0, 1, down]]), (700, 600), flags=cv2.INTER_CUBIC
    )

    def read(window: Window):
        place = np.s_[
            window.row : window.row + window.height, window.col : window.col + window.width
        ]
        return land[place], moved[place], np.ones((window.height, window.width), bool)

    shift = measure_shift(read, 700, 600)
    assert abs(shift.right - right) < 0.3
    assert abs(shift.down - down) < 0.3


@pytest.mark.parametrize('size', [40, 64, 128, 300])
def test_unrelated_images_have_no_shift(size):
    for seed in range(10):
        a, b = np.random.default_rng(seed).random((2, size, size))

        def read(window: Window, a=a, b=b):
            place = np.s_[
                window.row : window.row + window.height, window.col : window.col + window.width
            ]
            return a[place], b[place], np.ones((window.height, window.width), bool)

        assert measure_shift(read, size, size) is None


@pytest.mark.parametrize(('right', 'down'), [(0.0, 0.0), (6.4, -4.7)])
def test_applied_shift_of_a_single_tile_is_recovered_by_windows_that_agree(right, down):
    land = smooth(256, 256)[0].astype(np.float32)
    matrix = np.float32([[1, 0, right], [0, 1, down]])
    moved = cv2.warpAffine(land, matrix, (256, 256), flags=cv2.INTER_CUBIC, borderMode=2)
    shift = measure_shift(windows_of(land, 0.8 * moved + 20), 256, 256)
    assert (shift.right, shift.down) == pytest.approx((right, down), abs=0.3)
    assert shift.is_reliable
    assert shift.agreeing == shift.windows == 4


def windows_of(a, b):
    def read(window: Window):
        rows = slice(window.row, window.row + window.height)
        cols = slice(window.col, window.col + window.width)
        return a[rows, cols], b[rows, cols], np.ones((window.height, window.width), bool)

    return read


@pytest.mark.parametrize('what', ['changed', 'low texture', 'both'])
@pytest.mark.parametrize('seed', range(4))
def test_aligned_tile_gets_no_warning_for_what_changed_in_it(write_raster, predict, what, seed):
    rng = np.random.default_rng(seed)
    a = np.full((3, 256, 256), 90.0) if what != 'changed' else smooth(256, 256, seed).astype(float)
    b = a.copy()
    if what != 'low texture':  # a building goes, another comes 38 pixels to the right
        row, col = rng.integers(20, 170, 2)
        a[:, row : row + 30, col : col + 24] = 220
        b[:, row : row + 30, col + 38 : col + 62] = 220
    a, b = (np.clip(date + rng.normal(0, 3, a.shape), 0, 255).astype(np.uint8) for date in (a, b))
    files = write_raster('a.tif', a), write_raster('b.tif', b)
    _, result = predict(*files, window=256)
    assert result.report['warnings'] == []
    found = result.report['shift']
    assert found is None or not found['reliable'] or np.hypot(found['right'], found['down']) < 1
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        _, result = predict(*files, window=256, coregister=True)
    moved = result.report['coregistered']
    assert moved == bool(found and found['reliable'])
    assert moved or 'date B stays where it is' in result.report['warnings'][0]


def test_large_shift_warns_and_coregistration_takes_it_out(write_raster, predict):
    land = smooth(420, 420, sigma=4)
    a = write_raster('a.tif', land[:, 10:410, 10:410], 2.0)
    b = write_raster('b.tif', land[:, 6:406, 17:417], 2.0)  # content 7 left of, 4 below A's
    with pytest.warns(UserWarning, match=r'-7\.0 pixels to the right and \+4\.0 below.*--coreg'):
        before, result = predict(a, b)
    assert (result.report['shift']['right'], result.report['shift']['down']) == pytest.approx(
        (-7, 4), abs=0.3
    )
    after, result = predict(a, b, coregister=True)
    inner = np.s_[20:-20, 20:-20]
    assert before[inner].mean() > 0.2
    assert after[inner].mean() < 0.03
    assert result.report['coregistered']
    assert np.isnan(after).any()  # where B's content no longer reaches


def test_ground_sample_distance_is_geodesic():
    transform = rasterio.transform.from_origin(10.0, 60.0, 0.001, 0.001)
    grid = Grid(rasterio.crs.CRS.from_epsg(4326), transform, 100, 100)
    across, down = grid.gsd()
    # A degree of longitude at 59.95 degrees north is 55.9 km, one of latitude 111.4 km.
    assert across == pytest.approx(55.88, rel=2e-3)
    assert down == pytest.approx(111.42, rel=2e-3)
    areas = grid.pixel_areas()
    assert areas[50] == pytest.approx(across * down, rel=1e-3)
    assert areas[0] < areas[-1]


class TestResolution:
    @pytest.fixture
    def files(self, write_raster):
        return (
            write_raster('a.tif', smooth(120, 160), 1.0),
            write_raster('b.tif', smooth(120, 160, 1), 1.0),
        )

    @pytest.mark.parametrize('gsd', [0.6, 1.6])
    def test_another_distance_is_refused_with_both_ways_out(
        self, files, inferencer_of, tmp_path, gsd
    ):
        with pytest.raises(UserError, match=r'is 1 m.*trained at .* m.*--gsd model.*--gsd keep'):
            inferencer_of(Constant(0.5), gsd_m=gsd).predict_raster(*files, tmp_path / 'o.tif')

    @pytest.mark.parametrize('gsd', [0.7, 1.4])
    def test_a_near_one_is_taken(self, files, inferencer_of, tmp_path, gsd):
        inferencer_of(Constant(0.5), gsd_m=gsd).predict_raster(*files, tmp_path / 'o.tif')

    def test_keep_predicts_as_it_is(self, files, inferencer_of, tmp_path):
        model = Difference()
        inferencer_of(model, gsd_m=0.25).predict_raster(*files, tmp_path / 'o.tif', gsd='keep')
        assert model.shapes[0][2:] == (64, 64)

    @pytest.mark.parametrize('gsd', [0.5, 2.0])
    def test_model_predicts_at_its_own_and_returns(self, files, inferencer_of, tmp_path, read, gsd):
        model = Difference()
        inferencer = inferencer_of(model, gsd_m=gsd, training_size=512)
        inferencer.predict_raster(
            *files,
            tmp_path / 'o.tif',
            probability=tmp_path / 'p.tif',
            probability_dtype='float32',
            gsd='model',
        )
        height, width = (round(side / gsd) for side in (120, 160))
        assert all(
            abs(found - side) < 32 for found, side in zip(model.shapes[0][2:], (height, width))
        )
        kept = inferencer_of(Difference())
        kept.predict_raster(
            *files,
            tmp_path / 'k.tif',
            probability=tmp_path / 'kp.tif',
            probability_dtype='float32',
        )
        with rasterio.open(tmp_path / 'o.tif') as file, rasterio.open(files[0]) as source:
            assert (file.transform, file.shape) == (source.transform, source.shape)
        assert np.abs(read(tmp_path / 'p.tif') - read(tmp_path / 'kp.tif')).mean() < 0.05
        assert not list(tmp_path.glob('.*'))

    @pytest.mark.parametrize('gsd', [None, 'model'])
    def test_pixels_far_from_square_are_not_near_and_become_square(
        self, write_raster, scene, inferencer_of, tmp_path, gsd
    ):
        """Degrees at 65 degrees north: 2.36 x 5.57 m, whose geometric mean is 3.6 m."""
        a, b = scene(40, 100)
        place = dict(pixel=5e-5, origin=(20.0, 65.0), crs='EPSG:4326')
        files = write_raster('a.tif', a, **place), write_raster('b.tif', b, **place)
        model = Difference()
        inferencer = inferencer_of(model, gsd_m=3.6, training_size=512, divisor=1)
        if gsd is None:
            with pytest.raises(UserError, match=r'is 2\.36 x 5\.57 m.*--gsd model'):
                inferencer.predict_raster(*files, tmp_path / 'o.tif')
        else:
            inferencer.predict_raster(*files, tmp_path / 'o.tif', gsd='model')
            assert model.shapes == [(1, 6, round(40 * 5.574 / 3.6), round(100 * 2.359 / 3.6))]
            with rasterio.open(tmp_path / 'o.tif') as file, rasterio.open(files[0]) as source:
                assert (file.transform, file.shape) == (source.transform, source.shape)

    def test_nodata_stays_exactly_where_it_is(self, write_raster, inferencer_of, tmp_path, read):
        array = smooth(120, 160)
        array[:, 30:50, 40:45] = 0
        inferencer_of(Difference(), gsd_m=2.0).predict_raster(
            write_raster('a.tif', array, 1.0, nodata=0),
            write_raster('b.tif', smooth(120, 160, 1), 1.0),
            tmp_path / 'o.tif',
            gsd='model',
        )
        expected = (array == 0).any(0)
        assert ((read(tmp_path / 'o.tif') == 255) == expected).all()

    def test_masked_pixels_are_the_mean_at_that_distance_too(
        self, write_raster, inferencer_of, tmp_path, read
    ):
        files = (
            write_raster('a.tif', smooth(120, 160), 1.0),
            write_raster('b.tif', smooth(120, 160, 1), 1.0),
        )
        mask = np.zeros((1, 120, 160), np.uint8)
        mask[0, :20] = 1  # left as it is by --mask-values
        mask[0, :, 60:100] = 3
        model = Difference()
        inferencer_of(model, gsd_m=2.0, training_size=512, divisor=1).predict_raster(
            *files,
            tmp_path / 'o.tif',
            gsd='model',
            mask=write_raster('m.tif', mask, 1.0),
            mask_values=(3,),
        )
        (seen,) = model.inputs
        zero = (seen[0] == 0).all(0).numpy()
        assert zero.shape[1] == 80
        assert zero[:, 30:50].all()
        assert not zero[:, :30].any()
        assert not zero[:, 50:].any()
        assert ((read(tmp_path / 'o.tif') == 255) == (mask[0] == 3)).all()
