"""Pictures side by side under a caption, with a legend."""

import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mtkd_cd.visualization.error_map import OUTCOME_COLOURS, Colour

_MIN_TILE_WIDTH = 256  # pixels that a title can be read in
_INK, _PAPER, _FRAME = (20, 20, 20), (255, 255, 255), (160, 160, 160)


def compose_panel(tiles: Mapping[str, np.ndarray], caption: str, legend: Mapping[str, Colour] = OUTCOME_COLOURS) -> np.ndarray:
    """Tiles in a row, each under its title; the caption above, the legend below.

    Args:
        tiles: Pictures by title, all (H, W, 3) RGB or (H, W) gray uint8. Small ones are enlarged by a whole factor, pixels kept sharp.
        caption: One or more lines. A line that is too long loses its beginning, which of a path says least.
        legend: Colour by meaning; empty for no legend.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    height, width = next(iter(tiles.values())).shape[:2]
    zoom = -(-_MIN_TILE_WIDTH // width)  # rounded up
    height, width = height * zoom, width * zoom
    font_size = max(14, width // 24)
    font, line, gap = _font(font_size), round(1.4 * font_size), font_size // 2
    captions = caption.split('\n')
    top = gap + line * (len(captions) + 1)

    row_width = max(len(tiles) * (width + gap), sum(_legend_entry_width(meaning, font) for meaning in legend))
    size = (row_width + gap, top + height + gap + (line + gap if legend else 0))
    panel = Image.new('RGB', size, _PAPER)
    draw = ImageDraw.Draw(panel)
    for row, text in enumerate(captions):
        draw.text((gap, gap + row * line), _shortened(text, font, size[0] - 2 * gap), _INK, font)
    for column, (title, tile) in enumerate(tiles.items()):
        left = gap + column * (width + gap)
        draw.text((left, top - line), title, _INK, font)
        panel.paste(Image.fromarray(tile).convert('RGB').resize((width, height), Image.Resampling.NEAREST), (left, top))
        draw.rectangle((left - 1, top - 1, left + width, top + height), outline=_FRAME)
    _draw_legend(draw, legend, gap, top + height + gap, font)
    return np.asarray(panel)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow's own font knows Latin letters only; DejaVu, which matplotlib brings along, most alphabets.
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf'), size)


def _draw_legend(draw: ImageDraw.ImageDraw, legend: Mapping[str, Colour], x: int, y: int, font: ImageFont.FreeTypeFont) -> None:
    side = round(font.size)
    for meaning, colour in legend.items():
        draw.rectangle((x, y, x + side, y + side), fill=colour, outline=_FRAME)
        draw.text((x + 1.5 * side, y), meaning, _INK, font)
        x += _legend_entry_width(meaning, font)


def _legend_entry_width(meaning: str, font: ImageFont.FreeTypeFont) -> int:
    return round(3 * font.size + font.getlength(meaning))


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    start = 1
    while start < len(text) and font.getlength('...' + text[start:]) > width:
        start += 1
    return '...' + text[start:]


def png_bytes(image: np.ndarray) -> bytes:
    """A PNG file of an (H, W, 3) RGB or (H, W) gray uint8 picture, of as many channels as the array."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG', compress_level=3)  # levels above save a few percent and take several times as long
    return buffer.getvalue()
