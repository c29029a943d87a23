"""The tables of a report, from its numbers."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtkd_cd.core.strategy import strategy_in, strategy_title
from mtkd_cd.core.text import percent_text
from mtkd_cd.evaluation.scores import CLASSES, MEAN_NAMES, SCORE_NAMES
from mtkd_cd.paper.published import JL1_CD, SYSU_CD, model_title, published_models, published_scores
from mtkd_cd.reporting.comparison import Bin, Comparison, Difference, Entry, Reference
from mtkd_cd.reporting.failure import CascadeAnalysis
from mtkd_cd.reporting.identity import base_strategy
from mtkd_cd.reporting.table_formats import Cell, Column, Row, Table, Tone, text_cell

SIGNIFICANT = 0.05
_MODEL, _STRATEGY = Column('Model', ('model',), 'left'), Column('Strategy', ('strategy',), 'left')
_ENTRY_COLUMNS = (_MODEL, _STRATEGY)


@dataclass(frozen=True)
class Published:
    """Which printed figures stand beside the measured ones.

    Attributes:
        dataset: The paper's data set.
        same: Whether the evaluated images may be that set's.
    """

    dataset: str
    same: bool

    @property
    def words(self) -> str:
        """What a caption says of them."""
        where = f'on the test set of {self.dataset}'
        return (
            f'published {where}'
            if self.same
            else f'published, {where}, another data set than the one evaluated here'
        )


def signed(value: float, digits: int = 2) -> str:
    """``+0.50``, ``-0.42``, and ``+0.00`` for what rounds to nothing."""
    return f'{round(value, digits) + 0.0:+.{digits}f}'


def p_text(p_value: float) -> str:
    """``0.034``, ``< 0.001``."""
    return '< 0.001' if p_value < 0.001 else f'{p_value:.3f}'


def tone_of(difference: float) -> Tone:
    """Gain or loss."""
    return 'gain' if round(difference, 2) > 0 else 'loss' if round(difference, 2) < 0 else ''


def scores_table(comparison: Comparison, published: Published) -> Table:
    """All models and strategies, as the paper's Table 2."""
    printed = _published_columns(comparison, published)
    columns = [
        *_ENTRY_COLUMNS,
        Column('Seeds', ('seeds',)),
        *map(_score_column, MEAN_NAMES),
        *printed,
    ]
    best = {
        (model, score): _best(comparison.of_model(model), score)
        for model in comparison.models
        for score in MEAN_NAMES
    }

    def row(entry: Entry) -> Row:
        scores = [
            _score_cell(comparison, entry, score, best[entry.model, score]) for score in MEAN_NAMES
        ]
        return [
            *_entry_cells(entry),
            _seeds_cell(entry),
            *scores,
            *_published_cells(entry, published, ('mIoU', 'mFscore'), printed),
        ]

    return Table(
        'scores',
        'Scores',
        _score_caption(comparison, published if printed else None),
        columns,
        _by_model(comparison, row),
        2,
    )


def _score_caption(comparison: Comparison, published: Published | None) -> str:
    caption = (
        f'Per-image scores averaged over {len(comparison.files)} images, in percent; in brackets '
        'the difference to '
        f'{reference_words(comparison.references[0])}, with * where the permutation test of mIoU '
        f'or mFscore gives p < {SIGNIFICANT} '
        '(not corrected for the number of tests); bold: best of the model.'
    )
    several = any(len(entry.runs) > 1 for entry in comparison.entries)
    caption += ' ± is the standard deviation over seeds.' if several else ''
    return caption + (f' In italics: {published.words} (arXiv:2502.13407).' if published else '')


def _difference_columns(score: str, level: str) -> list[Column]:
    parts = ('difference', 'low', 'high', 'deviation_over_seeds')
    return [
        Column(f'Δ {score} [{level}]', tuple(f'{score}_{part}' for part in parts)),
        Column(f'p {score}', (f'p_{score}',)),
    ]


def differences_table(comparison: Comparison, reference: Reference, name: str) -> Table:
    """Every difference to a reference with interval and test."""
    level = f'{100 * comparison.settings.confidence:g} %'
    columns = [
        *_ENTRY_COLUMNS,
        Column('Against', ('against',), 'left'),
        *_difference_columns('mIoU', level),
        *_difference_columns('mFscore', level),
        Column('p mIoU, Holm', ('p_mIoU_holm',)),
        Column('Images better : worse', ('images_better', 'images_worse')),
        Column('Seeds', ('seeds_in_common',)),
    ]

    def row(entry: Entry) -> Row | None:
        difference = reference.differences.get(entry)
        if difference is None:
            return None
        return [
            *_entry_cells(entry),
            Cell(_against(difference), (str(difference.reference),)),
            *(
                cell
                for score in ('mIoU', 'mFscore')
                for cell in (
                    _difference_cell(difference, score),
                    _p_cell(difference.p_values[score]),
                )
            ),
            _p_cell(difference.adjusted),
            Cell(
                f'{difference.num_better} : {difference.num_worse}',
                (difference.num_better, difference.num_worse),
            ),
            Cell(str(difference.num_seeds or '-'), (difference.num_seeds,)),
        ]

    caption = (
        f'Mean difference in percentage points with the {level} interval of a paired bootstrap '
        'over images '
        f'({comparison.settings.num_resamples} draws), and the p-value of a paired sign-flip '
        'permutation test of the mean. Holm: corrected '
        'for all rows of this table. Scores are averaged over the seeds that both have, image by '
        'image, before they are paired; '
        '± is the standard deviation of the difference over those seeds.'
    )
    return Table(
        name,
        f'Differences to {reference_title(reference)}',
        caption,
        columns,
        _by_model(comparison, row),
        2,
    )


def classes_table(comparison: Comparison, published: Published) -> Table:
    """Both classes of all models and strategies, as the paper's Tables 4 and 7."""
    reference = comparison.references[0]
    printed = _published_columns(comparison, published, ('IoU', 'Fscore'))
    columns = [
        *_ENTRY_COLUMNS,
        Column('Class', ('class',), 'left'),
        *map(_score_column, SCORE_NAMES),
        *printed,
    ]

    def row(entry: Entry, name: str) -> Row:
        scores = [f'{score}_{name}' for score in SCORE_NAMES]
        of_paper = [f'{score}_{name}' for score in ('IoU', 'Fscore')]
        return [
            *_entry_cells(entry),
            text_cell(name),
            *(_score_cell(comparison, entry, score) for score in scores),
            *_published_cells(entry, published, of_paper, printed),
        ]

    groups = [
        [row(entry, name) for entry in comparison.of_model(model) for name in CLASSES]
        for model in comparison.models
    ]
    caption = (
        'Per-image scores of each class, averaged, in percent; in brackets the '
        f'difference to {reference_words(reference)}.'
    )
    caption += f' In italics: {published.words}.' if printed else ''
    return Table('classes', 'Changed and unchanged pixels', caption, columns, groups, 2)


def teachers_table(comparison: Comparison) -> Table:
    """Strategies by number of teachers with differences by class, as the paper's Tables 5 and 8."""
    reference = comparison.references[0]
    by_class = [(score, name) for name in reversed(CLASSES) for score in ('IoU', 'Fscore')]
    printed = {
        dataset: _published_columns(comparison, Published(dataset, False))
        for dataset in (JL1_CD, SYSU_CD)
    }
    differences = [
        Column(f'{name} Δ {score}', (f'{score}_{name}_difference',)) for score, name in by_class
    ]
    columns = [
        *_ENTRY_COLUMNS,
        Column('Teachers', ('teachers',)),
        *map(_score_column, MEAN_NAMES),
        *differences,
        *itertools.chain(*printed.values()),
    ]

    def row(entry: Entry) -> Row:
        strategy = strategy_in(entry.strategy)
        teachers = strategy.num_teachers if strategy else None
        found = reference.differences.get(entry)
        return [
            *_entry_cells(entry),
            Cell('-' if teachers is None else str(teachers), (teachers,)),
            *(_score_cell(comparison, entry, score) for score in MEAN_NAMES),
            *(_plain_difference(found, f'{score}_{name}') for score, name in by_class),
            *(
                cell
                for dataset, columns_of_set in printed.items()
                for cell in _published_cells(
                    entry, Published(dataset, False), ('mIoU', 'mFscore'), columns_of_set
                )
            ),
        ]

    caption = (
        'Teachers: CAR ranges, each with its specialist. In brackets and under Δ: difference to '
        f'{reference_words(reference)}, in '
        'percentage points.'
        + (
            ' Published: as printed in the paper, each on the test set it names.'
            if any(printed.values())
            else ''
        )
    )
    return Table('teachers', 'Number of teachers', caption, columns, _by_model(comparison, row), 2)


def models_table(comparison: Comparison) -> Table | None:
    """Size and cost of the models that the paper has, as its Table 6; ``None`` without such a
    model."""
    columns = [
        Column('Model', ('model',), 'left'),
        Column('Config', ('config',), 'left'),
        Column('Backbone', ('backbone',), 'left'),
        Column('Parameters (M)', ('params_m',)),
        Column('FLOPs (G)', ('flops_g',)),
    ]
    known = {
        model: facts for model in comparison.models if (facts := published_models().get(model))
    }
    rows = [
        [
            text_cell(facts['method']),
            text_cell(model),
            text_cell(facts['backbone']),
            Cell(f'{facts["params_m"]:.3f}', (facts['params_m'],), tone='published'),
            Cell(f'{facts["flops_g"]:.3f}', (facts['flops_g'],), tone='published'),
        ]
        for model, facts in known.items()
    ]
    caption = 'As published: without auxiliary heads, FLOPs at a pair of 512 x 512.'
    return Table('models', 'Models', caption, columns, [rows]) if known else None


def bins_table(comparison: Comparison, bins: Sequence[Bin], name: str, title: str) -> Table:
    """mIoU of every entry in bins of CAR."""
    reference = comparison.references[0]
    columns = [
        *_ENTRY_COLUMNS,
        *(
            Column(
                f'{_bin_words(car_bin, comparison)} ({len(car_bin.rows)})',
                (f'mIoU_{car_bin.name}', f'mIoU_{car_bin.name}_difference'),
            )
            for car_bin in bins
        ),
    ]

    def row(entry: Entry) -> Row:
        return [*_entry_cells(entry), *(_bin_cell(entry, car_bin, reference) for car_bin in bins)]

    caption = (
        'mIoU in percent by the CAR of the label (in brackets: images); behind it the '
        f'difference to {reference_words(reference)}.'
    )
    return Table(name, title, caption, columns, _by_model(comparison, row), 2)


def _bin_words(car_bin: Bin, comparison: Comparison) -> str:
    if car_bin.name in comparison.partition.names:
        return f'{car_bin.name}: {comparison.partition.bounds_text(car_bin.name)}'
    return f'{car_bin.name}: {percent_text(car_bin.low)} to {percent_text(car_bin.high)}'


def _bin_cell(entry: Entry, car_bin: Bin, reference: Reference) -> Cell:
    if not len(car_bin.rows):
        return Cell('-', (None, None))
    mean = float(entry.scores['mIoU'][car_bin.rows].mean())
    found = reference.differences.get(entry)
    if found is None:
        return Cell(f'{mean:.2f}', (mean, None))
    difference = float(found.by_image[car_bin.rows].mean())
    return Cell(
        f'{mean:.2f}', (mean, difference), f'({signed(difference)})', tone=tone_of(difference)
    )


def cascades_table(analyses: Sequence[CascadeAnalysis]) -> Table:
    """Where each cascade sent the images, and what it gained there."""
    columns = [
        *_ENTRY_COLUMNS,
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
                *_entry_cells(analysis.entry),
                Cell(str(total), (total,)),
                _share_cell(analysis, right),
                _share_cell(analysis, ~right),
                Cell('-', (None,))
                if gain is None
                else Cell(signed(gain), (gain,), tone=tone_of(gain)),
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


def images_table(comparison: Comparison, extremes: Mapping[Difference, Sequence[int]]) -> Table:
    """The images that gained and lost most.

    Args:
        comparison: The numbers.
        extremes: Of each difference the positions of its images, largest gain first.
    """
    reference = comparison.references[0]
    columns = [
        *_ENTRY_COLUMNS,
        Column('Image', ('image',), 'left'),
        Column('CAR', ('car',)),
        Column(f'mIoU, {strategy_title(reference.name)}', ('mIoU_reference',)),
        Column('mIoU', ('mIoU',)),
        Column('Δ mIoU', ('mIoU_difference',)),
    ]
    groups = [
        [_image_row(comparison, difference, row) for row in rows]
        for difference, rows in extremes.items()
    ]
    caption = 'In percent, averaged over the seeds that both runs have.'
    return Table('images', 'Images that gained and lost most', caption, columns, groups, 2)


def _image_row(comparison: Comparison, difference: Difference, row: int) -> Row:
    change, score = float(difference.by_image[row]), float(difference.scores[row])
    return [
        *_entry_cells(difference.entry),
        text_cell(comparison.files[row]),
        Cell(percent_text(comparison.cars[row]), (float(comparison.cars[row]),)),
        Cell(f'{score - change:.2f}', (score - change,)),
        Cell(f'{score:.2f}', (score,)),
        Cell(signed(change), (change,), tone=tone_of(change)),
    ]


def file_name(prefix: str, entry: Entry) -> str:
    """Of a table or figure about one entry: letters, digits, ``_``, ``-`` and ``.`` only."""
    return f'{prefix}_{plain(entry.model)}_{plain(entry.strategy)}'


def plain(text: str) -> str:
    """Text as a part of a file name that every system takes."""
    return ''.join(char if char.isalnum() or char in '-.' else '_' for char in text)


def _by_model(comparison: Comparison, row: Callable[[Entry], Row | None]) -> list[list[Row]]:
    groups = [
        [cells for entry in comparison.of_model(model) if (cells := row(entry)) is not None]
        for model in comparison.models
    ]
    return [group for group in groups if group]


def _entry_cells(entry: Entry) -> list[Cell]:
    return [
        Cell(model_title(entry.model), (entry.model,)),
        Cell(strategy_title(entry.strategy), (entry.strategy,)),
    ]


def _seeds_cell(entry: Entry) -> Cell:
    seeds = ' '.join(str(run.identity.seed) for run in entry.runs if run.identity.seed is not None)
    return Cell(str(len(entry.runs)), (seeds or len(entry.runs),))


def _score_column(score: str) -> Column:
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


def _score_cell(
    comparison: Comparison, entry: Entry, score: str, best: float | None = None
) -> Cell:
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


def _best(entries: Sequence[Entry], score: str) -> float | None:
    return round(max(entry.mean(score) for entry in entries), 2) if len(entries) > 1 else None


def _difference_cell(difference: Difference, score: str) -> Cell:
    interval, deviation = difference.intervals[score], difference.deviations[score]
    text = signed(interval.mean) + ('' if deviation is None else f' ± {deviation:.2f}')
    bounds = f'[{signed(interval.low)}, {signed(interval.high)}]'
    return Cell(
        text,
        (*interval, deviation),
        bounds,
        tone=tone_of(interval.mean) if interval.low * interval.high > 0 else '',
    )


def _p_cell(p_value: float) -> Cell:
    return Cell(p_text(p_value), (p_value,), bold=p_value < SIGNIFICANT)


def _plain_difference(found: Difference | None, score: str) -> Cell:
    if found is None:
        return Cell('-', (None,))
    mean = found.intervals[score].mean
    return Cell(signed(mean), (mean,), tone=tone_of(mean))


def _against(difference: Difference) -> str:
    reference = difference.reference
    title = strategy_title(reference.strategy)
    return (
        title
        if reference.model == difference.entry.model
        else f'{model_title(reference.model)}, {title}'
    )


def reference_title(reference: Reference) -> str:
    """``origin``, or ``FC-EF, origin`` where all are compared with one run."""
    model, slash, strategy = reference.name.rpartition('/')
    return (
        f'{model_title(model)}, {strategy_title(strategy)}' if slash else strategy_title(strategy)
    )


def reference_words(reference: Reference) -> str:
    """The same within a sentence."""
    title = reference_title(reference)
    return title if '/' in reference.name else f'{title} of the same model'


def _published_columns(
    comparison: Comparison, published: Published, scores: Sequence[str] = ('mIoU', 'mFscore')
) -> list[Column]:
    if not any(
        published_scores(published.dataset, entry.model, entry.strategy)
        for entry in comparison.entries
    ):
        return []
    title = f'published, {published.dataset}'
    return [
        Column(f'{score} {title}', (f'{score}_published_{published.dataset}',)) for score in scores
    ]


def _published_cells(
    entry: Entry, published: Published, scores: Sequence[str], columns: Sequence[Column]
) -> list[Cell]:
    """One for each of the columns, if there are any."""
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
