"""The one image reader: every type and range has a stated rule or a refusal."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from mtkd_cd.core.errors import UserError
from mtkd_cd.data import images
from mtkd_cd.data.images import MAX_PIXELS, read_header, read_image, sample_values, to_picture
from mtkd_cd.data.transforms import MultiImgLoadAnnotations, MultiImgLoadImageFromFile


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def write_tiff(tmp_path):
    rasterio = pytest.importorskip('rasterio')

    def write(name, bands, **profile):
        path = str(tmp_path / name)
        with rasterio.open(
            path,
            'w',
            driver='GTiff',
            count=len(bands),
            height=bands.shape[1],
            width=bands.shape[2],
            dtype=bands.dtype,
            **profile,
        ) as file:
            file.write(bands)
        return path

    return write


def turned_file(path, array, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    if path.suffix == '.tif':
        Image.fromarray(array).save(path, tiffinfo={0x0112: orientation})
    else:
        Image.fromarray(array).save(path, exif=exif)
    return str(path)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif'])
def test_orientation_tags_are_obeyed_and_headers_know_the_turned_size(
    tmp_path, rgb, suffix, orientation
):
    path = turned_file(tmp_path / f'a{suffix}', rgb, orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert('RGB'))
    picture = read_image(path)
    difference = np.abs(picture.pixels[..., ::-1].astype(int) - expected)
    assert difference.max() <= (0 if suffix != '.jpg' else 3)
    assert picture.orientation == orientation
    with open(path, 'rb') as file:
        assert read_header(file).size == (picture.pixels.shape[1], picture.pixels.shape[0])


def test_a_tag_on_one_date_only_is_refused(tmp_path, rgb):
    paths = [
        turned_file(tmp_path / 'a.png', rgb[:, :24], 6),
        turned_file(tmp_path / 'b.png', rgb[:, :24], 1),
    ]
    with pytest.raises(UserError, match=r'a\.png has 6, .*b\.png has 1'):
        MultiImgLoadImageFromFile()({'img_path': paths})


def test_opaque_photos_are_read_and_transparent_ones_refused(tmp_path, rgb):
    rgba = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    for suffix in ('.png', '.tif'):
        Image.fromarray(rgba).save(tmp_path / f'a{suffix}')
        np.testing.assert_array_equal(read_image(tmp_path / f'a{suffix}').pixels[..., ::-1], rgb)
    rgba[3, 4, 3] = 200
    Image.fromarray(rgba).save(tmp_path / 'a.png')
    with pytest.raises(UserError, match='transparent'):
        read_image(tmp_path / 'a.png')


@pytest.mark.parametrize('compression', ['zstd', 'webp', 'lerc', 'deflate', 'lzma'])
def test_every_compression_of_gdal_is_read(write_tiff, rgb, compression):
    extra = {'webp_lossless': True} if compression == 'webp' else {}
    path = write_tiff(
        'a.tif',
        np.moveaxis(rgb, -1, 0),
        photometric='RGB',
        interleave='pixel',
        compress=compression,
        **extra,
    )
    np.testing.assert_array_equal(read_image(path).pixels[..., ::-1], rgb)


def test_without_rasterio_the_compression_is_the_reason(write_tiff, rgb, monkeypatch):
    path = write_tiff('a.tif', np.moveaxis(rgb, -1, 0), photometric='RGB', compress='zstd')
    monkeypatch.setattr(images, '_has_rasterio', lambda: False)
    with pytest.raises(UserError, match=r'compressed with ZSTD.*mtkd-cd\[geo\]'):
        read_image(path)


@pytest.mark.parametrize('interleave', ['pixel', 'band'])
def test_bands_are_chosen_by_number(write_tiff, interleave):
    bands = np.arange(13, dtype=np.uint16)[:, None, None] * 100 + np.zeros((13, 8, 9), np.uint16)
    path = write_tiff('a.tif', bands, interleave=interleave)
    rule = 'linear(low=0, high=2550)'
    three = read_image(path, bands=(4, 3, 2), radiometry=rule).pixels
    np.testing.assert_allclose(three[0, 0], [10, 20, 30], atol=1e-4)  # blue first
    five = read_image(path, bands=(13, 1, 2, 3, 4), radiometry=rule).pixels
    np.testing.assert_allclose(five[0, 0], [120, 0, 10, 20, 30], atol=1e-4)
    with pytest.raises(UserError, match=r'has 13 bands.*bands=\(4, 3, 2\)'):
        read_image(path, radiometry=rule)
    with pytest.raises(UserError, match=r'has 13 bands, but .* asks for band 14'):
        read_image(path, bands=(14, 1, 2), radiometry=rule)


def test_red_green_blue_and_infrared_is_not_taken_for_opacity(write_tiff):
    path = write_tiff('a.tif', np.full((4, 8, 9), 255, np.uint8), photometric='RGB')
    with pytest.raises(UserError, match='4 bands'):
        read_image(path)
    assert read_image(path, bands=(1, 2, 3, 4)).pixels.shape == (8, 9, 4)


def test_pixels_without_data_are_the_mean_on_both_dates_and_ignored(write_tiff, tmp_path):
    stored = np.full((3, 8, 9), 1000, np.uint16)
    hole = stored.copy()
    hole[1, 2, 3] = 0  # one band is enough
    paths = [
        write_tiff('a.tif', hole, nodata=0, photometric='RGB'),
        write_tiff('b.tif', stored, nodata=0, photometric='RGB'),
    ]
    label = np.zeros((8, 9), np.uint8)
    label[2] = 255
    Image.fromarray(label).save(tmp_path / 'label.png')
    info = {
        'img_path': paths,
        'seg_map_path': str(tmp_path / 'label.png'),
        'format_seg_map': 'to_binary',
    }
    loaded = MultiImgLoadImageFromFile(radiometry='linear(low=0, high=2000)')(info)
    results = MultiImgLoadAnnotations()(loaded)
    for image in results['img']:
        np.testing.assert_allclose(image[2, 3], [103.53, 116.28, 123.675])
        np.testing.assert_allclose(np.delete(image.reshape(72, 3), 2 * 9 + 3, 0), 127.5)
    expected = label // 255
    expected[2, 3] = 255
    np.testing.assert_array_equal(results['gt_seg_map'], expected)
    assert results['car'] == 9 / 72  # of the label as stored


def test_nan_is_no_data(write_tiff):
    bands = np.full((3, 8, 9), 0.5, np.float32)
    bands[0, 1, 1] = np.nan
    picture = read_image(write_tiff('a.tif', bands), radiometry='linear(low=0, high=1)')
    assert (~picture.valid).sum() == 1
    assert np.isfinite(picture.pixels).all()


@pytest.mark.parametrize('dtype', ['uint16', 'int16', 'uint32', 'int32', 'float32', 'float64'])
@pytest.mark.parametrize('high', [1, 200, 60000])
def test_no_type_is_decided_by_its_brightest_pixel(write_tiff, dtype, high):
    bands = np.zeros((3, 8, 9), dtype)
    bands[:, 0, 0] = min(high, np.iinfo(dtype).max if dtype == 'int16' else high)
    for source in (write_tiff('a.tif', bands), np.moveaxis(bands, 0, -1)):
        read = (
            read_image
            if isinstance(source, str)
            else lambda array, **k: to_picture(array, 'x', **k)
        )
        with pytest.raises(UserError, match=rf'{dtype}.*radiometry='):
            read(source)
        levels = read(source, radiometry=f'linear(low=0, high={bands.max()})').pixels
        assert (levels[0, 0] == 255).all()
        assert not levels[1:].any()


@pytest.mark.parametrize(('bits', 'most'), [(2, 3), (4, 15)])
def test_values_of_a_few_bits_are_told_from_a_truncated_file(write_tiff, bits, most):
    path = write_tiff('a.tif', np.full((1, 8, 8), most, np.uint8), nbits=bits)
    with pytest.raises(UserError, match=rf'{bits} bits.*gdal_translate .*-scale 0 {most} 0 255'):
        read_image(path)


def test_arrays_follow_the_rules_of_files(rgb):
    gray = rgb[..., 0]
    np.testing.assert_array_equal(to_picture(gray, 'x').pixels, np.dstack([gray] * 3))
    np.testing.assert_array_equal(to_picture(gray[..., None], 'x').pixels, np.dstack([gray] * 3))
    rgba = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(to_picture(rgba, 'x').pixels, rgb)
    for bad in (rgba[..., :2], rgb / 255.0, rgb > 3, rgb.astype(complex), rgb[0, 0], rgb[:0]):
        with pytest.raises(UserError, match=r'^x '):
            to_picture(bad, 'x')


def test_sample_of_a_file_is_red_first_and_masked(write_tiff):
    bands = np.stack([np.full((8, 9), value, np.uint16) for value in (1, 2, 3)])
    bands[:, 0, 0] = 0
    values = sample_values(write_tiff('a.tif', bands, nodata=0))
    assert values[:, 1, 1].tolist() == [1, 2, 3]
    assert values.mask[:, 0, 0].all()


def test_a_scene_is_told_about_tiles_and_prediction(tmp_path):
    Image.MAX_IMAGE_PIXELS, before = None, Image.MAX_IMAGE_PIXELS
    try:
        side = int(MAX_PIXELS**0.5) + 1
        Image.new('1', (side, side)).save(tmp_path / 'a.png')
    finally:
        Image.MAX_IMAGE_PIXELS = before
    with pytest.raises(UserError, match=r'whole scene.*tiles.*mtkd-cd predict'):
        read_image(tmp_path / 'a.png')


def test_png_without_its_end_is_refused(tmp_path, rgb):
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, 'PNG')
    for lost in (12, 4 * 3, 200):
        (tmp_path / 'a.png').write_bytes(buffer.getvalue()[:-lost])
        with pytest.raises(UserError, match='has lost its end'):
            read_image(tmp_path / 'a.png')
    (tmp_path / 'a.png').write_bytes(buffer.getvalue() + b'more')
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png').pixels[..., ::-1], rgb)
