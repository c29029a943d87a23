"""The label reader: which codings it accepts, what it makes of them, and which ones it refuses."""

import cv2
import numpy as np
import pytest
from PIL import Image

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.labels import read_label


@pytest.fixture
def mask():
    """(64, 64) of 0 and 1: a rectangle and a disc."""
    mask = np.zeros((64, 64), np.uint8)
    mask[5:25, 8:40] = 1
    return cv2.circle(mask, (45, 45), 12, 1, -1)


def save(path, array, **kwargs):
    Image.fromarray(array).save(path, **kwargs)
    return path


@pytest.mark.parametrize('white', [1, 255])
@pytest.mark.parametrize('suffix', ['.png', '.tif', '.bmp'])
def test_both_binary_codings_read_the_same(tmp_path, mask, white, suffix):
    label = read_label(save(tmp_path / f'a{suffix}', mask * white), format_seg_map='to_binary')
    assert label.dtype == np.uint8
    assert label.flags.writeable
    np.testing.assert_array_equal(label, mask)


@pytest.mark.parametrize('quality', [50, 75, 95])
def test_jpeg_noise_round_black_and_white_is_harmless(tmp_path, mask, quality):
    path = save(
        tmp_path / 'a.jpg',
        cv2.resize(mask, (256, 256), interpolation=cv2.INTER_NEAREST) * 255,
        quality=quality,
    )
    assert len(np.unique(np.array(Image.open(path)))) > 2
    label = read_label(path, format_seg_map='to_binary')
    np.testing.assert_array_equal(
        label, cv2.resize(mask, (256, 256), interpolation=cv2.INTER_NEAREST)
    )


@pytest.mark.parametrize('level', [0, 1, 3])
def test_unchanged_jpeg_of_nothing_but_noise_stays_unchanged(tmp_path, level):
    path = tmp_path / 'a.jpg'
    save(path, np.full((32, 32), level, np.uint8), quality=100)
    assert np.array(Image.open(path)).max() == level
    assert not read_label(path, format_seg_map='to_binary').any()


def test_blurred_edges_are_cut_at_128(tmp_path, mask):
    gray = cv2.GaussianBlur(mask * 255, (5, 5), 0)
    np.testing.assert_array_equal(
        read_label(save(tmp_path / 'a.png', gray), format_seg_map='to_binary'), gray >= 128
    )


def test_white_of_254_is_change(tmp_path, mask):
    np.testing.assert_array_equal(
        read_label(save(tmp_path / 'a.png', mask * 254), format_seg_map='to_binary'), mask
    )


@pytest.mark.parametrize(
    'values',
    [(0, 1, 255), (0, 1, 2), (0, 2), (0, 100, 200), (0, 128, 255), (3, 4, 5, 255)],
    ids=lambda values: '-'.join(map(str, values)),
)
def test_other_codings_are_refused_with_file_and_values(tmp_path, values):
    stripes = np.repeat(np.array(values, np.uint8), 16)[:, None].repeat(64, 1)
    with pytest.raises(UserError, match=r'strange\.png') as caught:
        read_label(save(tmp_path / 'strange.png', stripes), format_seg_map='to_binary')
    assert '{' + ', '.join(map(str, values)) + '}' in str(caught.value)


def test_photograph_is_refused(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    with pytest.raises(UserError, match=r'photo\.png'):
        read_label(save(tmp_path / 'photo.png', photo), format_seg_map='to_binary')


def test_colour_coded_label_is_refused_with_its_colours(tmp_path, mask):
    red = np.zeros((*mask.shape, 3), np.uint8)
    red[mask == 1] = (
        255,
        0,
        0,
    )  # luma 76: a threshold of its gray picture would call everything unchanged
    with pytest.raises(UserError, match=r'red\.png is in colour .*\(255, 0, 0\)'):
        read_label(save(tmp_path / 'red.png', red), format_seg_map='to_binary')


def test_gray_picture_in_colour_file_is_accepted(tmp_path, mask):
    rgb = np.repeat(mask[..., None] * 255, 3, -1)
    rgba = np.concatenate([rgb, np.full((*mask.shape, 1), 255, np.uint8)], -1)
    for name, array in (('a.png', rgb), ('b.png', rgba), ('c.jpg', rgb)):
        np.testing.assert_array_equal(
            read_label(save(tmp_path / name, array), format_seg_map='to_binary'), mask
        )


def test_transparency_is_refused(tmp_path, mask):
    rgba = np.repeat(mask[..., None] * 255, 4, -1)
    with pytest.raises(UserError, match='transparent'):
        read_label(save(tmp_path / 'a.png', rgba), format_seg_map='to_binary')


@pytest.mark.parametrize('dtype', [bool, np.uint16, np.int32, np.float32])
def test_other_pixel_types(tmp_path, mask, dtype):
    path = save(tmp_path / 'a.tif', mask.astype(dtype))
    np.testing.assert_array_equal(read_label(path, format_seg_map='to_binary'), mask)
    np.testing.assert_array_equal(read_label(path), mask)


def test_white_of_16_bits(tmp_path, mask):
    np.testing.assert_array_equal(
        read_label(
            save(tmp_path / 'a.png', mask.astype(np.uint16) * 65535), format_seg_map='to_binary'
        ),
        mask,
    )


def test_probabilities_are_no_label(tmp_path, mask):
    with pytest.raises(UserError, match=r'a\.tif holds the values \{0, 0\.4\}'):
        read_label(save(tmp_path / 'a.tif', mask * np.float32(0.4)), format_seg_map='to_binary')


def palette_file(path, indices, colours):
    image = Image.fromarray(indices, mode='P')
    image.putpalette([channel for colour in colours for channel in colour])
    image.save(path)
    return path


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_palette_file_shows_what_its_colours_show(tmp_path, mask):
    white_first = palette_file(tmp_path / 'a.png', 1 - mask, [(255, 255, 255), (0, 0, 0)])
    np.testing.assert_array_equal(read_label(white_first, format_seg_map='to_binary'), mask)
    red = palette_file(tmp_path / 'b.png', mask, [(0, 0, 0), (128, 0, 0)])
    np.testing.assert_array_equal(read_label(red, format_seg_map='to_binary'), mask)
    np.testing.assert_array_equal(read_label(red), mask)
    classes = palette_file(tmp_path / 'c.png', mask * 2, [(0, 0, 0), (128, 0, 0), (0, 128, 0)])
    with pytest.raises(UserError, match='palette'):
        read_label(classes, format_seg_map='to_binary')


def test_stored_coding_keeps_ignored_pixels(tmp_path, mask):
    mask[0] = 255
    np.testing.assert_array_equal(read_label(save(tmp_path / 'a.png', mask)), mask)


@pytest.mark.parametrize('coding', [None, 'with_ignored'])
def test_ignored_pixels_need_no_change_beside_them(tmp_path, coding):
    border = np.pad(np.zeros((54, 64), np.uint8), ((10, 0), (0, 0)), constant_values=255)
    for stored in (border, np.full((64, 64), 255, np.uint8)):
        label = read_label(save(tmp_path / 'a.png', stored), format_seg_map=coding)
        np.testing.assert_array_equal(label, stored)


def test_labels_turn_as_their_tag_says(tmp_path, mask):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    path = save(tmp_path / 'a.png', mask * 255, exif=exif)
    expected = np.rot90(mask, -1)
    np.testing.assert_array_equal(read_label(path, format_seg_map='to_binary'), expected)


def test_unknown_class_under_stored_coding_is_refused(tmp_path, mask):
    with pytest.raises(UserError, match=r'\{0, 7\}'):
        read_label(save(tmp_path / 'a.png', mask * 7))


def test_reduce_zero_label(tmp_path):
    stored = np.array([[0, 1, 2, 255]], np.uint8)
    assert read_label(save(tmp_path / 'a.png', stored), reduce_zero_label=True).tolist() == [
        [255, 0, 1, 255]
    ]
    with pytest.raises(UserError, match='reduce_zero_label'):
        read_label(tmp_path / 'a.png', reduce_zero_label=True, format_seg_map='to_binary')


def test_label_map_applies_last_and_to_old_values_only(tmp_path):
    path = save(tmp_path / 'a.png', np.array([[0, 1, 255]], np.uint8))
    assert read_label(path, label_map={0: 1, 1: 0}).tolist() == [[1, 0, 255]]
    path = save(tmp_path / 'b.png', np.array([[0, 255]], np.uint8))
    assert read_label(path, format_seg_map='to_binary', label_map={0: 255, 1: 0}).tolist() == [
        [255, 0]
    ]


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif'])
@pytest.mark.parametrize('keep', [0, 20, 0.5])
def test_truncated_file_is_named(tmp_path, mask, suffix, keep):
    noise = np.random.default_rng(0).integers(0, 2, (64, 64), dtype=np.uint8) * 255
    content = save(tmp_path / f'whole{suffix}', noise).read_bytes()
    path = tmp_path / f'cut{suffix}'
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    for backend in ('pillow', 'cv2'):
        with pytest.raises(UserError, match=f'cut{suffix}'):
            read_label(path, format_seg_map='to_binary', imdecode_backend=backend)


def test_missing_file_and_unknown_format(tmp_path):
    with pytest.raises(UserError, match=r'none\.png does not exist'):
        read_label(tmp_path / 'none.png')
    with pytest.raises(UserError, match='to_ternary'):
        read_label(tmp_path / 'none.png', format_seg_map='to_ternary')


def test_cv2_decoder_and_file_backend_agree_with_the_defaults(tmp_path, mask):
    path = save(tmp_path / 'a.png', mask * 255)
    options = {'imdecode_backend': 'cv2', 'backend_args': {'backend': 'local'}}
    np.testing.assert_array_equal(read_label(path, format_seg_map='to_binary', **options), mask)


@pytest.mark.parametrize(('white', 'ignored_value'), [(1, 255), (255, 127), (255, 2)])
def test_a_chosen_value_is_ignored_beside_a_binary_coding(tmp_path, mask, white, ignored_value):
    stored, expected = mask * white, mask.copy()
    stored[40:60], expected[40:60] = ignored_value, 255
    label = read_label(
        save(tmp_path / 'a.png', stored), format_seg_map='to_binary', ignored_value=ignored_value
    )
    np.testing.assert_array_equal(label, expected)
    with pytest.raises(UserError):
        read_label(tmp_path / 'a.png', format_seg_map='to_binary')


def test_what_is_not_ignored_needs_a_known_coding(tmp_path):
    stripes = np.repeat(np.array([0, 1, 2, 255], np.uint8), 16)[:, None].repeat(64, 1)
    with pytest.raises(
        UserError, match=r'holds the values \{0, 1, 2\}: these look like class numbers'
    ):
        read_label(save(tmp_path / 'a.png', stripes), format_seg_map='to_binary', ignored_value=255)


def test_coding_with_ignored_pixels_is_named_where_another_is_read(tmp_path):
    stripes = np.repeat(np.array([0, 1, 255], np.uint8), 16)[:, None].repeat(64, 1)
    path = save(tmp_path / 'a.png', stripes)
    with pytest.raises(UserError, match=r'format_seg_map=None and scores with --ignore-index 255'):
        read_label(path, format_seg_map='to_binary')
    assert set(np.unique(read_label(path))) == {0, 1, 255}


@pytest.mark.parametrize(
    ('dtype', 'nodata'), [(np.uint8, 255), (np.uint8, 7), (np.int16, -9999), (np.float32, np.nan)]
)
@pytest.mark.parametrize('coding', [None, 'to_binary'])
def test_nodata_of_a_tiff_is_ignored(tmp_path, mask, dtype, nodata, coding):
    stored = mask.astype(dtype)
    stored[:, 50:] = nodata
    label = read_label(geotiff(tmp_path / 'a.tif', stored, nodata=nodata), format_seg_map=coding)
    assert (label[:, 50:] == 255).all()
    assert (label[:, :50] == mask[:, :50]).all()


def test_mask_of_a_tiff_is_ignored_too(tmp_path, mask):
    rasterio = pytest.importorskip('rasterio')
    path = geotiff(tmp_path / 'a.tif', mask * np.uint8(255))
    known = np.ones(mask.shape, bool)
    known[10:20] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, 'r+') as file:
        file.write_mask(known)
    label = read_label(path, format_seg_map='to_binary')
    assert (label == np.where(known, mask, 255)).all()


def test_nodata_that_is_the_value_of_unchanged_pixels_leaves_them_unchanged(tmp_path, mask):
    path = geotiff(tmp_path / 'a.tif', mask, nodata=0)
    assert (read_label(path, format_seg_map='to_binary') == mask).all()


def geotiff(path, array, **profile):
    rasterio = pytest.importorskip('rasterio')
    height, width = array.shape
    profile.update(driver='GTiff', height=height, width=width, count=1, dtype=array.dtype)
    transform = rasterio.transform.from_origin(0, 0, 1, 1)
    with rasterio.open(path, 'w', transform=transform, **profile) as file:
        file.write(array, 1)
    return path
