"""How a report's figures are drawn: colours that colour-blind readers can tell apart, other lines
and markers too, room for all labels, the same bytes on every run."""

import io
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from PIL import Image

# Okabe and Ito's palette without its yellow, which is too light for lines on white.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    '#000000',
    '#E69F00',
    '#56B4E9',
    '#009E73',
    '#0072B2',
    '#D55E00',
    '#CC79A7',
)
_USUAL = {
    'origin': (BLACK, 'o', '-'),
    'op': (VERMILION, 's', '--'),
    'mtkd': (BLUE, '^', '-'),
    'continued': (GREEN, 'D', ':'),
}
_OTHERS = [
    (colour, marker, line)
    for line, markers in (('-.', 'vPX*<>d'), ((0, (5, 1)), '^sDovPX'), ((0, (1, 1)), 'X*<>dos'))
    for colour, marker in zip((ORANGE, PURPLE, SKY, GREEN, VERMILION, BLUE, BLACK), markers)
]
GRID, MUTED = '#d9d9d9', '#555555'
_DPI = 200
# Around each of the axes, in inches.
_PAD = 0.045
_RC = {
    'svg.hashsalt': 'mtkd-cd',
    'svg.fonttype': 'path',
    'font.family': 'DejaVu Sans',
    'font.size': 9,
    'axes.titlesize': 10,
    'axes.titlelocation': 'left',
    'axes.titley': 1.0,  # without a search for what else is above the axes
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': False,
    'axes.axisbelow': True,
    'legend.frameon': False,
    'figure.dpi': _DPI,
    'savefig.dpi': _DPI,
}


@dataclass(frozen=True)
class Drawing:
    """A figure, drawn.

    Attributes:
        name: Of its files.
        title: Heading.
        caption: What it shows.
        svg: File for the web and for LaTeX.
        canvas: What it was drawn on.
    """

    name: str
    title: str
    caption: str
    svg: bytes
    canvas: FigureCanvasAgg

    def png(self) -> bytes:
        """Draw it once more, as a file for text processors."""
        with _style():
            self.canvas.draw()
        buffer = io.BytesIO()
        # Without transparency, and by runs of equal pixels: half the time of the usual
        # compression.
        Image.fromarray(np.asarray(self.canvas.buffer_rgba())).convert('RGB').save(
            buffer, format='png', dpi=(_DPI, _DPI), compress_type=zlib.Z_RLE
        )
        return buffer.getvalue()


def draw_figure(
    name: str, title: str, caption: str, size: tuple[float, float], draw: Callable[[Figure], None]
) -> Drawing:
    """Draw a figure.

    Args:
        name: Of its files.
        title: Heading.
        caption: What it shows.
        size: Width and height in inches.
        draw: Makes the axes, in one grid, and draws on them.
    """
    with _style():
        figure = Figure(figsize=size)
        canvas = FigureCanvasAgg(figure)
        draw(figure)
        _lay_out(figure, canvas)
        return Drawing(name, title, caption, _svg(figure), canvas)


def _style() -> AbstractContextManager[None]:
    """matplotlib's own settings and ours, whatever the user's matplotlibrc says.

    Only what differs is set: to check all of them for each figure takes longer than to compare.
    """
    wanted = {**matplotlib.rcParamsDefault, **_RC}
    del wanted['backend']  # is chosen by whoever looks at it first, and drawn by none of ours
    current = matplotlib.rcParams
    return matplotlib.rc_context(
        {name: value for name, value in wanted.items() if current[name] != value}
    )


def _lay_out(figure: Figure, canvas: FigureCanvasAgg) -> None:
    """Leave the room that labels, titles and legends take; figure legends are above the axes.

    matplotlib's constrained layout measures everything twice. Once is enough, because the ticks
    that were measured are kept, and where axes' labels are.
    """
    renderer, pad = canvas.get_renderer(), _PAD * figure.dpi
    width, height = figure.bbox.size
    legends = [legend.get_window_extent(renderer).height for legend in figure.legends]
    above = max(legends, default=0) + 2 * pad * bool(legends)
    # Near where the axes will be, so that they have as many ticks as suit them there.
    figure.subplots_adjust(left=0.12, right=0.98, bottom=0.12, top=0.92 - above / height)
    grid = figure.axes[0].get_gridspec()
    assert grid
    rows, columns = grid.get_geometry()
    room = np.zeros((4, rows, columns))
    frames = [axis.get_window_extent().frozen() for axis in figure.axes]
    for axis, inner in zip(figure.axes, frames):
        own = axis.get_legend()
        outer = axis.get_tightbbox(renderer, bbox_extra_artists=[own] if own else [])
        place = axis.get_subplotspec()
        assert outer
        assert place
        room[:, place.rowspan.start, place.colspan.start] = (
            *(inner.x0 - outer.x0, outer.x1 - inner.x1),
            *(outer.y1 - inner.y1, inner.y0 - outer.y0),
        )
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(FixedLocator(list(side.get_majorticklocs())))
    room[2, 0] += above
    left, right, wspace = _margins(room[0].max(0), room[1].max(0), width, pad)
    top, bottom, hspace = _margins(room[2].max(1), room[3].max(1), height, pad)
    figure.subplots_adjust(left, bottom, 1 - right, 1 - top, wspace, hspace)
    for axis, before in zip(figure.axes, frames):
        # A label that knows its place does not measure all tick labels again in every file.
        after = axis.get_window_extent()
        down = before.y0 - axis.xaxis.label.get_position()[1]
        aside = before.x0 - axis.yaxis.label.get_position()[0]
        axis.xaxis.set_label_coords(0.5, -down / after.height)
        axis.yaxis.set_label_coords(-aside / after.width, 0.5)


def _margins(
    before: np.ndarray, after: np.ndarray, length: float, pad: float
) -> tuple[float, float, float]:
    """Margins along one side of a figure of ``length`` pixels, as ``subplots_adjust`` wants them.

    Args:
        before: (N,) room that each of N axes takes before its frame, in pixels.
        after: (N,) room behind.
        length: Of the figure's side.
        pad: Around each of the axes.

    Returns:
        Both margins as shares of ``length``, and the space between axes as a share of an axes'
        mean length.
    """
    first, last = before[0] + pad, after[-1] + pad
    between = max(after[:-1] + before[1:], default=0) + 2 * pad
    each = (length - first - last - between * (len(before) - 1)) / len(before)
    return first / length, last / length, between / each


def _svg(figure: Figure) -> bytes:
    buffer = io.StringIO()  # which takes matplotlib's many short texts as they are
    # Nothing in the file tells when, or by which version, it was made.
    figure.savefig(buffer, format='svg', metadata={'Date': None, 'Creator': None})
    return buffer.getvalue().encode()


def styles(strategies: Sequence[str]) -> dict[str, dict]:
    """Colour, marker and line of each strategy, for ``plot``: the usual strategies always have the
    same."""
    others = iter(_OTHERS * (1 + len(strategies) // len(_OTHERS)))
    found = {strategy: _USUAL.get(strategy) or next(others) for strategy in strategies}
    return {
        strategy: dict(color=colour, marker=marker, linestyle=line)
        for strategy, (colour, marker, line) in found.items()
    }


def legend_columns(labels: Sequence[str], width: float) -> int:
    """As many columns of a legend as fit into ``width`` inches."""
    return max(1, min(len(labels), int(width * 15 / (max(map(len, labels)) + 7))))
