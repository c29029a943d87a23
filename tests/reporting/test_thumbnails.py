"""Small pictures of what is no 8-bit RGB image."""

import io

import numpy as np
import pytest
from PIL import Image

from mtkd_cd.reporting.thumbnails import Scene, scene_thumbnails

rasterio = pytest.importorskip('rasterio')


def test_pictures_of_many_bands_and_16_bits_show_something(tmp_path):
    values = np.linspace(200, 3000, 32 * 48).reshape(32, 48).astype(np.uint16)
    files = tmp_path / 'a.tif', tmp_path / 'b.png'
    profile = dict(width=48, height=32, count=5, dtype='uint16')
    with rasterio.open(files[0], 'w', driver='GTiff', **profile) as file:
        file.write(np.stack([values, values[::-1], values, values, values]))
    Image.fromarray(values).save(files[1])
    for thumbnail in scene_thumbnails(Scene(str(files[0]), str(files[1]), None, {})):
        shown = np.asarray(Image.open(io.BytesIO(thumbnail.data)))
        assert shown.shape == (32, 48, 3)
        # From black to white with the values: red and blue are the first and the third band.
        assert shown[:2, :, 0].mean() < 40
        assert shown[-2:, :, 2].mean() > 215
