"""Reading pairs and labels, and what happens to files that are not what they should be."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.transforms import (
    MultiImgLoadAnnotations,
    MultiImgLoadImageFromFile,
    MultiImgLoadInferencerLoader,
    MultiImgLoadLoadImageFromNDArray,
)


@pytest.fixture
def dates(scene):
    return scene(30, 40)[:2]


@pytest.fixture
def write(tmp_path):
    def write(name, image):
        path = tmp_path / name
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            assert cv2.imwrite(str(path), image)
        return str(path)

    return write


def load(*paths, **settings):
    return MultiImgLoadImageFromFile(**settings)({'img_path': list(paths)})


@pytest.mark.parametrize('suffix', ['png', 'tif', 'bmp'])
def test_both_dates_are_read_as_bgr_in_order(suffix, dates, write):
    results = load(write(f'a.{suffix}', dates[0]), write(f'b.{suffix}', dates[1]))
    assert [image.dtype for image in results['img']] == [np.uint8] * 2
    np.testing.assert_array_equal(results['img'], dates)
    assert results['img_shape'] == results['ori_shape'] == (30, 40)


def test_jpeg_is_read_as_opencv_does_also_with_bytes_after_its_end(dates, write):
    content = cv2.imencode('.jpg', dates[0])[1].tobytes()
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    results = load(write('a.jpg', content), write('b.jpg', content + b'camera maker'))
    np.testing.assert_array_equal(results['img'], [expected] * 2)


def test_float32_on_request(dates, write):
    path = write('a.png', dates[0])
    images = load(path, path, to_float32=True)['img']
    assert images[0].dtype == np.float32
    np.testing.assert_array_equal(images[0], dates[0])


def test_gray_and_palette_images_get_three_channels(dates, write, tmp_path):
    gray = cv2.cvtColor(dates[0], cv2.COLOR_BGR2GRAY)
    palette = Image.fromarray(dates[0][..., ::-1]).quantize(16)
    palette.save(tmp_path / 'palette.png')
    for suffix in ('png', 'tif', 'jpg'):
        path = write(f'gray.{suffix}', gray)
        images = load(path, str(tmp_path / 'palette.png'))['img']
        assert images[0].shape == (30, 40, 3)
        np.testing.assert_array_equal(images[0][..., 0], images[0][..., 2])
        assert np.abs(images[0][..., 0].astype(int) - gray).max() < (30 if suffix == 'jpg' else 1)
        np.testing.assert_array_equal(images[1], np.array(palette.convert('RGB'))[..., ::-1])


def test_other_colour_types_are_taken_as_decoded(dates, write):
    alpha = write('a.png', np.dstack([dates[0], dates[0][..., :1]]))
    assert load(alpha, alpha, color_type='unchanged')['img'][0].shape == (30, 40, 4)
    assert load(alpha, alpha, color_type='grayscale')['img'][0].shape == (30, 40)


@pytest.mark.parametrize('suffix', ['png', 'tif'])
@pytest.mark.parametrize('factor', [16, 256])
def test_16_bit_images_need_a_rule_whatever_their_brightest_pixel(suffix, factor, dates, write):
    path = write(f'a.{suffix}', dates[0].astype(np.uint16) * factor)
    with pytest.raises(UserError, match=rf'a\.{suffix} .*uint16, percentiles .*radiometry='):
        load(path, path)
    rule = f'linear(low=0, high={255 * factor})'
    images = load(path, path, radiometry=rule)['img']
    assert images[0].dtype == np.float32
    np.testing.assert_allclose(images[0], dates[0], atol=1e-3)


def tiff(bands, separate, photometric):
    """A plain little-endian TIFF of (H, W, C) ``bands``, in one strip, or one per band."""
    height, width, count = bands.shape
    strips = (
        [band.tobytes() for band in np.moveaxis(bands, -1, 0)] if separate else [bands.tobytes()]
    )
    sizes = [len(strip) for strip in strips]
    offsets = [8 + sum(sizes[:index]) for index in range(len(sizes))]
    body = b''.join(strips)
    entries = b''
    lists = {
        258: [bands.itemsize * 8] * count,
        273: offsets,
        279: sizes,
        338: [0] * (count - (3 if photometric == 2 else 1)),
    }
    single = {
        256: width,
        257: height,
        259: 1,
        262: photometric,
        277: count,
        278: height,
        284: 2 if separate else 1,
    }
    for tag in sorted({**lists, **single}):
        values = lists.get(tag, [single.get(tag)])
        packed = struct.pack(f'<{len(values)}I', *values)
        if len(values) == 0:
            continue
        if len(values) > 1:
            packed, body = struct.pack('<I', 8 + len(body)), body + packed
        entries += struct.pack('<HHI', tag, 4, len(values)) + packed
    return (
        b'II*\0'
        + struct.pack('<I', 8 + len(body))
        + body
        + struct.pack('<H', len(entries) // 12)
        + entries
        + bytes(4)
    )


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('separate', [False, True])
@pytest.mark.parametrize('photometric', [1, 2])
def test_tiffs_are_read_rightly(photometric, separate, dtype, dates, write):
    wide = 256 if dtype == np.uint16 else 1
    pytest.importorskip('rasterio')
    path = write('a.tif', tiff(dates[0][..., ::-1].astype(dtype) * wide, separate, photometric))
    rule = None if dtype == np.uint8 else 'linear(low=0, high=65280)'
    np.testing.assert_allclose(load(path, path, radiometry=rule)['img'][0], dates[0], atol=1e-3)


@pytest.mark.parametrize('separate', [False, True])
@pytest.mark.parametrize('photometric', [1, 2])
def test_tiffs_that_opencv_misreads_are_refused_without_rasterio(
    photometric, separate, dates, write, monkeypatch
):
    monkeypatch.setattr('mtkd_cd.data.images._has_rasterio', lambda: False)
    path = write('a.tif', tiff(dates[0][..., ::-1], separate, photometric))
    if photometric == 2:
        np.testing.assert_array_equal(load(path, path)['img'][0], dates[0])
    else:
        with pytest.raises(
            UserError, match=r"(not marked as red|separate planes).*pip install 'mtkd-cd\[geo\]'"
        ):
            load(path, path)


@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'a16.png'])
def test_four_channels_are_refused_with_the_file_name(name, dates, write):
    good = write('good.png', dates[0])
    image = np.dstack([dates[0], dates[0][..., :1]])
    bad = write(name, image.astype(np.uint16) * 256 if '16' in name else image)
    with pytest.raises(UserError, match=f'{name} has 4 (channels|bands)'):
        load(good, bad)


def test_dates_of_unequal_size_are_refused_with_both_names_and_sizes(dates, write):
    with pytest.raises(UserError, match=r'b\.png is 30 x 25 pixels, but .*a\.png is 40 x 30'):
        load(write('a.png', dates[0]), write('b.png', dates[1][:25, :30]))


def broken_files(image):
    for suffix in ('.png', '.jpg', '.tif', '.bmp'):
        content = cv2.imencode(suffix, image)[1].tobytes()
        yield f'half{suffix}', content[: len(content) // 2]
        yield f'most{suffix}', content[: int(len(content) * 0.95)]
    progressive = io.BytesIO()
    Image.fromarray(image).save(progressive, 'JPEG', progressive=True)
    yield 'progressive.jpg', progressive.getvalue()[:-200]
    yield 'empty.png', b''
    yield 'text.png', b'no image at all'


def test_broken_files_are_refused_by_name_and_skipped_on_request(dates, write, capfd):
    good = write('good.png', dates[0])
    for name, content in broken_files(dates[0]):
        bad = write(name, content)
        with pytest.raises(UserError, match=f'{name} is not a readable image'):
            load(good, bad)
        assert load(bad, good, ignore_empty=True) is None


def test_missing_files_are_named(dates, write, tmp_path):
    good, missing = write('a.png', dates[0]), str(tmp_path / 'b.png')
    with pytest.raises(UserError, match=r'b\.png does not exist'):
        load(good, missing)
    with pytest.raises(UserError, match='cannot be read'):
        load(good, str(tmp_path))
    assert load(good, missing, ignore_empty=True) is None


def test_tags_of_geotiffs_print_nothing(dates, tmp_path, capfd):
    path = str(tmp_path / 'geo.tif')
    Image.fromarray(dates[0][..., ::-1].copy()).save(path, tiffinfo={33550: (10.0, 10.0, 0.0)})
    np.testing.assert_array_equal(load(path, path)['img'][0], dates[0])
    assert capfd.readouterr() == ('', '')


def test_arrays_are_taken_as_images(dates):
    results = MultiImgLoadLoadImageFromNDArray(to_float32=True)({'img': list(dates)})
    assert results['img_path'] is None
    assert results['img_shape'] == results['ori_shape'] == (30, 40)
    assert results['img'][1].dtype == np.float32
    with pytest.raises(UserError, match='date B is 40 x 10'):
        MultiImgLoadLoadImageFromNDArray()({'img': [dates[0], dates[1][:10]]})


def test_a_user_may_give_a_pair_as_paths_arrays_or_dict(dates, write):
    paths = [write('a.png', dates[0]), write('b.png', dates[1])]
    loader = MultiImgLoadInferencerLoader(to_float32=True)
    for pair in (
        paths,
        tuple(map(Path, paths)),
        list(dates),
        [date.tolist() for date in dates],
        {'img_path': paths},
        {'img': dates},
    ):
        results = loader(pair)
        np.testing.assert_array_equal(results['img'], dates)
        assert results['img'][0].dtype == np.float32
    for mistake in (paths[:1], paths[0], [paths[0], dates[1]], [1, 2]):
        with pytest.raises(UserError, match='a pair is'):
            loader(mistake)


def test_label_and_its_car_are_read(write):
    stored = np.zeros((10, 10), np.uint8)
    stored[0, :7] = 255
    info = {
        'seg_map_path': write('label.png', stored),
        'format_seg_map': 'to_binary',
        'seg_fields': [],
    }
    results = MultiImgLoadAnnotations()(info)
    np.testing.assert_array_equal(results['gt_seg_map'], stored // 255)
    assert results['gt_seg_map'].dtype == np.uint8
    assert results['seg_fields'] == ['gt_seg_map']
    assert results['car'] == pytest.approx(0.07, abs=0)
    assert type(results['car']) is float


def test_zero_may_mean_ignored_by_the_sample_or_the_argument(write):
    stored = np.zeros((2, 5), np.uint8)
    stored[0] = [1, 1, 1, 2, 2]
    path = write('label.png', stored)
    for argument, info in (
        (None, {'reduce_zero_label': True}),
        (True, {}),
        (True, {'reduce_zero_label': False}),
    ):
        results = MultiImgLoadAnnotations(reduce_zero_label=argument)(
            {'seg_map_path': path, **info}
        )
        np.testing.assert_array_equal(results['gt_seg_map'], [[0, 0, 0, 1, 1], [255] * 5])
        assert results['car'] == 0.4


def test_label_of_another_size_than_the_images_as_loaded_is_refused(dates, write):
    label = write('label.png', np.zeros((30, 40), np.uint8))
    info = {
        'seg_map_path': label,
        'img_path': ['a.png', 'b.png'],
        'ori_shape': (30, 40),
        'img_shape': (60, 80),
    }
    assert MultiImgLoadAnnotations()(dict(info))['gt_seg_map'].shape == (30, 40)
    with pytest.raises(UserError, match=r'label\.png is 40 x 30 pixels, but a\.png is 41 x 30'):
        MultiImgLoadAnnotations()({**info, 'ori_shape': (30, 41)})
