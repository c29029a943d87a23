"""Both dates in one raster."""

import numpy as np
import pytest

from mtkd_cd.cli.stack import main
from mtkd_cd.core.errors import UserError
from mtkd_cd.inference.stack import stack_pair

rasterio = pytest.importorskip('rasterio')


def test_bands_of_a_come_before_those_of_b_on_the_grid_of_a(write_raster, scene, tmp_path):
    a, b = scene(40, 600)
    paths = [write_raster(f'{name}.tif', date) for name, date in zip('ab', (a, b))]
    main([*map(str, paths), '-o', str(tmp_path / 'ab.tif')])
    with rasterio.open(tmp_path / 'ab.tif') as file, rasterio.open(paths[0]) as first:
        np.testing.assert_array_equal(file.read(), np.concatenate([a, b]))
        assert (file.crs, file.transform) == (first.crs, first.transform)
        assert file.descriptions == ('A red', 'A green', 'A blue', 'B red', 'B green', 'B blue')
        assert file.read_masks().min() == 255
    with pytest.raises(UserError, match='exists'):
        main([*map(str, paths), '-o', str(tmp_path / 'ab.tif')])


def test_both_dates_are_stretched_by_one_rule_and_invalid_pixels_are_masked(write_raster, tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.integers(1, 4000, (2, 3, 30, 30)).astype(np.uint16)
    b[1, 3, 5] = 0  # one band of one date
    paths = [write_raster(f'{n}.tif', date, nodata=0) for n, date in zip('ab', (a, b))]
    with pytest.raises(UserError, match='--stretch'):
        stack_pair(*paths, tmp_path / 'ab.tif')
    stack_pair(*paths, tmp_path / 'ab.tif', rule='linear(low=0, high=3000)', bands=[3, 2, 1])
    wanted = np.rint(np.clip(np.concatenate([a[::-1], b[::-1]]) / 3000 * 255, 0, 255))
    wanted[:, 3, 5] = 0
    with rasterio.open(tmp_path / 'ab.tif') as file:
        np.testing.assert_array_equal(file.read(), wanted)
        mask = file.dataset_mask()
    assert (mask == 0).sum() == 1
    assert mask[3, 5] == 0


def test_a_date_on_another_grid_is_warped_as_a_prediction_does_it(write_raster, scene, tmp_path):
    a, b = scene(64, 64)
    first = write_raster('a.tif', a)
    second = write_raster('b.tif', b, origin=(500_000.0 - 80, 4_800_000.0 + 80))
    stack_pair(first, second, tmp_path / 'ab.tif')
    with rasterio.open(tmp_path / 'ab.tif') as file:
        found, mask = file.read(), file.dataset_mask() > 0
    np.testing.assert_array_equal(found[3:, :56, :56], b[:, 8:, 8:])
    assert mask[:56, :56].all()
    assert not mask[56:].any()
