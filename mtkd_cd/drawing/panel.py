"""Pictures side by side under a caption, several such rows on a sheet, with a legend; as pixels or
as a PDF or SVG."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mtkd_cd.drawing.error_map import OUTCOME_COLOURS, Colour

_MIN_TILE_WIDTH = 256  # pixels that a title can be read in
_INK, _PAPER, _FRAME = (20, 20, 20), (255, 255, 255), (160, 160, 160)
_VECTOR_DPI = 100

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Row:
    """One row of a sheet.

    Attributes:
        tiles: Pictures by title, (H, W, 3) RGB or (H, W) gray uint8. All are shown at the first
            one's size, enlarged by :func:`zoom_of`.
        caption: One or more lines above. A line that is too long loses its beginning, which of a
            path says least.
        notes: A line below a tile, by the tile's title.
    """

    tiles: Mapping[str, np.ndarray]
    caption: str = ''
    notes: Mapping[str, str] = field(default_factory=dict)


def zoom_of(width: int) -> int:
    """The whole factor by which tiles of ``width`` pixels are enlarged, pixels kept sharp: 1 unless
    they are too narrow for a title."""
    return -(-_MIN_TILE_WIDTH // width)  # rounded up


def compose_panel(
    tiles: Mapping[str, np.ndarray], caption: str, legend: Mapping[str, Colour] = OUTCOME_COLOURS
) -> np.ndarray:
    """Tiles in a row, each under its title; the caption above, the legend below.

    Args:
        tiles: As in :class:`Row`; likewise ``caption``.
        legend: Colour by meaning; empty for no legend.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    return Sheet([Row(tiles, caption)], legend).pixels()


class Sheet:
    """Rows of tiles, one below the other, laid out; titles stand above the first row, and above a
    later one where they differ.

    Args:
        rows: At least one.
        legend: Colour by meaning, at the bottom; empty for no legend.
    """

    def __init__(self, rows: Sequence[Row], legend: Mapping[str, Colour] = OUTCOME_COLOURS) -> None:
        self._pictures: list[tuple[Box, np.ndarray]] = []
        self._texts: list[tuple[int, int, str]] = []
        self._swatches: list[tuple[Box, Colour]] = []
        sizes = [_tile_size(row) for row in rows]
        self._font_size = max(14, max(width for _, width in sizes) // 24)
        self._line, self._gap = round(1.4 * self._font_size), self._font_size // 2
        widths = [len(row.tiles) * (width + self._gap) for row, (_, width) in zip(rows, sizes)]
        legend_width = sum(self._legend_entry_width(meaning) for meaning in legend)
        self.width = max(*widths, legend_width) + self._gap
        y = self._gap
        for number, (row, size) in enumerate(zip(rows, sizes)):
            titled = number == 0 or list(row.tiles) != list(rows[number - 1].tiles)
            y = self._add_row(row, size, titled, y) + self._gap
        if legend:
            self._add_legend(legend, y)
            y += self._line + self._gap
        self.height = y

    def _add_row(self, row: Row, size: tuple[int, int], titled: bool, y: int) -> int:
        """Place a row whose top is ``y``; returns the top of what follows."""
        for text in row.caption.split('\n'):
            self._add_text(self._gap, y, text, self.width - 2 * self._gap)
            y += self._line
        height, width = size
        top = y + (self._line if titled else 0)
        for column, (title, tile) in enumerate(row.tiles.items()):
            left = self._gap + column * (width + self._gap)
            if titled:
                self._add_text(left, y, title, width)
            self._pictures.append(((left, top, width, height), tile))
            self._add_text(left, top + height + self._gap // 2, row.notes.get(title, ''), width)
        return top + height + (self._line + self._gap // 2 if row.notes else 0)

    def _add_text(self, x: int, y: int, text: str, width: int) -> None:
        if text:
            self._texts.append((x, y, _shortened(text, _font(self._font_size), width)))

    def _add_legend(self, legend: Mapping[str, Colour], y: int) -> None:
        x, side = self._gap, self._font_size
        for meaning, colour in legend.items():
            self._swatches.append(((x, y, side, side), colour))
            self._texts.append((round(x + 1.5 * side), y, meaning))
            x += self._legend_entry_width(meaning)

    def _legend_entry_width(self, meaning: str) -> int:
        return round(3 * self._font_size + _font(self._font_size).getlength(meaning))

    def pixels(self) -> np.ndarray:
        """(H', W', 3) uint8 RGB."""
        canvas = Image.new('RGB', (self.width, self.height), _PAPER)
        draw = ImageDraw.Draw(canvas)
        for (x, y, width, height), tile in self._pictures:
            canvas.paste(
                Image.fromarray(tile)
                .convert('RGB')
                .resize((width, height), Image.Resampling.NEAREST),
                (x, y),
            )
            draw.rectangle((x - 1, y - 1, x + width, y + height), outline=_FRAME)
        for (x, y, width, height), colour in self._swatches:
            draw.rectangle((x, y, x + width, y + height), fill=colour, outline=_FRAME)
        for x, y, text in self._texts:
            draw.text((x, y), text, _INK, _font(self._font_size))
        return np.asarray(canvas)

    def vector(self, kind: Literal['pdf', 'svg']) -> bytes:
        """A PDF or SVG file: text and frames as vectors, each picture with the pixels it has."""
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle

        figure = Figure((self.width / _VECTOR_DPI, self.height / _VECTOR_DPI), dpi=_VECTOR_DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        for (x, y, width, height), tile in self._pictures:
            extent = (x, x + width, y + height, y)
            axes.imshow(
                tile,
                cmap='gray',
                vmin=0,
                vmax=255,
                extent=extent,
                interpolation='none',
                aspect='auto',
            )
            axes.add_patch(
                Rectangle(
                    (x, y),
                    width,
                    height,
                    fill=False,
                    edgecolor=_matplotlib_colour(_FRAME),
                    linewidth=0.7,
                )
            )
        for (x, y, width, height), colour in self._swatches:
            edge, face = _matplotlib_colour(_FRAME), _matplotlib_colour(colour)
            axes.add_patch(
                Rectangle((x, y), width, height, facecolor=face, edgecolor=edge, linewidth=0.7)
            )
        for x, y, text in self._texts:
            axes.text(
                x,
                y,
                text,
                fontsize=self._font_size * 72 / _VECTOR_DPI,
                va='top',
                color=_matplotlib_colour(_INK),
                parse_math=False,
            )
        axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        axes.set_axis_off()
        buffer = io.BytesIO()
        with rc_context({'pdf.fonttype': 42}):  # journals refuse the default, Type 3 fonts
            figure.savefig(buffer, format=kind)
        return buffer.getvalue()


def _tile_size(row: Row) -> tuple[int, int]:
    height, width = next(iter(row.tiles.values())).shape[:2]
    return height * zoom_of(width), width * zoom_of(width)


def _matplotlib_colour(colour: Colour) -> tuple[float, ...]:
    return tuple(value / 255 for value in colour)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow's own font knows Latin letters only; DejaVu, which matplotlib brings along, most
    # alphabets.
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf'), size)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    start = 1
    while start < len(text) and font.getlength('...' + text[start:]) > width:
        start += 1
    return '...' + text[start:]


def png_bytes(image: np.ndarray) -> bytes:
    """A PNG file of an (H, W, 3) RGB or (H, W) gray uint8 picture, of as many channels as the
    array."""
    # At its defaults OpenCV writes files of the size that Pillow's have at level 3, in a quarter of
    # the time.
    encoded = cv2.imencode('.png', image if image.ndim == 2 else image[..., ::-1])[1]
    return encoded.tobytes()
