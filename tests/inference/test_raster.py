"""The contract of rasters: what is read, what is valid, what is written."""

import itertools
import json
import os
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest
import rasterio
from PIL import Image, TiffImagePlugin
from rasterio.enums import ColorInterp, MaskFlags

from mtkd_cd.core.errors import UserError
from mtkd_cd.inference.inferencer import ChangeInferencer
from mtkd_cd.version import __version__
from tests.inference.conftest import UTM, Constant, Context, Difference, difference, model_of

LINEAR = 'linear(low=0, high=3000)'


def test_output_is_on_the_grid_of_a_bit_for_bit(write_raster, scene, inferencer_of, tmp_path):
    a, b = scene(150, 210)
    origin = (10.363025665283203, 43.75832475194815)
    first = write_raster('a.tif', a, 0.000107587213967836, origin, 'EPSG:4326')
    second = write_raster('b.tif', b, 0.000107587213967836, origin, 'EPSG:4326')
    inferencer_of(Difference()).predict_raster(
        first, second, tmp_path / 'o.tif', probability=tmp_path / 'p.tif'
    )
    with rasterio.open(first) as source:
        for name in ('o.tif', 'p.tif'):
            with rasterio.open(tmp_path / name) as file:
                assert (file.crs, file.transform, file.shape) == (
                    source.crs,
                    source.transform,
                    source.shape,
                )
                assert file.profile['tiled']
                assert file.block_shapes == [(512, 512)]
                assert file.profile['compress'] == 'deflate'
                assert file.nodata == 255
                assert file.dtypes == ('uint8',)


def test_change_and_probability_hold_what_the_model_says(
    write_raster, scene, inferencer_of, tmp_path, read
):
    a, b = scene(150, 210)
    result = inferencer_of(Difference()).predict_raster(
        write_raster('a.tif', a),
        write_raster('b.tif', b),
        tmp_path / 'o.tif',
        probability=tmp_path / 'p.tif',
        threshold=0.3,
    )
    expected = difference(a, b)
    assert 0 < (expected > 0.3).mean() < 1
    assert (read(tmp_path / 'o.tif') == (expected > 0.3)).all()
    stored = read(tmp_path / 'p.tif')
    assert stored.max() <= 250
    np.testing.assert_allclose(stored / 250, expected, atol=0.5 / 250 + 1e-5)
    with rasterio.open(tmp_path / 'p.tif') as file:
        assert file.scales == (1 / 250,)
    changed = int((expected > 0.3).sum())
    assert (result.changed_pixels, result.valid_pixels) == (changed, a[0].size)
    assert result.car == changed / a[0].size
    # A UTM pixel is 10 m wide on the plane, which the projection's scale, 0.9996, makes on the
    # central meridian.
    assert result.area_m2 == pytest.approx(changed * 100 / 0.9996**2, rel=1e-4)


def test_float_probability_has_nan_where_nothing_is_known(
    write_raster, scene, inferencer_of, tmp_path, read
):
    a, b = scene(40, 50)
    a[:, 3, 4] = 0
    inferencer_of(Difference()).predict_raster(
        write_raster('a.tif', a, nodata=0),
        write_raster('b.tif', b),
        tmp_path / 'o.tif',
        probability=tmp_path / 'p.tif',
        probability_dtype='float32',
    )
    found = read(tmp_path / 'p.tif')
    assert np.argwhere(np.isnan(found)).tolist() == [[3, 4]]
    assert np.nanmax(np.abs(found - difference(a, b))[a[0] > 0]) < 1e-6


def test_cog_has_overviews_and_the_tags(write_raster, scene, inferencer_of, tmp_path):
    a, b = scene(1100, 1200)
    inferencer_of(Constant(0.7)).predict_raster(
        write_raster('a.tif', a),
        write_raster('b.tif', b),
        tmp_path / 'o.tif',
        probability=tmp_path / 'p.tif',
        window=512,
        cog=True,
    )
    for name in ('o.tif', 'p.tif'):
        with rasterio.open(tmp_path / name) as file:
            assert file.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
            assert file.overviews(1)
            assert file.tags()['MTKD_CD_MODEL'] == 'toy'
            assert file.nodata == 255
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.tif', 'b.tif', 'o.tif', 'p.tif']


def test_result_is_read_back_as_arrays(write_raster, scene, inferencer_of, tmp_path):
    a, b = scene(80, 90)
    a[:, :7] = 0
    files = write_raster('a.tif', a, nodata=0), write_raster('b.tif', b)
    inferencer = inferencer_of(Difference(), threshold=0.3)
    result = inferencer.predict_raster(
        *files, tmp_path / 'o.tif', probability=tmp_path / 'p.tif', probability_dtype='float32'
    )
    found, known = result.read(), np.arange(80)[:, None].repeat(90, 1) >= 7
    wanted = difference(a, b)
    assert (found.change.dtype, found.probability.dtype, found.valid.dtype) == (
        np.uint8, np.float32, bool,
    )  # fmt: skip
    assert (found.valid == known).all()
    assert (found.change == ((wanted > 0.3) & known)).all()
    np.testing.assert_allclose(found.probability[known], wanted[known], atol=1e-6)
    assert np.isnan(found.probability[~known]).all()
    assert (found.car, found.range, found.detector) == (result.car, result.range, result.detector)
    assert found.car == pytest.approx(((wanted > 0.3) & known).sum() / known.sum())
    dry = inferencer.predict_raster(*files, tmp_path / 'x.tif', dry_run=True)
    with pytest.raises(UserError, match='dry run'):
        dry.read()


def layout_of(path):
    """Of each image in a TIFF file, (width, where its directory lies, where its tiles lie)."""
    content = path.read_bytes()
    assert content[:4] == b'II*\0'
    images, place = [], int.from_bytes(content[4:8], 'little')
    while place:
        count = int.from_bytes(content[place : place + 2], 'little')
        entries = {}
        for index in range(count):
            tag, kind, number, value = struct.unpack_from('<HHII', content, place + 2 + 12 * index)
            if kind in (3, 4):
                size = {3: 2, 4: 4}[kind]
                start = value if size * number > 4 else place + 2 + 12 * index + 8
                code = {3: 'H', 4: 'I'}[kind]
                entries[tag] = struct.unpack_from(f'<{number}{code}', content, start)
        images.append((entries[256][0], place, entries[324]))
        place = int.from_bytes(content[place + 2 + 12 * count :][:4], 'little')
    return images


def test_cog_has_its_directories_first_and_the_coarsest_overview_before_the_image(
    write_raster, scene, inferencer_of, tmp_path
):
    a, b = scene(1100, 1200)
    inferencer_of(Difference()).predict_raster(
        write_raster('a.tif', a),
        write_raster('b.tif', b),
        tmp_path / 'o.tif',
        probability=tmp_path / 'p.tif',
        window=512,
        cog=True,
    )
    for name in ('o.tif', 'p.tif'):
        images = layout_of(tmp_path / name)
        assert [width for width, _, _ in images][:2] == [1200, 600]
        tiles = [[start for start in starts if start] for _, _, starts in images]
        assert max(place for _, place, _ in images) < min(min(starts) for starts in tiles)
        for finer, coarser in itertools.pairwise(tiles):
            assert max(coarser) < min(finer)


def test_thirteen_bands_of_which_a_model_takes_three_or_all(
    write_raster, inferencer_of, tmp_path, read
):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3000, (2, 13, 90, 80)).astype(np.uint16)
    files = write_raster('a.tif', a), write_raster('b.tif', b)
    options = dict(probability_dtype='float32', stretch=LINEAR, overwrite=True)
    names = tuple(f'band {index + 1}' for index in range(13))
    whole = dict(mean=(100.0,) * 26, std=(50.0,) * 26, bands=names)
    for card, bands, taken in (({}, (4, 3, 2), [3, 2, 1]), (whole, None, list(range(13)))):
        inferencer_of(Difference(), **card).predict_raster(
            *files, tmp_path / 'o.tif', probability=tmp_path / 'p.tif', bands=bands, **options
        )
        scaled = [date[taken].astype(np.float64) * 255 / 3000 for date in (a, b)]
        np.testing.assert_allclose(read(tmp_path / 'p.tif'), difference(*scaled), atol=1e-5)
    with pytest.raises(UserError, match=r'has 13 bands .*--bands'):
        inferencer_of(Difference()).predict_raster(*files, tmp_path / 'x.tif')


def test_tags_say_what_was_done(write_raster, scene, inferencer_of, tmp_path):
    a, b = scene(80, 90)
    inferencer_of(Difference(), sha256='abc').predict_raster(
        write_raster('a.tif', a), write_raster('b.tif', b), tmp_path / 'o.tif', threshold=0.25
    )
    with rasterio.open(tmp_path / 'o.tif') as file:
        tags = file.tags()
    expected = float((difference(a, b) > 0.25).mean())
    assert float(tags['MTKD_CD_CAR']) == pytest.approx(expected, abs=1e-12)
    assert tags['MTKD_CD_THRESHOLD'] == '0.25'
    assert tags['MTKD_CD_WINDOW'] == '64'
    assert tags['MTKD_CD_BUNDLE_SHA256'] == 'abc'
    assert tags['MTKD_CD_INPUT_A'] == str(tmp_path / 'a.tif')
    assert tags['MTKD_CD_STRETCH'] == '{"type": "identity"}'
    assert tags['MTKD_CD_INPUT_B'] == str(tmp_path / 'b.tif')
    assert tags['MTKD_CD_VERSION'] == __version__
    shift = json.loads(tags['MTKD_CD_SHIFT'])
    assert shift == pytest.approx([0, 0], abs=0.3)


class TestValidPixels:
    @pytest.fixture
    def predicted(self, write_raster, scene, inferencer_of, tmp_path, read):
        """Predict 100 x 120 pixels of which the test damages some; gives the map, the
        probability and the model."""

        def run(damage, dtype=np.uint8, **options):
            a, b = scene(100, 120)
            a, b = a.astype(dtype), b.astype(dtype)
            profile_a, profile_b = damage(a, b) or ({}, {})
            model = Difference()
            if dtype != np.uint8:
                options.setdefault('stretch', 'linear(low=0, high=255)')
            inferencer_of(model).predict_raster(
                write_raster('a.tif', a, **profile_a),
                write_raster('b.tif', b, **profile_b),
                tmp_path / 'o.tif',
                probability=tmp_path / 'p.tif',
                **options,
            )
            return read(tmp_path / 'o.tif'), read(tmp_path / 'p.tif'), model

        return run

    @pytest.mark.parametrize('date', [0, 1])
    @pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
    def test_nodata_in_either_date_is_nodata_exactly_there(self, predicted, date, dtype):
        def damage(a, b):
            (a, b)[date][:, 20:30, 40:80] = 0
            profiles = [{}, {}]
            profiles[date] = dict(nodata=0)
            return profiles

        change, probability, _ = predicted(damage, dtype)
        expected = np.zeros((100, 120), bool)
        expected[20:30, 40:80] = True
        assert ((change == 255) == expected).all()
        assert ((probability == 255) == expected).all()

    def test_one_invalid_band_makes_the_pixel_invalid(self, predicted):
        def damage(a, b):
            b[1, 50, 60] = 0
            return {}, dict(nodata=0)

        change, _, _ = predicted(damage)
        assert np.argwhere(change == 255).tolist() == [[50, 60]]

    @pytest.mark.parametrize('value', [np.nan, np.inf])
    def test_values_that_are_no_numbers_are_invalid_without_a_nodata_value(self, predicted, value):
        def damage(a, b):
            a[0, 10, 11] = value
            b[2, 90, 110] = value

        change, _, model = predicted(damage, np.float32)
        assert np.argwhere(change == 255).tolist() == [[10, 11], [90, 110]]
        assert all(bool(batch.isfinite().all()) for batch in model.inputs)

    def test_invalid_pixels_are_the_mean_on_both_dates(self, predicted):
        def damage(a, b):
            a[:, :40, :40] = 0
            return dict(nodata=0), {}

        _, _, model = predicted(damage)
        first = model.inputs[0][0]  # the window at the corner
        assert (first[:, :40, :40] == 0).all()
        assert (first[:, 40:, 40:] != 0).any()

    def test_windows_without_a_valid_pixel_skip_the_network(
        self, write_raster, scene, inferencer_of, tmp_path
    ):
        a, b = scene(64, 64 * 4)
        a[:, :, 64:] = 0
        model = Constant(0.9)
        inferencer_of(model).predict_raster(
            write_raster('a.tif', a, nodata=0),
            write_raster('b.tif', b),
            tmp_path / 'o.tif',
            overlap=0,
            batch_size=1,
        )
        assert model.calls == 1

    def test_mask_leaves_out_what_is_not_zero(self, predicted, write_raster):
        clouds = np.zeros((1, 100, 120), np.uint8)
        clouds[0, 5:9, 7:70] = 3
        clouds[0, 60, 60] = 4
        change, _, _ = predicted(lambda a, b: None, mask=write_raster('m.tif', clouds))
        assert ((change == 255) == (clouds[0] != 0)).all()

    def test_mask_values_leave_out_only_these(self, predicted, write_raster):
        classes = np.random.default_rng(0).integers(0, 12, (1, 100, 120)).astype(np.uint8)
        change, _, _ = predicted(
            lambda a, b: None, mask=write_raster('m.tif', classes), mask_values=(3, 8, 9)
        )
        assert ((change == 255) == np.isin(classes[0], (3, 8, 9))).all()

    @pytest.mark.parametrize('radius', [1, 5])
    def test_edge_buffer_voids_the_pixels_round_invalid_ones(self, predicted, radius):
        def damage(a, b):
            a[:, 64, 63] = 0
            return dict(nodata=0), {}

        change, _, _ = predicted(damage, edge_buffer=radius)
        expected = np.zeros((100, 120), bool)
        expected[64 - radius : 65 + radius, 63 - radius : 64 + radius] = True
        assert ((change == 255) == expected).all()

    def test_nodata_can_be_named_for_files_that_declare_none(self, predicted):
        def damage(a, b):
            b[:, 40:42, 40:42] = 7
            a[:, 0, 0] = 7

        change, _, _ = predicted(damage, nodata=7)
        found = {tuple(place) for place in np.argwhere(change == 255).tolist()}
        assert {(0, 0), (40, 40), (41, 41)} <= found

    @pytest.mark.parametrize('dtype', [np.uint8, np.float32])
    def test_alpha_band_says_what_is_valid(
        self, write_raster, scene, inferencer_of, tmp_path, read, dtype
    ):
        a, b = (date.astype(dtype) for date in scene(50, 60))
        alpha = np.full((1, 50, 60), 255, dtype)
        alpha[0, 10:20, 10:20] = 0
        first = write_raster('a.tif', np.concatenate([a, alpha]), photometric='RGB', ALPHA='YES')
        with rasterio.open(first) as file:
            assert file.colorinterp[3] == ColorInterp.alpha
            if dtype == np.uint8:  # of floats GDAL makes no mask of it
                assert MaskFlags.alpha in file.mask_flag_enums[0]
        inferencer_of(Difference()).predict_raster(
            first, write_raster('b.tif', b), tmp_path / 'o.tif', stretch='linear(low=0, high=255)'
        )
        assert ((read(tmp_path / 'o.tif') == 255) == (alpha[0] == 0)).all()

    @pytest.mark.parametrize('origin', [(500_000.0, 4_800_000.0), (500_000.5, 4_800_000.0)])
    def test_declared_nodata_counts_beside_an_alpha_band(
        self, write_raster, scene, inferencer_of, tmp_path, read, origin
    ):
        a, b = (np.clip(date, 1, 255) for date in scene(50, 60))
        b[:, 20:30, 5:15] = 0
        alpha = np.full((1, 50, 60), 255, np.uint8)
        alpha[0, 10:20, 30:40] = 0
        options = dict(origin=origin, nodata=0, photometric='RGB', ALPHA='YES')
        second = write_raster('b.tif', np.concatenate([b, alpha]), **options)
        inferencer_of(Difference()).predict_raster(
            write_raster('a.tif', a), second, tmp_path / 'o.tif', resampling='nearest'
        )
        void = (b[0] == 0) | (alpha[0] == 0)
        assert ((read(tmp_path / 'o.tif') == 255) == void).all()

    @pytest.mark.parametrize('gsd', [None, 'model'])
    @pytest.mark.parametrize('dtype', [np.uint8, np.float32])
    def test_alpha_band_of_a_warped_date_says_what_is_valid(
        self, write_raster, scene, inferencer_of, tmp_path, read, gsd, dtype
    ):
        a, b = (date.astype(dtype) for date in scene(50, 60))
        alpha = np.full((1, 50, 60), 255, dtype)
        alpha[0, 10:20, 30:40] = 0
        # Half a metre aside: another grid, on which the nearest pixel is that of the same place.
        aside = (500_000.5, 4_800_000.0)
        second = write_raster(
            'b.tif', np.concatenate([b, alpha]), origin=aside, photometric='RGB', ALPHA='YES'
        )
        inferencer_of(Difference(), gsd_m=5.0 if gsd else None).predict_raster(
            write_raster('a.tif', a),
            second,
            tmp_path / 'o.tif',
            gsd=gsd,
            resampling='nearest',
            stretch='linear(low=0, high=255)',
        )
        change = read(tmp_path / 'o.tif')
        assert ((change == 255) == (alpha[0] == 0)).all()
        if gsd is None:
            valid = alpha[0] != 0
            assert (change[valid] == (difference(a, b) > 0.5)[valid]).all()

    def test_another_resolution_of_a_date_that_was_warped_is_void_where_nothing_covers_it(
        self, write_raster, scene, inferencer_of, tmp_path, read
    ):
        a, b = scene(50, 60)
        second = write_raster('b.tif', b, origin=(500_070.0, 4_800_000.0))
        inferencer_of(Difference(), gsd_m=5.0).predict_raster(
            write_raster('a.tif', a), second, tmp_path / 'o.tif', gsd='model'
        )
        void = read(tmp_path / 'o.tif') == 255
        assert void[:, :7].all()
        assert not void[:, 7:].any()

    def test_nodata_of_a_warped_date_counts_beside_that_of_the_option(
        self, write_raster, scene, inferencer_of, tmp_path, read
    ):
        a, b = (np.clip(date, 1, 254) for date in scene(50, 60))
        a[:, 5:9, 5:9] = 0
        b[:, 20:30, 20:30] = 255
        first = write_raster('a.tif', a)
        voids = []
        for origin in ((500_000.0, 4_800_000.0), (500_000.5, 4_800_000.0)):
            inferencer_of(Difference()).predict_raster(
                first,
                write_raster('b.tif', b, origin=origin, nodata=255),
                tmp_path / 'o.tif',
                nodata=0,
                resampling='nearest',
                overwrite=True,
            )
            voids.append(read(tmp_path / 'o.tif') == 255)
        expected = (a == 0).any(0) | (b == 255).any(0)
        assert (voids[0] == expected).all()
        assert (voids[1] == expected).all()

    @pytest.mark.parametrize('nodata', [-9999, 256, float('nan'), 0.5])
    def test_nodata_that_a_warped_date_cannot_hold_voids_nothing_of_it(
        self, write_raster, scene, inferencer_of, tmp_path, read, nodata
    ):
        a, b = scene(50, 60)
        a = a.astype(np.float32)
        a[:, 3:6, 3:6] = nodata
        inferencer_of(Difference()).predict_raster(
            write_raster('a.tif', a),
            write_raster('b.tif', b, origin=(500_000.5, 4_800_000.0)),
            tmp_path / 'o.tif',
            nodata=nodata,
            resampling='nearest',
            stretch='linear(low=0, high=255)',
        )
        void = np.zeros((50, 60), bool)
        void[3:6, 3:6] = True
        assert ((read(tmp_path / 'o.tif') == 255) == void).all()

    def test_nothing_valid_is_refused_and_nothing_is_written(self, predicted, tmp_path):
        def damage(a, b):
            a[:] = 0
            return dict(nodata=0), {}

        with pytest.raises(UserError, match=r'no pixel is valid in both .*a\.tif and .*b\.tif'):
            predicted(damage)
        assert sorted(path.name for path in tmp_path.iterdir()) == ['a.tif', 'b.tif']


class TestWindows:
    def test_window_that_holds_the_image_gives_the_whole_images_bits(
        self, write_raster, scene, inferencer_of, tmp_path, read
    ):
        import torch

        a, b = scene(96, 128)
        model = Context()
        inferencer_of(model).predict_raster(
            write_raster('a.tif', a),
            write_raster('b.tif', b),
            tmp_path / 'o.tif',
            probability=tmp_path / 'p.tif',
            probability_dtype='float32',
            window=128,
        )
        pair = torch.from_numpy(np.concatenate([a, b])).float()[None]
        whole = model.probability((pair - 100) / 50)[0].numpy()
        assert (read(tmp_path / 'p.tif') == whole).all()

    def test_small_image_is_padded_to_the_divisor_only(
        self, write_raster, scene, inferencer_of, tmp_path, read
    ):
        a, b = scene(184, 200)
        model = Difference()
        inferencer_of(model, training_size=256).predict_raster(
            write_raster('a.tif', a), write_raster('b.tif', b), tmp_path / 'o.tif'
        )
        assert model.shapes == [(1, 6, 192, 224)]
        assert read(tmp_path / 'o.tif').shape == (184, 200)

    @pytest.mark.parametrize('size', [(1, 100), (100, 1), (1, 1)])
    def test_one_pixel_wide(self, write_raster, scene, inferencer_of, tmp_path, read, size):
        a, b = (date[:, : size[0], : size[1]] for date in scene(100, 100))
        inferencer_of(Difference()).predict_raster(
            write_raster('a.tif', a), write_raster('b.tif', b), tmp_path / 'o.tif', threshold=0.3
        )
        assert (read(tmp_path / 'o.tif') == (difference(a, b) > 0.3)).all()

    def test_seams_are_no_steeper_than_twice_the_rest(
        self, write_raster, scene, inferencer_of, tmp_path, read
    ):
        a, b = scene(400, 400)
        files = write_raster('a.tif', a), write_raster('b.tif', b)

        def seam(overlap):
            inferencer_of(Context(), training_size=100).predict_raster(
                *files,
                tmp_path / 'o.tif',
                probability=tmp_path / 'p.tif',
                probability_dtype='float32',
                overlap=overlap,
                overwrite=True,
            )
            probability = read(tmp_path / 'p.tif')
            gradient = np.abs(np.diff(probability, axis=1)).mean(0)
            edges = np.zeros(399, bool)
            step = round(100 * (1 - overlap))
            for start in range(step, 300 + step, step):
                start = min(start, 300)
                edges[start - 1] = True
                if start + 99 - step < 399:
                    edges[start + 99 - step] = True
            return gradient[edges].mean() / gradient[~edges].mean()

        assert seam(0.25) <= 2
        assert seam(0.25) < seam(0.0)

    def test_batch_size_and_threads_move_nothing(
        self, write_raster, scene, inferencer_of, tmp_path, read
    ):
        import torch

        a, b = scene(150, 330)
        files = write_raster('a.tif', a), write_raster('b.tif', b)
        found = []
        # Memory is taken for the windows that there are.
        for batch_size, threads in ((1, 1), (5, 1), (3, 2), (10**12, 1)):
            torch.set_num_threads(threads)
            inferencer_of(Context()).predict_raster(
                *files,
                tmp_path / 'o.tif',
                probability=tmp_path / 'p.tif',
                probability_dtype='float32',
                batch_size=batch_size,
                overwrite=True,
            )
            found.append(read(tmp_path / 'p.tif'))
        assert max(np.abs(one - found[0]).max() for one in found) <= 1e-5

    def test_strips_change_nothing(self, write_raster, scene, inferencer_of, tmp_path, read):
        a, b = scene(700, 1300)
        files = write_raster('a.tif', a), write_raster('b.tif', b)
        found = []
        for strip in (512, 1024, 2048):
            inferencer_of(Difference(), training_size=200).predict_raster(
                *files,
                tmp_path / 'o.tif',
                probability=tmp_path / 'p.tif',
                strip=strip,
                overwrite=True,
            )
            found.append((read(tmp_path / 'o.tif'), read(tmp_path / 'p.tif')))
        for change, probability in found[1:]:
            assert (change == found[0][0]).all()
            assert (probability == found[0][1]).all()


class TestValues:
    def test_uint16_by_a_linear_rule(self, write_raster, scene, inferencer_of, tmp_path, read):
        a, b = (date.astype(np.uint16) * 12 for date in scene(100, 120))
        inferencer_of(Difference()).predict_raster(
            write_raster('a.tif', a),
            write_raster('b.tif', b),
            tmp_path / 'o.tif',
            probability=tmp_path / 'p.tif',
            probability_dtype='float32',
            stretch=LINEAR,
        )
        scaled = [np.clip(date / 3000, 0, 1) * 255 for date in (a, b)]
        np.testing.assert_allclose(read(tmp_path / 'p.tif'), difference(*scaled), atol=1e-5)

    def test_percentiles_are_joint_and_independent_of_the_window(
        self, write_raster, scene, inferencer_of, tmp_path, read
    ):
        a, b = (date.astype(np.float32) / 255 for date in scene(100, 120))
        b = b * 0.5
        files = write_raster('a.tif', a), write_raster('b.tif', b)
        low, high = (
            choose(np.percentile(a, q, axis=(1, 2)), np.percentile(b, q, axis=(1, 2)))
            for choose, q in ((np.minimum, 2), (np.maximum, 98))
        )
        shape = (3, 1, 1)
        scaled = [
            np.clip((date - low.reshape(shape)) / (high - low).reshape(shape), 0, 1) * 255
            for date in (a, b)
        ]
        for window in (40, 200):
            result = inferencer_of(Difference()).predict_raster(
                *files,
                tmp_path / 'o.tif',
                probability=tmp_path / 'p.tif',
                probability_dtype='float32',
                stretch='percentile(2, 98)',
                window=window,
                overwrite=True,
            )
            np.testing.assert_allclose(read(tmp_path / 'p.tif'), difference(*scaled), atol=1e-4)
        np.testing.assert_allclose(
            result.report['stretch']['bounds'], np.stack([low, high], 1), rtol=1e-5
        )

    def test_sample_does_not_depend_on_overviews(
        self, write_raster, scene, inferencer_of, tmp_path
    ):
        a, b = (date.astype(np.uint16) * 11 for date in scene(700, 1400))
        bounds = []
        for levels in ([], [2, 4, 8]):
            files = write_raster('a.tif', a), write_raster('b.tif', b)
            for path in files:
                with rasterio.open(path, 'r+') as file:
                    file.build_overviews(levels, rasterio.enums.Resampling.average)
            result = inferencer_of(Constant(0.5)).predict_raster(
                *files, tmp_path / 'o.tif', stretch='percentile(2, 98)', dry_run=True
            )
            bounds.append(result.report['stretch']['bounds'])
        assert bounds[0] == bounds[1]

    def test_offsets_are_added_before_the_rule(
        self, write_raster, scene, inferencer_of, tmp_path, read
    ):
        a, _ = scene(60, 60)
        a = a.astype(np.uint16)
        result = inferencer_of(Difference()).predict_raster(
            write_raster('a.tif', a),
            write_raster('b.tif', a + 1000),
            tmp_path / 'o.tif',
            stretch='linear(low=0, high=255)',
            offset_b=-1000,
        )
        assert result.changed_pixels == 0

    def test_bands_are_picked_and_ordered(self, write_raster, scene, inferencer_of, tmp_path):
        a, b = scene(64, 64)
        many_a, many_b = (np.zeros((13, 64, 64), np.uint8) for _ in range(2))
        many_a[[3, 2, 1]], many_b[[3, 2, 1]] = a, b
        model = Difference()
        inferencer_of(model).predict_raster(
            write_raster('a.tif', many_a),
            write_raster('b.tif', many_b),
            tmp_path / 'o.tif',
            bands=(4, 3, 2),
        )
        expected = (np.concatenate([a, b]) - 100.0) / 50.0
        np.testing.assert_allclose(model.inputs[0][0].numpy(), expected, atol=1e-5)

    def test_a_model_of_bgr_gets_bgr(self, write_raster, scene, inferencer_of, tmp_path):
        a, b = scene(64, 64)
        model = Difference()
        inferencer_of(model, bands=('blue', 'green', 'red')).predict_raster(
            write_raster('a.tif', a), write_raster('b.tif', b), tmp_path / 'o.tif'
        )
        expected = (np.concatenate([a[::-1], b[::-1]]) - 100.0) / 50.0
        np.testing.assert_allclose(model.inputs[0][0].numpy(), expected, atol=1e-5)


class TestFiles:
    def test_interrupted_run_leaves_nothing_and_the_next_cleans_up(
        self, write_raster, scene, tmp_path, inferencer_of
    ):
        a, b = scene(64, 200)
        files = write_raster('a.tif', a), write_raster('b.tif', b)
        script = (
            'import os, signal, sys\n'
            'from tests.inference.conftest import Constant, model_of\n'
            'from mtkd_cd.inference.inferencer import ChangeInferencer\n'
            'class Killed(Constant):\n'
            '    def probability(self, pairs):\n'
            '        if self.calls == 1: os.kill(os.getpid(), signal.SIGKILL)\n'
            '        return super().probability(pairs)\n'
            'ChangeInferencer(model_of(Killed(0.5)), device="cpu").predict_raster(\n'
            '    *sys.argv[1:], batch_size=1)\n'
        )
        out = tmp_path / 'o.tif'
        root = os.path.join(os.path.dirname(__file__), '..', '..')
        killed = subprocess.run(
            [sys.executable, '-c', script, *map(str, files), str(out)],
            cwd=root,
            env={**os.environ, 'PYTHONPATH': root},
            check=False,
        )
        assert killed.returncode == -9
        assert not out.exists()
        assert list(tmp_path.glob('.o.*'))
        inferencer_of(Constant(0.5)).predict_raster(*files, out)
        assert out.exists()
        assert not list(tmp_path.glob('.*'))

    def test_error_in_the_middle_leaves_the_old_file(
        self, write_raster, scene, inferencer_of, tmp_path
    ):
        class Failing(Constant):
            def probability(self, pairs):
                if self.calls:
                    raise RuntimeError('out of memory')
                return super().probability(pairs)

        a, b = scene(64, 200)
        files = write_raster('a.tif', a), write_raster('b.tif', b)
        out = tmp_path / 'o.tif'
        out.write_bytes(b'old')
        with pytest.raises(RuntimeError, match='out of memory'):
            inferencer_of(Failing(0.5)).predict_raster(*files, out, overwrite=True, batch_size=1)
        assert out.read_bytes() == b'old'
        assert not list(tmp_path.glob('.*'))

    @pytest.mark.slow
    def test_memory_does_not_grow_with_the_raster(self, tmp_path):
        """Peak RSS at 20,000 x 20,000 is at most that at 5,000 x 5,000 and 64 MiB."""
        script = (
            'import resource, sys\n'
            'import numpy as np, rasterio, torch\n'
            'torch.set_num_threads(1)\n'
            'from tests.inference.conftest import Constant, model_of\n'
            'from mtkd_cd.inference.inferencer import ChangeInferencer\n'
            'size, folder = int(sys.argv[1]), sys.argv[2]\n'
            'model = model_of(Constant(0.7), training_size=512)\n'
            'result = ChangeInferencer(model, device="cpu").predict_raster(\n'
            '    f"{folder}/a{size}.tif", f"{folder}/b{size}.tif", f"{folder}/o{size}.tif",\n'
            '    probability=f"{folder}/p{size}.tif")\n'
            'assert result.changed_pixels == size * size\n'
            'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n'
        )
        root = os.path.join(os.path.dirname(__file__), '..', '..')
        peak = {}
        for size in (5_000, 20_000):
            block = np.random.default_rng(0).integers(0, 256, (3, 512, 512)).astype(np.uint8)
            for name in 'ab':
                with rasterio.open(
                    tmp_path / f'{name}{size}.tif',
                    'w',
                    driver='GTiff',
                    width=size,
                    height=size,
                    count=3,
                    dtype='uint8',
                    tiled=True,
                    blockxsize=512,
                    blockysize=512,
                    compress='deflate',
                    zlevel=1,
                    crs=UTM,
                    transform=rasterio.transform.from_origin(5e5, 4.8e6, 1, 1),
                ) as file:
                    for row in range(0, size, 2048):
                        for col in range(0, size, 2048):
                            file.write(
                                block[:, : min(512, size - row), : min(512, size - col)],
                                window=rasterio.windows.Window(
                                    col, row, min(512, size - col), min(512, size - row)
                                ),
                            )
            done = subprocess.run(
                [sys.executable, '-c', script, str(size), str(tmp_path)],
                cwd=root,
                env={**os.environ, 'PYTHONPATH': root, 'GDAL_CACHEMAX': '64'},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            peak[size] = int(done.stdout.split()[-1]) / 1024
        print(peak)
        assert peak[20_000] <= peak[5_000] + 64


def test_crop_to_a_box_is_the_part_of_the_whole(write_raster, scene, inferencer_of, tmp_path, read):
    a, b = scene(100, 120)
    files = write_raster('a.tif', a), write_raster('b.tif', b)
    inferencer = inferencer_of(Difference(), threshold=0.3)
    inferencer.predict_raster(*files, tmp_path / 'whole.tif')
    inferencer.predict_raster(
        *files, tmp_path / 'part.tif', bbox=(500_105.0, 4_799_500.0, 500_800.0, 4_799_895.0)
    )
    with rasterio.open(tmp_path / 'part.tif') as part:
        assert part.shape == (40, 70)
        assert part.transform.c == 500_100
        assert part.transform.f == 4_799_900
    assert (read(tmp_path / 'part.tif') == read(tmp_path / 'whole.tif')[10:50, 10:80]).all()


def test_area_of_interest_is_all_that_is_known(write_raster, scene, inferencer_of, tmp_path, read):
    import pyogrio
    import pyproj
    import shapely

    a, b = scene(100, 120)
    files = write_raster('a.tif', a), write_raster('b.tif', b)
    triangle = shapely.Polygon([(500_200, 4_799_800), (500_800, 4_799_800), (500_200, 4_799_300)])
    transformer = pyproj.Transformer.from_crs(UTM, 'EPSG:4326', always_xy=True)
    lonlat = shapely.transform(triangle, transformer.transform, interleaved=False)
    pyogrio.raw.write(
        tmp_path / 'aoi.gpkg',
        np.array([shapely.to_wkb(lonlat)], object),
        [],
        [],
        geometry_type='Polygon',
        crs='EPSG:4326',
        driver='GPKG',
    )
    inferencer_of(Difference()).predict_raster(
        *files, tmp_path / 'o.tif', aoi=tmp_path / 'aoi.gpkg'
    )
    change = read(tmp_path / 'o.tif')
    with rasterio.open(tmp_path / 'o.tif') as file:
        transform = file.transform
    rows, cols = np.indices(change.shape)
    xs, ys = (transform.c + (cols + 0.5) * 10, transform.f - (rows + 0.5) * 10)
    inside = shapely.contains_xy(triangle, xs.ravel(), ys.ravel()).reshape(change.shape)
    assert ((change != 255) != inside).sum() <= 2  # centres on an edge
    assert inside.sum() > 1000


def test_a_local_crs_is_predicted_without_areas(predict, scene, write_raster):
    a, b = scene(70, 90)
    local = 'LOCAL_CS["site",UNIT["metre",1]]'
    placed, wanted = (
        predict(*(write_raster(f'{name}.tif', one, crs=crs) for name, one in (('a', a), ('b', b))))
        for crs in (local, UTM)
    )
    np.testing.assert_array_equal(placed[0], wanted[0])
    assert placed[1].area_m2 is None
    assert wanted[1].area_m2 > 0
    # On another grid of the same local CRS it is warped, as on the earth.
    half = write_raster('half.tif', b, crs=local, origin=(500_005.0, 4_799_995.0))
    moved = predict(write_raster('a.tif', a, crs=local), half)[1]
    assert moved.report['grid']['b_warped']


def test_a_sub_data_set_is_what_gdal_reads(predict, scene, write_raster):
    a, b = (write_raster(f'{name}.tif', one) for name, one in zip('ab', scene(70, 90)))
    wanted = predict(a, b)[0]
    np.testing.assert_array_equal(predict(f'GTIFF_DIR:1:{a}', b)[0], wanted)
    with pytest.raises(UserError, match=r'none\.tif does not exist'):
        predict(f'{a.parent}/none.tif', b)


def test_pictures_need_no_rasterio(tmp_path, scene, monkeypatch):
    import cv2

    a, b = scene(70, 90)
    for name, date in (('a', a), ('b', b)):
        cv2.imwrite(str(tmp_path / f'{name}.png'), date.transpose(1, 2, 0)[:, :, ::-1])
    monkeypatch.setitem(sys.modules, 'rasterio', None)
    inferencer = ChangeInferencer(model_of(Difference(), threshold=0.3), device='cpu')
    result = inferencer.predict_raster(tmp_path / 'a.png', tmp_path / 'b.png', tmp_path / 'o.png')
    change = cv2.imread(str(tmp_path / 'o.png'), cv2.IMREAD_UNCHANGED)
    assert (change == 255 * (difference(a, b) > 0.3)).all()
    assert result.area_m2 is None
    with pytest.raises(UserError, match=r"rasterio.*pip install 'mtkd-cd\[geo\]'"):
        inferencer.predict_raster(tmp_path / 'a.tif', tmp_path / 'b.tif', tmp_path / 'o.tif')


class TestAssumedAlignment:
    """B is at A's place, whatever it says: with every option that warps it too."""

    @pytest.mark.parametrize('elsewhere', [dict(origin=(500_200.0, 4_799_900.0)), dict(crs=None)])
    def test_at_another_resolution(self, write_raster, scene, predict, elsewhere):
        a, b = scene(50, 60)
        first = write_raster('a.tif', a)
        options = dict(gsd='model', gsd_m=5.0)
        expected, _ = predict(first, write_raster('b.tif', b), **options)
        found, _ = predict(
            first, write_raster('c.tif', b, **elsewhere), assume_aligned=True, **options
        )
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize('elsewhere', [dict(origin=(500_200.0, 4_799_900.0)), dict(crs=None)])
    def test_with_the_shift_taken_out(self, write_raster, predict, elsewhere):
        a, b = _shifted_texture()
        first = write_raster('a.tif', a)
        expected, result = predict(first, write_raster('b.tif', b), coregister=True)
        assert result.report['coregistered']
        found, _ = predict(
            first, write_raster('c.tif', b, **elsewhere), assume_aligned=True, coregister=True
        )
        np.testing.assert_array_equal(found, expected)

    def test_shift_of_rasters_without_a_crs_is_taken_out(self, write_raster, predict):
        a, b = _shifted_texture()
        expected, _ = predict(write_raster('a.tif', a), write_raster('b.tif', b), coregister=True)
        found, result = predict(
            write_raster('c.tif', a, crs=None), write_raster('d.tif', b, crs=None), coregister=True
        )
        assert result.report['coregistered']
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_allclose(found, expected, atol=0.02)

    def test_rule_of_the_shift_is_the_one_asked_for(self, write_raster, predict):
        a, b = _shifted_texture()
        first, second = write_raster('a.tif', a), write_raster('b.tif', b)
        found, result = predict(first, second, coregister=True, resampling='nearest')
        assert result.report['grid']['resampling'] == 'nearest'
        # Whole pixels: date B's values themselves.
        assert np.nanmax(found) == 0


def _shifted_texture():
    """(3, 256, 256) uint8 of A, and of B the same 4 pixels to the right and 3 up."""
    noise = np.random.default_rng(1).integers(0, 255, (280, 280)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    texture = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    a, b = texture[10:266, 10:266], texture[13:269, 6:262]
    return np.repeat(a[None], 3, 0), np.repeat(b[None], 3, 0)


def test_polygons_beside_a_picture_of_a_georeferenced_pair_are_on_the_ground(
    write_raster, scene, inferencer_of, tmp_path
):
    raw = pytest.importorskip('pyogrio.raw')
    a, b = scene(50, 60)
    first, second = write_raster('a.tif', a), write_raster('b.tif', b)
    found = []
    for name in ('o.tif', 'o.png'):
        inferencer_of(Difference()).predict_raster(
            first,
            second,
            tmp_path / name,
            vector=tmp_path / 'v.gpkg',
            min_area=300.0,
            overwrite=True,
        )
        meta, _, geometries, _ = raw.read(tmp_path / 'v.gpkg')
        found.append((meta['crs'], geometries.tolist()))
    assert found[0][0] == UTM
    assert found[0][1]
    assert found[0] == found[1]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['a.tif', 'b.tif', 'o.png', 'o.tif', 'v.gpkg']


def test_picture_that_is_to_be_turned_is_refused_beside_one_that_is_not(inferencer_of, tmp_path):
    """Square, so that their sizes do not tell; transparent, so that GDAL reads both."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 40, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(picture[:, :, :3]).save(tmp_path / 'a.jpg', exif=exif.tobytes())
    Image.fromarray(picture).save(tmp_path / 'b.png')
    with pytest.raises(UserError, match=r'orientation tags .*a\.jpg has 6, .*b\.png has 1'):
        inferencer_of(Difference()).predict_raster(
            tmp_path / 'a.jpg', tmp_path / 'b.png', tmp_path / 'o.png'
        )


@pytest.mark.parametrize('crs', [None, UTM])
def test_tiff_to_be_turned_is_refused_unless_it_is_placed(predict, write_raster, scene, crs):
    a, b = scene(40, 40)
    upright = write_raster('a.tif', a, crs=crs)
    turned = write_raster('b.tif', b, crs=crs)
    with open(turned, 'r+b') as file:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        place, count = file.tell(), struct.unpack('<H', file.read(2))[0]
        entries = [file.read(12) for _ in range(count)]
        # In the place of a tag that nothing depends on: the planar configuration of one strip.
        index = next(i for i, one in enumerate(entries) if one[:2] == struct.pack('<H', 284))
        file.seek(place + 2 + 12 * index)
        file.write(struct.pack('<HHIHH', 274, 3, 1, 3, 0))
    if crs is None:
        with pytest.raises(UserError, match=r'orientation tags .*a\.tif has 1, .*b\.tif has 3'):
            predict(upright, turned)
    else:
        predict(upright, turned)
