"""The figures of a cascade: the paper's Figure 10 (arXiv:2502.13407)."""

import numpy as np
from matplotlib.figure import Figure

from mtkd_cd.core.strategy import strategy_title
from mtkd_cd.core.text import percent_text
from mtkd_cd.drawing.car_histogram import SMALLEST_DRAWN_CAR, car_ticks, draw_car_histogram
from mtkd_cd.paper.published import model_title
from mtkd_cd.reporting.failure import CascadeAnalysis
from mtkd_cd.reporting.plotting import BLACK, BLUE, MUTED, SKY, VERMILION, Drawing, draw_figure
from mtkd_cd.reporting.table_formats import typographic
from mtkd_cd.reporting.wording import file_name, signed


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
            colour = 'white' if shares[row, column] > 0.7 else BLACK
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
    return draw_figure(
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
            {'true': (analysis.true_cars, SKY), 'coarse': (analysis.coarse_cars, VERMILION)},
            analysis.partition,
        )
        axis.set_xlabel('CAR')
        axis.set_ylabel('images')
        figure.legend(loc='outside upper left', ncols=2)

    caption = (
        "CAR of the labels (filled) and as the cascade's origin predicts it (line); on "
        'the left CAR = 0; dashed: thresholds.'
    )
    return draw_figure(
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
            (same, BLUE, 'o', 'same range'),
            (~same, VERMILION, 'x', 'other range'),
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
        axis.plot([floor / 2, 1], [floor / 2, 1], color=MUTED, linewidth=1)
        axis.set_xscale('log')
        axis.set_yscale('log')
        ticks, labels = car_ticks(analysis.partition)
        for draw_line, draw_span in ((axis.axvline, axis.axvspan), (axis.axhline, axis.axhspan)):
            draw_span(floor / 3, floor * 0.75, color='#efefef', linewidth=0, zorder=0)
            for threshold in analysis.partition.thresholds:
                draw_line(threshold, color=BLACK, linestyle='--', linewidth=0.8)
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
    return draw_figure(
        file_name('cascade_scatter', analysis.entry),
        f'{title}: coarse against true CAR',
        caption,
        (4.2, 3.9),
        draw,
    )
