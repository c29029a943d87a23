"""The tables of a report: scores, differences, classes, teachers, bins of CAR, images."""

import itertools
from collections.abc import Mapping, Sequence

from mtkd_cd.core.strategy import strategy_in, strategy_title
from mtkd_cd.core.text import percent_text
from mtkd_cd.evaluation.scores import CLASSES, MEAN_NAMES, SCORE_NAMES
from mtkd_cd.paper.published import JL1_CD, SYSU_CD, published_models
from mtkd_cd.reporting.cells import (
    ENTRY_COLUMNS,
    best_score,
    by_model,
    difference_cell,
    entry_cells,
    gain_cell,
    p_cell,
    plain_difference,
    published_cells,
    published_columns,
    score_cell,
    score_column,
)
from mtkd_cd.reporting.comparison import Bin, Comparison, Difference, Entry, Reference
from mtkd_cd.reporting.table_formats import Cell, Column, Row, Table, text_cell
from mtkd_cd.reporting.wording import (
    SIGNIFICANT,
    Published,
    against,
    level_text,
    reference_title,
    reference_words,
    signed,
    tone_of,
)


def scores_table(comparison: Comparison, published: Published) -> Table:
    """All models and strategies, as the paper's Table 2."""
    printed = published_columns(comparison, published)
    columns = [
        *ENTRY_COLUMNS,
        Column('Seeds', ('seeds',)),
        *map(score_column, MEAN_NAMES),
        *printed,
    ]
    best = {
        (model, score): best_score(comparison.of_model(model), score)
        for model in comparison.models
        for score in MEAN_NAMES
    }

    def row(entry: Entry) -> Row:
        scores = [
            score_cell(comparison, entry, score, best[entry.model, score]) for score in MEAN_NAMES
        ]
        return [
            *entry_cells(entry),
            _seeds_cell(entry),
            *scores,
            *published_cells(entry, published, ('mIoU', 'mFscore'), printed),
        ]

    return Table(
        'scores',
        'Scores',
        _score_caption(comparison, published if printed else None),
        columns,
        by_model(comparison, row),
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


def _seeds_cell(entry: Entry) -> Cell:
    seeds = ' '.join(str(run.identity.seed) for run in entry.runs if run.identity.seed is not None)
    return Cell(str(len(entry.runs)), (seeds or len(entry.runs),))


def differences_table(comparison: Comparison, reference: Reference, name: str) -> Table:
    """Every difference to a reference with interval and test."""
    level = level_text(comparison)
    columns = [
        *ENTRY_COLUMNS,
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
            *entry_cells(entry),
            Cell(against(difference), (str(difference.reference),)),
            *(
                cell
                for score in ('mIoU', 'mFscore')
                for cell in (
                    difference_cell(difference, score),
                    p_cell(difference.p_values[score]),
                )
            ),
            p_cell(difference.adjusted),
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
        by_model(comparison, row),
        2,
    )


def _difference_columns(score: str, level: str) -> list[Column]:
    parts = ('difference', 'low', 'high', 'deviation_over_seeds')
    return [
        Column(f'Δ {score} [{level}]', tuple(f'{score}_{part}' for part in parts)),
        Column(f'p {score}', (f'p_{score}',)),
    ]


def classes_table(comparison: Comparison, published: Published) -> Table:
    """Both classes of all models and strategies, as the paper's Tables 4 and 7."""
    reference = comparison.references[0]
    printed = published_columns(comparison, published, ('IoU', 'Fscore'))
    columns = [
        *ENTRY_COLUMNS,
        Column('Class', ('class',), 'left'),
        *map(score_column, SCORE_NAMES),
        *printed,
    ]

    def row(entry: Entry, name: str) -> Row:
        scores = [f'{score}_{name}' for score in SCORE_NAMES]
        of_paper = [f'{score}_{name}' for score in ('IoU', 'Fscore')]
        return [
            *entry_cells(entry),
            text_cell(name),
            *(score_cell(comparison, entry, score) for score in scores),
            *published_cells(entry, published, of_paper, printed),
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
        dataset: published_columns(comparison, Published(dataset, False))
        for dataset in (JL1_CD, SYSU_CD)
    }
    differences = [
        Column(f'{name} Δ {score}', (f'{score}_{name}_difference',)) for score, name in by_class
    ]
    columns = [
        *ENTRY_COLUMNS,
        Column('Teachers', ('teachers',)),
        *map(score_column, MEAN_NAMES),
        *differences,
        *itertools.chain(*printed.values()),
    ]

    def row(entry: Entry) -> Row:
        strategy = strategy_in(entry.strategy)
        teachers = strategy.num_teachers if strategy else None
        found = reference.differences.get(entry)
        return [
            *entry_cells(entry),
            Cell('-' if teachers is None else str(teachers), (teachers,)),
            *(score_cell(comparison, entry, score) for score in MEAN_NAMES),
            *(plain_difference(found, f'{score}_{name}') for score, name in by_class),
            *(
                cell
                for dataset, columns_of_set in printed.items()
                for cell in published_cells(
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
    return Table('teachers', 'Number of teachers', caption, columns, by_model(comparison, row), 2)


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
        *ENTRY_COLUMNS,
        *(
            Column(
                f'{_bin_words(car_bin, comparison)} ({len(car_bin.rows)})',
                (f'mIoU_{car_bin.name}', f'mIoU_{car_bin.name}_difference'),
            )
            for car_bin in bins
        ),
    ]

    def row(entry: Entry) -> Row:
        return [*entry_cells(entry), *(_bin_cell(entry, car_bin, reference) for car_bin in bins)]

    caption = (
        'mIoU in percent by the CAR of the label (in brackets: images); behind it the '
        f'difference to {reference_words(reference)}.'
    )
    return Table(name, title, caption, columns, by_model(comparison, row), 2)


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


def images_table(comparison: Comparison, extremes: Mapping[Difference, Sequence[int]]) -> Table:
    """The images that gained and lost most.

    Args:
        comparison: The numbers.
        extremes: Of each difference the positions of its images, largest gain first.
    """
    reference = comparison.references[0]
    columns = [
        *ENTRY_COLUMNS,
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
        *entry_cells(difference.entry),
        text_cell(comparison.files[row]),
        Cell(percent_text(comparison.cars[row]), (float(comparison.cars[row]),)),
        Cell(f'{score - change:.2f}', (score - change,)),
        Cell(f'{score:.2f}', (score,)),
        gain_cell(change),
    ]
