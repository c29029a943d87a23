"""The columns and cells that tables of a report have in common."""

from collections.abc import Callable, Sequence

from mtkd_cd.core.strategy import strategy_title
from mtkd_cd.paper.published import model_title, published_scores
from mtkd_cd.reporting.comparison import Comparison, Difference, Entry
from mtkd_cd.reporting.identity import base_strategy
from mtkd_cd.reporting.table_formats import Cell, Column, Row
from mtkd_cd.reporting.wording import SIGNIFICANT, Published, p_text, signed, tone_of

ENTRY_COLUMNS = (
    Column('Model', ('model',), 'left'),
    Column('Strategy', ('strategy',), 'left'),
)


def entry_cells(entry: Entry) -> list[Cell]:
    """What a row is about, below :data:`ENTRY_COLUMNS`."""
    return [
        Cell(model_title(entry.model), (entry.model,)),
        Cell(strategy_title(entry.strategy), (entry.strategy,)),
    ]


def by_model(comparison: Comparison, row: Callable[[Entry], Row | None]) -> list[list[Row]]:
    """The rows of all entries, those of a model together; no row where ``row`` gives ``None``."""
    groups = [
        [cells for entry in comparison.of_model(model) if (cells := row(entry)) is not None]
        for model in comparison.models
    ]
    return [group for group in groups if group]


def score_column(score: str) -> Column:
    """The column above :func:`score_cell`."""
    return Column(
        score,
        (
            score,
            f'{score}_low',
            f'{score}_high',
            f'{score}_deviation_over_seeds',
            f'{score}_difference',
        ),
    )


def score_cell(comparison: Comparison, entry: Entry, score: str, best: float | None = None) -> Cell:
    """Mean and deviation over seeds, in brackets the difference to the first reference; bold for
    ``best``."""
    interval, deviation = comparison.intervals[entry][score], entry.deviation(score)
    text = f'{interval.mean:.2f}' + ('' if deviation is None else f' ± {deviation:.2f}')
    bold = best is not None and round(interval.mean, 2) == best
    found = comparison.references[0].differences.get(entry)
    if found is None:
        return Cell(text, (*interval, deviation, None), bold=bold)
    difference = found.intervals[score].mean
    star = '*' if found.p_values.get(score, 1) < SIGNIFICANT else ''
    return Cell(
        text,
        (*interval, deviation, difference),
        f'({signed(difference)}{star})',
        bold,
        tone_of(difference),
    )


def best_score(entries: Sequence[Entry], score: str) -> float | None:
    """The highest mean as it is printed; ``None`` for one entry, which needs no distinction."""
    return round(max(entry.mean(score) for entry in entries), 2) if len(entries) > 1 else None


def difference_cell(difference: Difference, score: str) -> Cell:
    """A difference with its interval, coloured where that does not contain 0."""
    interval, deviation = difference.intervals[score], difference.deviations[score]
    text = signed(interval.mean) + ('' if deviation is None else f' ± {deviation:.2f}')
    bounds = f'[{signed(interval.low)}, {signed(interval.high)}]'
    return Cell(
        text,
        (*interval, deviation),
        bounds,
        tone=tone_of(interval.mean) if interval.low * interval.high > 0 else '',
    )


def plain_difference(found: Difference | None, score: str) -> Cell:
    """The mean of a difference alone, ``-`` where there is none."""
    return gain_cell(None if found is None else found.intervals[score].mean)


def gain_cell(gain: float | None) -> Cell:
    """A gain or a loss in percentage points; ``-`` for ``None``."""
    if gain is None:
        return Cell('-', (None,))
    return Cell(signed(gain), (gain,), tone=tone_of(gain))


def p_cell(p_value: float) -> Cell:
    """A p-value, bold where it is significant."""
    return Cell(p_text(p_value), (p_value,), bold=p_value < SIGNIFICANT)


def published_columns(
    comparison: Comparison, published: Published, scores: Sequence[str] = ('mIoU', 'mFscore')
) -> list[Column]:
    """A column for each printed score; none where no entry has one."""
    if not any(
        published_scores(published.dataset, entry.model, entry.strategy)
        for entry in comparison.entries
    ):
        return []
    title = f'published, {published.dataset}'
    return [
        Column(f'{score} {title}', (f'{score}_published_{published.dataset}',)) for score in scores
    ]


def published_cells(
    entry: Entry, published: Published, scores: Sequence[str], columns: Sequence[Column]
) -> list[Cell]:
    """The printed scores of an entry: one for each of the columns, if there are any."""
    return [_published_cell(entry, published.dataset, score) for score, _ in zip(scores, columns)]


def _published_cell(entry: Entry, dataset: str, score: str) -> Cell:
    value = published_scores(dataset, entry.model, entry.strategy).get(score)
    if value is None:
        return Cell('-', (None,), tone='published')
    origin = published_scores(dataset, entry.model, 'origin').get(score)
    note = (
        f'({signed(value - origin)})'
        if origin is not None and base_strategy(entry.strategy) != 'origin'
        else ''
    )
    return Cell(f'{value:.2f}', (value,), note, tone='published')
