"""The results of a recipe, and those of an experiment, as text."""

from typing import TYPE_CHECKING

from mtkd_cd.core.strategy import Strategy, strategy_title
from mtkd_cd.core.text import format_markdown_table, markdown_text
from mtkd_cd.evaluation.scores import MEAN_NAMES
from mtkd_cd.recipe.results import RecipeResults

if TYPE_CHECKING:
    from mtkd_cd.experiments.matrix import Matrix, Spread


def recipe_markdown(results: RecipeResults) -> str:
    """The scores beside those of the origin, the CAR ranges of the specialists and the times of the
    steps, as Markdown."""
    strategies = sorted(results.metrics, key=lambda strategy: strategy.rank)
    scores = [
        [
            markdown_text(strategy.title),
            *(_cell(results, strategy, column) for column in MEAN_NAMES),
        ]
        for strategy in strategies
    ]
    ranges = [
        '\n' + markdown_text(f'CAR ranges of {one}: {one.partition}') for one in results.specialists
    ]
    outdated = ', '.join(one.title for one in results.outdated)
    left_out = (
        'Left out, of another origin or of other data than there are now, or tested otherwise than '
        f'the origin: {outdated}. To test all alike, add origin to --strategies.'
    )
    times = [
        [
            markdown_text(f'{one.action} {one.strategy}{f"/{one.range}" if one.range else ""}'),
            _clock(one.seconds),
        ]
        for one in results.times
    ]
    total = sum(one.seconds for one in results.times)
    lines = [
        f'{markdown_text(results.model)}: per-image averages on the test data, in percent; in '
        'brackets the difference to the origin.',
        '',
        format_markdown_table(['', *MEAN_NAMES], scores),
        *(['\n' + markdown_text(left_out)] if outdated else []),
        *ranges,
        '',
        format_markdown_table(['step', 'time'], [*times, ['all', _clock(total)]]),
    ]
    return '\n'.join(lines) + '\n'


def _cell(results: RecipeResults, strategy: Strategy, column: str) -> str:
    value = f'{results.metrics[strategy][column]:.2f}'
    difference = results.differences.get(strategy)
    return f'{value} ({difference[column]:+.2f})' if difference else value


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{rest:02}'


def matrix_markdown(matrix: 'Matrix') -> str:
    """Mean and standard deviation over the seeds, differences to origin and control, and the cells
    that are missing, as Markdown."""
    wanted = len({cell.seed for cell in matrix.cells})
    rows, references = [], []
    for row in matrix.summary():
        references = list(row.differences)
        rows.append(
            [
                *map(markdown_text, (row.model, strategy_title(row.strategy))),
                f'{row.seeds}/{wanted}',
            ]
            + [_spread(row.scores[column], '.2f') for column in MEAN_NAMES]
            + [_spread(row.differences[name]['mIoU'], '+.2f') for name in references]
        )
    differences = [f'mIoU - {reference}' for reference in references]
    lines = [
        'Per-image averages on the test data in percent: mean ± standard deviation over seeds. '
        'Differences are of the same seed.',
        '',
        format_markdown_table(['model', 'strategy', 'seeds', *MEAN_NAMES, *differences], rows),
        '',
        matrix.progress,
    ]
    missing = [
        [
            *map(markdown_text, (cell.model, cell.strategy)),
            str(cell.seed),
            cell.state,
            markdown_text(' '.join(cell.why.split())),
        ]
        for cell in matrix.cells
        if cell.state != 'done'
    ]
    if missing:
        header = ['model', 'strategy', 'seed', 'state', 'why']
        lines += ['', format_markdown_table(header, missing)]
    return '\n'.join(lines) + '\n'


def _spread(spread: 'Spread | None', form: str) -> str:
    if spread is None:
        return ''
    return format(spread.mean, form) + ('' if spread.std is None else f' ± {spread.std:.2f}')
