"""The figures of a report: colours that colour-blind readers can tell apart, other lines and
markers too, the same bytes on every run."""

import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import ScaledTranslation
from PIL import Image

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.strategy import strategy_title
from mtkd_cd.core.text import counted, percent_text
from mtkd_cd.drawing.car_histogram import SMALLEST_DRAWN_CAR, car_ticks, draw_car_histogram
from mtkd_cd.paper.published import model_title, published_scores
from mtkd_cd.reporting.comparison import Bin, Comparison, Entry, Reference
from mtkd_cd.reporting.curves import Curve
from mtkd_cd.reporting.failure import CascadeAnalysis
from mtkd_cd.reporting.score_tables import (
    Published,
    file_name,
    plain,
    reference_title,
    signed,
)
from mtkd_cd.reporting.table_formats import typographic

# Okabe and Ito's palette without its yellow, which is too light for lines on white.
_BLACK, _ORANGE, _SKY, _GREEN, _BLUE, _VERMILION, _PURPLE = (
    '#000000',
    '#E69F00',
    '#56B4E9',
    '#009E73',
    '#0072B2',
    '#D55E00',
    '#CC79A7',
)
_USUAL = {
    'origin': (_BLACK, 'o', '-'),
    'op': (_VERMILION, 's', '--'),
    'mtkd': (_BLUE, '^', '-'),
    'continued': (_GREEN, 'D', ':'),
}
_OTHERS = [
    (colour, marker, line)
    for line, markers in (('-.', 'vPX*<>d'), ((0, (5, 1)), '^sDovPX'), ((0, (1, 1)), 'X*<>dos'))
    for colour, marker in zip((_ORANGE, _PURPLE, _SKY, _GREEN, _VERMILION, _BLUE, _BLACK), markers)
]
_CURVE: dict = dict(markersize=5, linewidth=1.5, elinewidth=0.8, capsize=2)
_GRID, _MUTED = '#d9d9d9', '#555555'
# Rows beyond which the horizontal axis is wanted above as well as below.
_MANY = 24
_DPI = 200
# Around each of the axes, in inches.
_PAD = 0.045
# Height of the labels of a horizontal axis, in inches.
_TICKS_AND_LABEL = 0.42
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


def _drawn(
    name: str, title: str, caption: str, size: tuple[float, float], draw: Callable[[Figure], None]
) -> Drawing:
    """Draw a figure of ``size`` in inches."""
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


def overview(comparison: Comparison, published: Published) -> Drawing:
    """mIoU of every entry with its interval, and the published figure beside."""
    entries = comparison.entries
    known = {
        entry: score
        for entry in entries
        if (score := published_scores(published.dataset, entry.model, entry.strategy).get('mIoU'))
    }

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        rows = _rows_by_model(axis, comparison, entries)
        for entry in entries:
            interval, style = comparison.intervals[entry]['mIoU'], _marker(comparison, entry)
            axis.plot(
                [interval.low, interval.high],
                [rows[entry]] * 2,
                color=style['color'],
                linewidth=1.2,
            )
            axis.plot(interval.mean, rows[entry], **style)
        for entry, score in known.items():
            axis.plot(
                score,
                rows[entry],
                marker='|',
                color=_MUTED,
                markersize=9,
                markeredgewidth=1.6,
                linestyle='',
            )
        axis.set_xlabel('mIoU (%)')
        _legend_of_strategies(
            figure,
            comparison,
            [('published', dict(marker='|', color=_MUTED, linestyle='', markersize=9))]
            if known
            else [],
        )

    level = f'{100 * comparison.settings.confidence:g} %'
    caption = f'Mean over images and seeds with the {level} interval over images.' + (
        f' Grey bars: {published.words} (arXiv:2502.13407).' if known else ''
    )
    return _drawn('overview', 'mIoU of all runs', caption, _row_size(comparison, entries), draw)


def differences(
    comparison: Comparison, reference: Reference, name: str, words: str
) -> Drawing | None:
    """Difference in mIoU of every entry to a reference with its interval; ``None`` without any."""
    entries = [entry for entry in comparison.entries if entry in reference.differences]
    if not entries:
        return None

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        rows = _rows_by_model(axis, comparison, entries)
        axis.axvline(0, color=_MUTED, linewidth=1)
        for entry in entries:
            interval, style = (
                reference.differences[entry].intervals['mIoU'],
                _marker(comparison, entry),
            )
            if interval.low <= 0 <= interval.high:
                style['markerfacecolor'] = 'white'
            axis.plot(
                [interval.low, interval.high],
                [rows[entry]] * 2,
                color=style['color'],
                linewidth=1.2,
            )
            axis.plot(interval.mean, rows[entry], **style)
        axis.set_xlabel('difference in mIoU (percentage points)')
        axis.xaxis.set_major_formatter(
            lambda value, _: typographic(f'{value:+g}') if value else '0'
        )
        _legend_of_strategies(figure, comparison, only={entry.strategy for entry in entries})

    level = f'{100 * comparison.settings.confidence:g} %'
    caption = (
        f'Mean with the {level} interval of a paired bootstrap over images. Hollow: the '
        'interval contains 0.'
    )
    return _drawn(
        name, f'Difference in mIoU to {words}', caption, _row_size(comparison, entries), draw
    )


def _row_size(comparison: Comparison, entries: Sequence[Entry]) -> tuple[float, float]:
    return 5.4, 1.4 + 0.2 * len(entries) + 0.14 * len({entry.model for entry in entries})


def _rows_by_model(
    axis: Axes, comparison: Comparison, entries: Sequence[Entry]
) -> dict[Entry, float]:
    """Vertical place of each entry, those of a model together under its name."""
    rows: dict[Entry, float] = {}
    ticks, at = [], 0.0
    for model in comparison.models:
        members = [entry for entry in entries if entry.model == model]
        if not members:
            continue
        ticks.append((at + (len(members) - 1) / 2, model_title(model)))
        for entry in members:
            rows[entry] = at
            at += 1
        axis.axhline(at - 0.15, color=_GRID, linewidth=0.8)
        at += 0.7
    axis.set_yticks(*zip(*ticks))
    axis.tick_params(axis='y', length=0)
    if len(entries) > _MANY:
        axis.tick_params(axis='x', top=True, labeltop=True)
    axis.set_ylim(at - 0.85, -0.8)
    axis.spines['left'].set_visible(False)
    axis.grid(axis='x', color=_GRID, linewidth=0.6)
    return rows


def _marker(comparison: Comparison, entry: Entry) -> dict:
    return {**styles(comparison.strategies)[entry.strategy], 'linestyle': '', 'markersize': 5.5}


def _legend_of_strategies(
    figure: Figure,
    comparison: Comparison,
    more: Sequence[tuple[str, dict]] = (),
    only: set[str] | None = None,
) -> None:
    entries = [
        (strategy_title(strategy), style)
        for strategy, style in styles(comparison.strategies).items()
        if only is None or strategy in only
    ]
    handles = [
        Line2D([], [], **{'markersize': 5.5, **style, 'linestyle': ''})
        for _, style in [*entries, *more]
    ]
    labels = [title for title, _ in [*entries, *more]]
    figure.legend(
        handles,
        labels,
        loc='outside upper left',
        ncols=_legend_columns(labels, 5.4),
        handletextpad=0.3,
    )


def car_curves(
    comparison: Comparison, model: str, bins: Sequence[Bin], prefix: str, title: str
) -> Drawing:
    """Draw mIoU over CAR, one curve per strategy of a model, as the paper's Figures 5 and 8. Below
    are the differences and the bounds of the bins."""
    filled = [car_bin for car_bin in bins if len(car_bin.rows)]
    entries = comparison.of_model(model)
    compared = [entry for entry in entries if entry in comparison.references[0].differences]
    several = any(len(entry.runs) > 1 for entry in entries)
    looks = styles(comparison.strategies)

    def draw(figure: Figure) -> None:
        heights = (3.2, 1.9, 1) if compared else (3.2, 1)
        axes = figure.subplots(len(heights), sharex=True, gridspec_kw=dict(height_ratios=heights))
        places = np.arange(len(filled))
        for entry, shift in zip(entries, _shifts(len(entries))):
            means = np.array([car_bin.intervals[entry].mean for car_bin in filled])
            low, high = _band(entry, filled)
            axes[0].errorbar(
                places + shift,
                means,
                [means - low, high - means],
                **looks[entry.strategy],
                **_CURVE,
            )
        axes[0].set_ylabel('mIoU (%)')
        if compared:
            _draw_differences(axes[1], compared, filled, looks)
        _draw_bounds(axes[-1], filled)
        axes[-1].set_xticks(places, [_tick(car_bin, comparison.partition) for car_bin in filled])
        axes[-1].set_xlim(-0.5, len(filled) - 0.5)
        for axis in axes[:-1]:
            axis.grid(axis='y', color=_GRID, linewidth=0.6)
        figure.align_ylabels()
        labels = [strategy_title(entry.strategy) for entry in entries]
        figure.legend(
            axes[0].containers,
            labels,
            loc='outside upper left',
            ncols=_legend_columns(labels, 5),
            handlelength=2.6,
        )

    level = f'{100 * comparison.settings.confidence:g} %'
    bars = 'standard deviation over seeds' if several else f'{level} interval over images'
    caption = f'Bars at the points: the {bars}.'
    if compared:
        caption += (
            f' Middle: the difference to {reference_title(comparison.references[0])}, '
            f'with its {level} interval over images.'
        )
    caption += ' Bottom: the CARs that each bin spans.'
    height = 5.0 if compared else 3.9
    return _drawn(
        f'{prefix}_{plain(model)}', f'{model_title(model)}: {title}', caption, (5.0, height), draw
    )


def _draw_differences(
    axis: Axes, entries: Sequence[Entry], bins: Sequence[Bin], looks: Mapping[str, dict]
) -> None:
    axis.axhline(0, color=_MUTED, linewidth=1)
    for entry, shift in zip(entries, _shifts(len(entries), 0.16)):
        found = [car_bin.differences[entry] for car_bin in bins]
        means = np.array([interval.mean for interval in found])
        reach = [
            means - [interval.low for interval in found],
            [interval.high for interval in found] - means,
        ]
        axis.errorbar(
            np.arange(len(bins)) + shift,
            means,
            reach,
            **{**looks[entry.strategy], 'linestyle': ''},
            **_CURVE,
        )
    axis.yaxis.set_major_formatter(lambda value, _: typographic(f'{value:+g}') if value else '0')
    axis.set_ylabel('Δ mIoU')


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """As many as fit into ``width`` inches."""
    return max(1, min(len(labels), int(width * 15 / (max(map(len, labels)) + 7))))


def _shifts(count: int, most: float = 0.06) -> np.ndarray:
    """Sideways, so that bars at one place don't cover each other."""
    return (np.arange(count) - (count - 1) / 2) * min(most, 0.6 / max(count, 1))


def _band(entry: Entry, bins: Sequence[Bin]) -> tuple[np.ndarray, np.ndarray]:
    intervals = [car_bin.intervals[entry] for car_bin in bins]
    if len(entry.runs) == 1:
        return np.array([interval.low for interval in intervals]), np.array(
            [interval.high for interval in intervals]
        )
    deviations = np.array([entry.deviation('mIoU', car_bin.rows) or 0 for car_bin in bins])
    means = np.array([interval.mean for interval in intervals])
    return means - deviations, means + deviations


def _draw_bounds(axis: Axes, bins: Sequence[Bin]) -> None:
    """From the smallest to the largest CAR of each bin, on a logarithmic axis."""
    lows = np.maximum([car_bin.low for car_bin in bins], SMALLEST_DRAWN_CAR)
    # Images of one CAR would leave nothing to see.
    highs = np.maximum([car_bin.high for car_bin in bins], 1.2 * lows)
    axis.bar(np.arange(len(bins)), highs - lows, 0.6, lows, color='#bdbdbd')
    axis.set_yscale('log')
    axis.set_ylim(SMALLEST_DRAWN_CAR, 1)
    axis.set_yticks([1e-4, 1e-2, 1], ['0.01 %', '1 %', '100 %'])
    axis.minorticks_off()
    axis.set_ylabel('CAR')


def _tick(car_bin: Bin, partition: CARPartition) -> str:
    images = counted(len(car_bin.rows), 'image')
    if car_bin.name in partition.names:
        return f'{car_bin.name}\n{partition.bounds_text(car_bin.name).replace("<=", "≤")}\n{images}'
    return f'{percent_text(car_bin.low)}\nto {percent_text(car_bin.high)}\n{images}'


def training_curves(comparison: Comparison, model: str, curves: Sequence[Curve]) -> Drawing:
    """Draw the mIoU of the validations over the iterations, a line per seed. What starts from the
    origin follows behind it; the specialists have lines of their own."""
    specialists = [curve for curve in curves if curve.range_name]
    others = [curve for curve in curves if not curve.range_name]
    ends = {curve.seed: curve.iters[-1] for curve in others if curve.strategy == 'origin'}
    looks = styles(
        list(dict.fromkeys([*comparison.strategies, *(curve.strategy for curve in others)]))
    )
    names = list(
        dict.fromkeys(
            f'{curve.range_name}{curve.strategy.removeprefix("partition")}' for curve in specialists
        )
    )
    specialist_looks = dict(zip(names, styles([f'specialist {name}' for name in names]).values()))

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 1 + bool(specialists), sharey=True, squeeze=False)[0]
        below = ScaledTranslation(0, -_TICKS_AND_LABEL, figure.dpi_scale_trans)
        for curve in others:
            shift = 0 if curve.strategy == 'origin' else ends.get(curve.seed, 0)
            _draw_curve(
                axes[0], curve, shift, strategy_title(curve.strategy), looks[curve.strategy]
            )
        axes[0].set_ylabel('mIoU, validation (%)')
        for curve in specialists:
            name = f'{curve.range_name}{curve.strategy.removeprefix("partition")}'
            _draw_curve(axes[1], curve, 0, name, specialist_looks[name])
        for axis, title in zip(axes, ('all images', 'specialists, images of their range')):
            axis.set_title(title)
            axis.set_xlabel('iteration')
            axis.grid(axis='y', color=_GRID, linewidth=0.6)
            handles = dict(zip(*reversed(axis.get_legend_handles_labels())))
            columns = _legend_columns(list(handles), 3.6)
            axis.legend(
                handles.values(),
                handles.keys(),
                fontsize=8,
                loc='upper center',
                bbox_to_anchor=(0.5, 0),
                bbox_transform=axis.transAxes + below,
                ncols=columns,
            )

    caption = 'One line per seed. What starts from the origin goes on where its training ended.'
    width = 7.2 if specialists else 4.4
    return _drawn(
        f'training_{plain(model)}',
        f'{model_title(model)}: validation while training',
        caption,
        (width, 4.0),
        draw,
    )


def _draw_curve(axis: Axes, curve: Curve, shift: int, label: str, look: dict) -> None:
    axis.plot(
        [shift + step for step in curve.iters],
        curve.scores,
        label=label,
        markersize=4,
        linewidth=1.2,
        **look,
    )


def car_distribution(splits: Mapping[str, np.ndarray], partition: CARPartition) -> Drawing:
    """CAR histogram of each split on a logarithmic axis, with the thresholds, as the paper's Figure
    7.

    Args:
        splits: (N,) CARs by name.
        partition: Whose thresholds are drawn.
    """
    colours = (_BLUE, _ORANGE, _GREEN, _PURPLE)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(len(splits), sharex=True, squeeze=False)[:, 0]
        for axis, (name, cars), colour in zip(axes, splits.items(), colours):
            draw_car_histogram(axis, {name: (cars, colour)}, partition)
            shares = ', '.join(
                f'{name} {count} ({count / len(cars):.0%})'
                for name, count in partition.counts(cars).items()
            )
            axis.set_title(f'{name}: {len(cars)} labels\n{shares}', fontsize=9)
            axis.set_ylabel('labels')
        axes[-1].set_xlabel('CAR of the label')

    caption = (
        f'Dashed: the thresholds ({partition}). Hatched: labels without change, which '
        'have no place on a logarithmic axis.'
    )
    return _drawn(
        'car_distribution', 'CAR distribution', caption, (5.4, 0.6 + 1.9 * len(splits)), draw
    )


def cascade_figures(analysis: CascadeAnalysis) -> list[Drawing]:
    """Draw the paper's Figure 10 for one cascade: a matrix with counts and gains, both
    distributions, a scatter plot."""
    title = f'{model_title(analysis.entry.model)}, {strategy_title(analysis.entry.strategy)}'
    return [_confusion(analysis, title), _distributions(analysis, title), _scatter(analysis, title)]


def _confusion(analysis: CascadeAnalysis, title: str) -> Drawing:
    gains, means = analysis.gains, analysis.mean_gains
    shares = analysis.counts / np.maximum(analysis.counts.sum(1, keepdims=True), 1)

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.imshow(shares, cmap='Blues', vmin=0, vmax=1.25, aspect='auto')
        for (row, column), count in np.ndenumerate(analysis.counts):
            colour = 'white' if shares[row, column] > 0.7 else _BLACK
            axis.text(
                column,
                row - 0.18,
                str(count),
                ha='center',
                va='center',
                color=colour,
                fontsize=12,
                fontweight='bold',
            )
            if gains is not None and means is not None and count:
                text = typographic(
                    f'{signed(means[row, column], 1)} each\n{signed(gains[row, column], 0)} in all'
                )
                axis.text(
                    column, row + 0.2, text, ha='center', va='center', color=colour, fontsize=8
                )
        axis.set_xticks(range(len(analysis.chosen)), analysis.chosen)
        axis.set_yticks(
            range(len(analysis.partition)), analysis.partition.names, rotation=90, va='center'
        )
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_xlabel('range that the coarse prediction chose')
        axis.set_ylabel('range of the true CAR')

    against = (
        f'; small: mIoU gained against {strategy_title(analysis.origin.strategy)}, per image and '
        'in all'
        if analysis.origin
        else ''
    )
    name = file_name('cascade_matrix', analysis.entry)
    return _drawn(
        name,
        f'{title}: matrix of ranges',
        f'Images in each cell{against}. Shade: share of the row.',
        (4.2, 3.6),
        draw,
    )


def _distributions(analysis: CascadeAnalysis, title: str) -> Drawing:
    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        draw_car_histogram(
            axis,
            {'true': (analysis.true_cars, _SKY), 'coarse': (analysis.coarse_cars, _VERMILION)},
            analysis.partition,
        )
        axis.set_xlabel('CAR')
        axis.set_ylabel('images')
        figure.legend(loc='outside upper left', ncols=2)

    caption = (
        "CAR of the labels (filled) and as the cascade's origin predicts it (line); on "
        'the left CAR = 0; dashed: thresholds.'
    )
    return _drawn(
        file_name('cascade_distribution', analysis.entry),
        f'{title}: CAR distributions',
        caption,
        (4.6, 3.6),
        draw,
    )


def _scatter(analysis: CascadeAnalysis, title: str) -> Drawing:
    same = analysis.partition.range_of(analysis.true_cars) == analysis.partition.range_of(
        analysis.coarse_cars
    )

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        floor = SMALLEST_DRAWN_CAR
        for chosen, colour, marker, name in (
            (same, _BLUE, 'o', 'same range'),
            (~same, _VERMILION, 'x', 'other range'),
        ):
            x, y = (
                np.maximum(cars[chosen], floor / 2)
                for cars in (analysis.true_cars, analysis.coarse_cars)
            )
            # Thousands of points as vectors would make the file heavy.
            width, label = (0.8 if marker == 'x' else 0), f'{name} ({len(x)})'
            axis.scatter(
                x,
                y,
                s=11,
                c=colour,
                marker=marker,
                alpha=0.7,
                linewidths=width,
                label=label,
                rasterized=True,
                zorder=3,
            )
        axis.plot([floor / 2, 1], [floor / 2, 1], color=_MUTED, linewidth=1)
        axis.set_xscale('log')
        axis.set_yscale('log')
        ticks, labels = car_ticks(analysis.partition)
        for draw_line, draw_span in ((axis.axvline, axis.axvspan), (axis.axhline, axis.axhspan)):
            draw_span(floor / 3, floor * 0.75, color='#efefef', linewidth=0, zorder=0)
            for threshold in analysis.partition.thresholds:
                draw_line(threshold, color=_BLACK, linestyle='--', linewidth=0.8)
        axis.set_xticks([floor / 2, *ticks[1:]], ['0', *labels[1:]])
        axis.set_yticks([floor / 2, *ticks[1:]], ['0', *labels[1:]])
        axis.minorticks_off()
        axis.set_xlim(floor / 3, 1.2)
        axis.set_ylim(floor / 3, 1.2)
        axis.set_xlabel('true CAR')
        axis.set_ylabel('coarse CAR')
        figure.legend(loc='outside upper left', ncols=2, handletextpad=0.2, markerscale=1.5)

    caption = (
        'One point per image; on the grey margin CAR below '
        f'{percent_text(SMALLEST_DRAWN_CAR / 2)}, 0 included; dashed: thresholds.'
    )
    return _drawn(
        file_name('cascade_scatter', analysis.entry),
        f'{title}: coarse against true CAR',
        caption,
        (4.2, 3.9),
        draw,
    )
