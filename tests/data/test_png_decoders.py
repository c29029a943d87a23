"""The fast decoder of PNG files gives what OpenCV and Pillow give, damaged files included."""

import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mtkd_cd.core.errors import UserError
from mtkd_cd.data import png
from mtkd_cd.data.images import read_image
from mtkd_cd.data.labels import read_label
from mtkd_cd.data.png import decode_plain_png

pytest.importorskip('imagecodecs')


def _array(*shape):
    smooth = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return cv2.blur(smooth, (5, 5))


def _png(image, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG', **options)
    return buffer.getvalue()


def _with_chunk(png, kind, data):
    """The chunk before the first of pixels."""
    at = png.index(b'IDAT') - 4
    check = zlib.crc32(kind + data).to_bytes(4, 'big')
    return png[:at] + len(data).to_bytes(4, 'big') + kind + data + check + png[at:]


def _exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _text():
    info = PngImagePlugin.PngInfo()
    info.add_text('IDAT', 'tRNS')
    return info


_RGB, _GRAY = _png(_array(40, 50, 3)), _png(_array(40, 50))
_FILES = dict(
    rgb=_RGB,
    gray=_GRAY,
    uncompressed=_png(_array(40, 50, 3), compress_level=0),
    gamma=_with_chunk(_RGB, b'gAMA', (45455 // 2).to_bytes(4, 'big')),
    sixteen_bits_of_gamma=_with_chunk(_GRAY, b'gAMA', (100000).to_bytes(4, 'big')),
    srgb=_with_chunk(_RGB, b'sRGB', b'\0'),
    significant_bits=_with_chunk(_RGB, b'sBIT', b'\5\6\5'),
    background=_with_chunk(_RGB, b'bKGD', bytes(6)),
    turned=_png(_array(40, 50, 3), exif=_exif()),
    text=_png(_array(40, 50, 3), pnginfo=_text()),
    opaque=_png(np.dstack([_array(40, 50, 3), np.full((40, 50), 255, np.uint8)])),
    one_colour_clear=_with_chunk(_RGB, b'tRNS', bytes(6)),
    sixteen_bits=cv2.imencode('.png', _array(40, 50, 3).astype(np.uint16) * 200)[1].tobytes(),
)


def _read(content, path='a.png'):
    try:
        picture = read_image(path, content=content)
    except UserError as error:
        return str(error)
    return picture.pixels, picture.orientation


def _read_as_label(path):
    try:
        return read_label(path, format_seg_map='to_binary')
    except UserError as error:
        return str(error)


@pytest.mark.parametrize('name', _FILES)
def test_a_file_is_read_as_without_it(name, tmp_path, monkeypatch):
    path = tmp_path / 'a.png'
    path.write_bytes(_FILES[name])
    fast, fast_label = _read(_FILES[name]), _read_as_label(path)
    monkeypatch.setattr(png, '_codecs', lambda: None)
    slow, slow_label = _read(_FILES[name]), _read_as_label(path)
    np.testing.assert_equal(fast, slow)
    np.testing.assert_equal(fast_label, slow_label)


def test_labels_of_two_values_are_read_as_without_it(tmp_path, monkeypatch):
    path = tmp_path / 'label.png'
    path.write_bytes(_png(np.where(_array(40, 50) > 128, 255, 0).astype(np.uint8)))
    fast = read_label(path, format_seg_map='to_binary')
    monkeypatch.setattr(png, '_codecs', lambda: None)
    np.testing.assert_array_equal(fast, read_label(path, format_seg_map='to_binary'))
    assert set(np.unique(fast)) == {0, 1}


@pytest.mark.parametrize('name', ['rgb', 'gray', 'one_colour_clear', 'opaque', 'sixteen_bits'])
def test_which_files_it_reads(name):
    assert (decode_plain_png(_FILES[name]) is not None) == (name in ('rgb', 'gray'))


def _chunk(kind, data=b''):
    return len(data).to_bytes(4, 'big') + kind + data + zlib.crc32(kind + data).to_bytes(4, 'big')


def _split(png, between=b''):
    """The pixels in two chunks, with something between."""
    at = png.index(b'IDAT') - 4
    length = int.from_bytes(png[at : at + 4], 'big')
    data = png[at + 8 : at + 8 + length]
    halves = _chunk(b'IDAT', data[:50]) + between + _chunk(b'IDAT', data[50:])
    return png[:at] + halves + png[at + 12 + length :]


@pytest.mark.parametrize(
    'content',
    [
        pytest.param(_split(_RGB, _chunk(b'tIME', bytes(7))), id='pixels in two places'),
        pytest.param(_with_chunk(_RGB, b'ABCD', b'1'), id='unknown critical chunk'),
        pytest.param(_with_chunk(_RGB, b'IHDR', _RGB[16:29]), id='second header'),
        pytest.param(_with_chunk(_RGB, b'acTL', bytes(8)), id='animated'),
        pytest.param(_with_chunk(_RGB, b'tEXt', b'a\0b').replace(b'a\0b', b'a\0c'), id='wrong sum'),
    ],
)
def test_what_others_may_refuse_is_left_to_them(content):
    assert decode_plain_png(_split(_RGB)) is not None
    assert decode_plain_png(content) is None


@pytest.mark.parametrize('size', [(1, 1), (300, 400), (7, 30000)])
@pytest.mark.parametrize('largest', [0, 1 << 26])
def test_sizes_of_one_and_of_many_stored_blocks(size, largest, monkeypatch):
    monkeypatch.setattr(png, '_LARGEST', largest)
    array = _array(*size, 3)
    np.testing.assert_array_equal(decode_plain_png(_png(array)), array)


@pytest.mark.parametrize('name', ['rgb', 'gray'])
def test_a_damaged_file_is_refused_or_read_as_without_it(name, monkeypatch):
    """Where OpenCV refuses a file or mends it, so do we: what the fast decoder accepts is checked
    by the sums in the file."""
    rng = np.random.default_rng(1)
    content = _FILES[name]
    damaged = [content[:length] for length in rng.integers(40, len(content), 20)]
    for place in rng.integers(8, len(content), 150):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        damaged.append(bytes(changed))
    fast = [_read(one) for one in damaged]
    monkeypatch.setattr(png, '_codecs', lambda: None)
    for found, one in zip(fast, damaged):
        np.testing.assert_equal(found, _read(one))
