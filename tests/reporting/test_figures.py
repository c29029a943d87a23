"""Where the figures of a report place what they draw."""

import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from PIL import Image

from mtkd_cd.reporting import plotting


def stacked(figure: Figure) -> None:
    """Three axes of one horizontal axis under a legend of two lines."""
    axes = figure.subplots(3, sharex=True, gridspec_kw=dict(height_ratios=(3, 2, 1)))
    for axis, scale in zip(axes, (1, 1000, 0.01)):
        axis.plot([0, 1, 2], np.array([0.2, 3.1, 1.7]) * scale, label=f'curve of {scale}')
        axis.set_ylabel('something')
    axes[-1].set_xticks([0, 1, 2], ['one\nof three\nlines', 'two', 'three'])
    figure.legend(loc='outside upper left', ncols=2)


def side_by_side(figure: Figure) -> None:
    """Two axes with titles, and a legend below the first."""
    axes = figure.subplots(1, 2, sharey=True)
    for axis in axes:
        axis.plot([0, 5000], [0.2, 3.1], label='a long name of a curve')
        axis.set_title('a title')
        axis.set_xlabel('iteration')
    axes[0].set_ylabel('something')
    below = axes[0].transAxes + ScaledTranslation(0, -0.45, figure.dpi_scale_trans)
    axes[0].legend(loc='upper center', bbox_to_anchor=(0.5, 0), bbox_transform=below)


@pytest.fixture(params=[stacked, side_by_side])
def drawing(request):
    return request.param


def laid_out(draw) -> tuple[Figure, FigureCanvasAgg]:
    figure = Figure(figsize=(5, 4), dpi=100)
    canvas = FigureCanvasAgg(figure)
    draw(figure)
    plotting._lay_out(figure, canvas)
    return figure, canvas


def test_axes_lie_where_constrained_layout_puts_them(drawing):
    figure, _ = laid_out(drawing)
    expected = Figure(figsize=(5, 4), dpi=100, layout='constrained')
    drawing(expected)
    FigureCanvasAgg(expected).draw()

    found, wanted = (
        np.array([axis.get_position().extents for axis in drawn.axes])
        for drawn in (figure, expected)
    )
    # Axes of unequal heights share theirs otherwise; the outer margins are the same.
    np.testing.assert_allclose(found, wanted, atol=0.035)
    np.testing.assert_allclose(found[:, :2].min(0), wanted[:, :2].min(0), atol=0.01)
    np.testing.assert_allclose(found[:, 2:].max(0), wanted[:, 2:].max(0), atol=0.01)


def test_labels_of_axes_stand_beside_their_tick_labels(drawing):
    figure, canvas = laid_out(drawing)
    canvas.draw()

    gaps = []
    for axis in figure.axes:
        if axis.get_ylabel():
            ticks = [tick.get_window_extent().x0 for tick in axis.get_yticklabels()]
            gaps.append(min(ticks) - axis.yaxis.label.get_window_extent().x1)
        if axis.get_xlabel():
            ticks = [tick.get_window_extent().y0 for tick in axis.get_xticklabels()]
            gaps.append(min(ticks) - axis.xaxis.label.get_window_extent().y1)
    assert len(gaps) == 3
    np.testing.assert_allclose(gaps, 4 / 72 * figure.dpi, atol=1.5)  # matplotlib's labelpad


def test_nothing_leaves_the_figure_or_covers_other_axes(drawing):
    figure, canvas = laid_out(drawing)
    canvas.draw()

    boxes = [axis.get_tightbbox(canvas.get_renderer()) for axis in figure.axes]
    boxes += [legend.get_window_extent(canvas.get_renderer()) for legend in figure.legends]
    extents = np.array([box.extents for box in boxes])
    assert (extents[:, :2] >= 0).all()
    assert (extents[:, 2:] <= figure.bbox.size).all()
    assert not any(a.overlaps(b) for at, a in enumerate(boxes) for b in boxes[at + 1 :])


def test_both_files_of_a_figure_have_its_size_and_white_corners():
    picture = plotting.draw_figure('name', 'title', 'caption', (3.0, 2.0), stacked)

    image = Image.open(io.BytesIO(picture.png()))
    assert image.size == (600, 400)
    assert {image.getpixel(corner) for corner in ((0, 0), (599, 0), (0, 399), (599, 399))} == {
        (255, 255, 255)
    }
    assert b'width="216pt" height="144pt"' in picture.svg


def printed_by(code):
    """The lines that a process of its own prints."""
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_commands_import_matplotlib_without_lists_of_properties():
    code = (
        'from mtkd_cd.drawing.quick_start import import_matplotlib_quickly\n'
        'import_matplotlib_quickly()\n'
        'from matplotlib import artist, lines\n'
        "print('linewidth or lw:' in lines.Line2D.set.__doc__,"
        " 'linewidth or lw:' in artist.kwdoc(lines.Line2D))\n"
        'line = lines.Line2D([], [])\n'
        'line.set(lw=3)\n'
        'print(line.get_linewidth())'
    )
    assert printed_by(code) == ['False True', '3.0']


def test_commands_import_matplotlib_without_axes_of_three_dimensions():
    code = (
        'import sys, warnings\n'
        "warnings.simplefilter('error')\n"
        'from mtkd_cd.drawing.quick_start import import_matplotlib_quickly\n'
        'filters = list(warnings.filters)\n'
        'import_matplotlib_quickly()\n'
        "print('mpl_toolkits.mplot3d' in sys.modules, warnings.filters == filters)\n"
        'from matplotlib.projections import get_projection_names\n'
        "print(*(name in get_projection_names() for name in ('rectilinear', '3d')))\n"
        'from mpl_toolkits.mplot3d import Axes3D'
    )
    assert printed_by(code) == ['False True', 'True False']


def test_figures_look_the_same_whatever_the_user_has_set():
    wanted = plotting.draw_figure('name', 'title', 'caption', (3.0, 2.0), stacked)
    own = {'font.size': 20, 'axes.prop_cycle': 'cycler("color", ["red"])', 'svg.hashsalt': 'own'}
    with matplotlib.rc_context(own):
        found = plotting.draw_figure('name', 'title', 'caption', (3.0, 2.0), stacked)
        picture = found.png()
        assert matplotlib.rcParams['font.size'] == 20
    assert (found.svg, picture) == (wanted.svg, wanted.png())
