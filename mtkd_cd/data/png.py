"""A fast decoder of plain PNG files: gray or RGB, with 8 bits."""

import struct
from collections.abc import Iterator
from functools import cache
from types import ModuleType

import numpy as np

PNG_START = b'\x89PNG\r\n\x1a\n'
# Depth, colour type, compression, filter and interlacing of the header, and bytes of a pixel.
_PIXEL_BYTES = {b'\x08\x00\x00\x00\x00': 1, b'\x08\x02\x00\x00\x00': 3}
_HEADER = slice(16, 29)  # width, height and those five
_CRITICAL = (b'IHDR', b'PLTE', b'IDAT', b'IEND')
_STORED = 65535  # bytes in a block that is not compressed
_LARGEST = 1 << 26  # bytes of pixels that may be in memory three times


def decode_plain_png(content: bytes) -> np.ndarray | None:
    """(H, W) or (H, W, 3), red first, of an 8-bit gray or RGB PNG, in half of OpenCV's time, by the
    package ``imagecodecs``.

    Most of the time of a PNG is inflating. libdeflate does it in less than half of zlib's time.
    libpng then decodes a file in which the same bytes are stored as they are.

    Returns:
        ``None`` for any other PNG, for one that is damaged, and without that package: OpenCV or
        Pillow then decide.
    """
    codecs = _codecs()
    pixel_bytes = _PIXEL_BYTES.get(content[24:29])
    if codecs is None or pixel_bytes is None or content[:8] != PNG_START:
        return None
    if b'tRNS' in content[33 : content.find(b'IDAT')]:
        return None
    try:
        width, height = struct.unpack('>II', content[16:24])
        size = height * (1 + width * pixel_bytes)  # a row begins with the number of its filter
        return codecs.png_decode(_stored(content, size, codecs) if size <= _LARGEST else content)
    except Exception:  # which of the package's errors it is does not matter here
        return None


@cache
def _codecs() -> ModuleType | None:
    try:
        import imagecodecs
    except ImportError:
        return None
    return imagecodecs


def _stored(content: bytes, size: int, codecs: ModuleType) -> bytes:
    """The PNG file of the same pixels, not compressed.

    Raises:
        ValueError, struct.error, codecs.DeflateError: The file is damaged.
    """
    rows = codecs.deflate_decode(b''.join(_pixel_chunks(content, codecs)), out=size)
    if len(rows) != size:
        raise ValueError(f'{len(rows)} bytes of pixels, {size} are needed')
    blocks = [b'\x78\x01']  # the header of zlib
    for start in range(0, size, _STORED):
        block = rows[start : start + _STORED]
        is_last = start + _STORED >= size
        blocks += (struct.pack('<?HH', is_last, len(block), len(block) ^ 0xFFFF), block)
    blocks.append(struct.pack('>I', codecs.deflate_adler32(rows)))
    header = _chunk(b'IHDR', content[_HEADER], codecs)
    return (
        PNG_START
        + header
        + _chunk(b'IDAT', b''.join(blocks), codecs)
        + _chunk(b'IEND', b'', codecs)
    )


def _pixel_chunks(content: bytes, codecs: ModuleType) -> Iterator[bytes]:
    """The compressed pixels, chunk by chunk. What libpng or Pillow might refuse is an error."""
    place, kinds = len(PNG_START), [b'']
    while kinds[-1] != b'IEND':
        length, kind = struct.unpack_from('>I4s', content, place)
        end = place + 8 + length
        (check,) = struct.unpack_from('>I', content, end)
        if codecs.deflate_crc32(content[place + 4 : end]) != check:
            raise ValueError(f'the check sum of {kind!r} is wrong')
        is_critical = not kind[0] & 0x20
        comes_again = kind in kinds and not (kind == b'IDAT' == kinds[-1])
        if kind == b'acTL' or (is_critical and (kind not in _CRITICAL or comes_again)):
            raise ValueError(f'a chunk {kind!r} after {kinds[-1]!r}')
        if kind == b'IDAT':
            yield content[place + 8 : end]
        kinds.append(kind)
        place = end + 4


def _chunk(kind: bytes, data: bytes, codecs: ModuleType) -> bytes:
    check = codecs.deflate_crc32(kind + data)
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', check)
