"""The figures of a report: scores, differences, curves over CAR and over iterations, CARs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.strategy import strategy_title
from mtkd_cd.core.text import counted, percent_text
from mtkd_cd.drawing.car_histogram import SMALLEST_DRAWN_CAR, draw_car_histogram
from mtkd_cd.evaluation.statistics import Interval
from mtkd_cd.paper.published import model_title, published_scores
from mtkd_cd.reporting.comparison import Bin, Comparison, Entry, Reference
from mtkd_cd.reporting.curves import Curve
from mtkd_cd.reporting.plotting import (
    BLUE,
    GREEN,
    GRID,
    MUTED,
    ORANGE,
    PURPLE,
    Drawing,
    draw_figure,
    legend_columns,
    styles,
)
from mtkd_cd.reporting.table_formats import typographic
from mtkd_cd.reporting.wording import Published, level_text, plain, reference_title

_CURVE: dict = dict(markersize=5, linewidth=1.5, elinewidth=0.8, capsize=2)
# Rows beyond which the horizontal axis is wanted above as well as below.
_MANY = 24
# Height of the labels of a horizontal axis, in inches.
_TICKS_AND_LABEL = 0.42


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
            look = _marker(comparison, entry)
            _draw_interval(axis, comparison.intervals[entry]['mIoU'], rows[entry], look)
        for entry, score in known.items():
            axis.plot(
                score,
                rows[entry],
                marker='|',
                color=MUTED,
                markersize=9,
                markeredgewidth=1.6,
                linestyle='',
            )
        axis.set_xlabel('mIoU (%)')
        _legend_of_strategies(
            figure,
            comparison,
            [('published', dict(marker='|', color=MUTED, linestyle='', markersize=9))]
            if known
            else [],
        )

    level = level_text(comparison)
    caption = f'Mean over images and seeds with the {level} interval over images.' + (
        f' Grey bars: {published.words} (arXiv:2502.13407).' if known else ''
    )
    return draw_figure(
        'overview', 'mIoU of all runs', caption, _row_size(comparison, entries), draw
    )


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
        axis.axvline(0, color=MUTED, linewidth=1)
        for entry in entries:
            interval = reference.differences[entry].intervals['mIoU']
            look = _marker(comparison, entry)
            if interval.low <= 0 <= interval.high:
                look['markerfacecolor'] = 'white'
            _draw_interval(axis, interval, rows[entry], look)
        axis.set_xlabel('difference in mIoU (percentage points)')
        axis.xaxis.set_major_formatter(_signed_tick)
        _legend_of_strategies(figure, comparison, only={entry.strategy for entry in entries})

    level = level_text(comparison)
    caption = (
        f'Mean with the {level} interval of a paired bootstrap over images. Hollow: the '
        'interval contains 0.'
    )
    return draw_figure(
        name, f'Difference in mIoU to {words}', caption, _row_size(comparison, entries), draw
    )


def _draw_interval(axis: Axes, interval: Interval, row: float, look: Mapping) -> None:
    axis.plot([interval.low, interval.high], [row] * 2, color=look['color'], linewidth=1.2)
    axis.plot(interval.mean, row, **look)


def _signed_tick(value: float, _: float) -> str:
    return typographic(f'{value:+g}') if value else '0'


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
        axis.axhline(at - 0.15, color=GRID, linewidth=0.8)
        at += 0.7
    axis.set_yticks(*zip(*ticks))
    axis.tick_params(axis='y', length=0)
    if len(entries) > _MANY:
        axis.tick_params(axis='x', top=True, labeltop=True)
    axis.set_ylim(at - 0.85, -0.8)
    axis.spines['left'].set_visible(False)
    axis.grid(axis='x', color=GRID, linewidth=0.6)
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
        ncols=legend_columns(labels, 5.4),
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
            axis.grid(axis='y', color=GRID, linewidth=0.6)
        figure.align_ylabels()
        labels = [strategy_title(entry.strategy) for entry in entries]
        figure.legend(
            axes[0].containers,
            labels,
            loc='outside upper left',
            ncols=legend_columns(labels, 5),
            handlelength=2.6,
        )

    level = level_text(comparison)
    bars = 'standard deviation over seeds' if several else f'{level} interval over images'
    caption = f'Bars at the points: the {bars}.'
    if compared:
        caption += (
            f' Middle: the difference to {reference_title(comparison.references[0])}, '
            f'with its {level} interval over images.'
        )
    caption += ' Bottom: the CARs that each bin spans.'
    height = 5.0 if compared else 3.9
    return draw_figure(
        f'{prefix}_{plain(model)}', f'{model_title(model)}: {title}', caption, (5.0, height), draw
    )


def _draw_differences(
    axis: Axes, entries: Sequence[Entry], bins: Sequence[Bin], looks: Mapping[str, dict]
) -> None:
    axis.axhline(0, color=MUTED, linewidth=1)
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
    axis.yaxis.set_major_formatter(_signed_tick)
    axis.set_ylabel('Δ mIoU')


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
    names = list(dict.fromkeys(map(_name_of_specialist, specialists)))
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
            name = _name_of_specialist(curve)
            _draw_curve(axes[1], curve, 0, name, specialist_looks[name])
        for axis, title in zip(axes, ('all images', 'specialists, images of their range')):
            axis.set_title(title)
            axis.set_xlabel('iteration')
            axis.grid(axis='y', color=GRID, linewidth=0.6)
            handles = dict(zip(*reversed(axis.get_legend_handles_labels())))
            columns = legend_columns(list(handles), 3.6)
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
    return draw_figure(
        f'training_{plain(model)}',
        f'{model_title(model)}: validation while training',
        caption,
        (width, 4.0),
        draw,
    )


def _name_of_specialist(curve: Curve) -> str:
    return f'{curve.range_name}{curve.strategy.removeprefix("partition")}'


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
    colours = (BLUE, ORANGE, GREEN, PURPLE)

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
    return draw_figure(
        'car_distribution', 'CAR distribution', caption, (5.4, 0.6 + 1.9 * len(splits)), draw
    )
