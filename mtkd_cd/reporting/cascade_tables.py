"""The tables of a cascade: where it sent the images, and what that gained."""

from collections.abc import Sequence

import numpy as np

from mtkd_cd.core.strategy import strategy_title
from mtkd_cd.paper.published import model_title
from mtkd_cd.reporting.cells import ENTRY_COLUMNS, entry_cells, gain_cell
from mtkd_cd.reporting.failure import CascadeAnalysis
from mtkd_cd.reporting.table_formats import Cell, Column, Table, text_cell
from mtkd_cd.reporting.wording import file_name, signed, tone_of


def cascades_table(analyses: Sequence[CascadeAnalysis]) -> Table:
    """Where each cascade sent the images, and what it gained there."""
    columns = [
        *ENTRY_COLUMNS,
        Column('Images', ('images',)),
        Column('Sent to the range of their CAR', ('share_right', 'mean_gain_right')),
        Column('Sent elsewhere', ('share_elsewhere', 'mean_gain_elsewhere')),
        Column('All', ('mean_gain',)),
    ]
    rows = []
    for analysis in analyses:
        right = np.zeros(analysis.counts.shape, bool)
        right[np.arange(len(analysis.partition)), np.arange(len(analysis.partition))] = True
        total = int(analysis.counts.sum())
        gain = None if analysis.gains is None else float(analysis.gains.sum()) / total
        rows.append(
            [
                *entry_cells(analysis.entry),
                Cell(str(total), (total,)),
                _share_cell(analysis, right),
                _share_cell(analysis, ~right),
                gain_cell(gain),
            ]
        )
    caption = (
        'Share of the images, over all seeds, and in brackets the mean mIoU that they '
        "gained against the origin's own prediction."
    )
    return Table('cascades', 'Where O-P sends the images', caption, columns, [rows], 2)


def _share_cell(analysis: CascadeAnalysis, cells: np.ndarray) -> Cell:
    count = int(analysis.counts[cells].sum())
    share = count / int(analysis.counts.sum())
    if analysis.gains is None or not count:
        return Cell(f'{share:.1%}'.replace('%', ' %'), (share, None))
    gain = float(analysis.gains[cells].sum()) / count
    return Cell(
        f'{share:.1%}'.replace('%', ' %'), (share, gain), f'({signed(gain)})', tone=tone_of(gain)
    )


def confusion_table(analysis: CascadeAnalysis) -> Table:
    """True range by chosen range, with what each cell gained."""
    entry = analysis.entry
    columns = [
        Column('True range', ('true_range',), 'left'),
        *(
            Column(f'sent to {name}', (f'{name}_images', f'{name}_gain_sum', f'{name}_gain_mean'))
            for name in analysis.chosen
        ),
    ]
    means = analysis.mean_gains

    def cell(row: int, column: int) -> Cell:
        count = int(analysis.counts[row, column])
        if analysis.gains is None or means is None or not count:
            return Cell(str(count), (count, None, None))
        total, mean = float(analysis.gains[row, column]), float(means[row, column])
        return Cell(
            str(count),
            (count, total, mean),
            f'({signed(mean)}; {signed(total, 0)})',
            bold=row == column,
            tone=tone_of(mean),
        )

    rows = [
        [text_cell(name), *(cell(row, column) for column in range(len(analysis.chosen)))]
        for row, name in enumerate(analysis.partition.names)
    ]
    origin = (
        f'; in brackets the mIoU gained against {strategy_title(analysis.origin.strategy)}: mean; '
        'sum'
        if analysis.origin
        else ''
    )
    runs = '1 run' if len(entry.runs) == 1 else f'{len(entry.runs)} runs'
    caption = (
        f'{analysis.counts.sum()} images of {runs}{origin}, in percentage points. Ranges: '
        f'{analysis.partition}.'
    )
    name = file_name('cascade', entry)
    return Table(
        name,
        f'{model_title(entry.model)}, {strategy_title(entry.strategy)}',
        caption,
        columns,
        [rows],
    )
