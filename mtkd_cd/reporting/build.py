"""From numbers to a report: which tables and figures it has, in which order, and what it says in
words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtkd_cd.core.strategy import strategy_in, strategy_title
from mtkd_cd.core.text import counted, percent_text
from mtkd_cd.paper.published import model_title, published_dataset, published_scores
from mtkd_cd.reporting import figures
from mtkd_cd.reporting.cascade_figures import cascade_figures
from mtkd_cd.reporting.cascade_tables import cascades_table, confusion_table
from mtkd_cd.reporting.comparison import Comparison, Difference, Entry, Reference
from mtkd_cd.reporting.curves import Curve
from mtkd_cd.reporting.document import ComparisonReport, ImageCard, Section
from mtkd_cd.reporting.failure import CascadeAnalysis, analyse_cascades
from mtkd_cd.reporting.score_tables import (
    bins_table,
    classes_table,
    differences_table,
    images_table,
    models_table,
    scores_table,
    teachers_table,
)
from mtkd_cd.reporting.table_formats import Table
from mtkd_cd.reporting.wording import (
    SIGNIFICANT,
    Published,
    against,
    p_text,
    plain,
    reference_title,
    signed,
)

if TYPE_CHECKING:
    from mtkd_cd.reporting.thumbnails import Scene


@dataclass(frozen=True)
class Pictures:
    """What is known of the images besides their scores.

    Attributes:
        scenes: Files by image name, see :func:`~mtkd_cd.reporting.thumbnails.check_scenes`; empty
            for no thumbnails.
        cars: (N,) CARs of each split of the data set.
        predictions: Folder of the predictions of an entry.
    """

    scenes: Mapping[str, 'Scene'] = field(default_factory=dict)
    cars: Mapping[str, np.ndarray] = field(default_factory=dict)
    predictions: Mapping[Entry, Path] = field(default_factory=dict)


def build_report(
    comparison: Comparison,
    pictures: Pictures = Pictures(),
    dataset: str | None = None,
    num_images: int = 5,
    ignored: Sequence[tuple[Path, str]] = (),
    num_dropped: int = 0,
    curves: Sequence[Curve] = (),
) -> ComparisonReport:
    """Put a report together.

    Args:
        comparison: The numbers.
        pictures: Of the images.
        dataset: What the evaluated data set is called.
        num_images: How many images that gained and that lost most are listed, for each difference.
        ignored: Files that were left out, and why.
        num_dropped: Images that not all runs have and that were left out.
        curves: Validation curves of the trainings behind the runs.

    Raises:
        UserError: A picture is missing or cannot be read.
    """
    pixels = {int(count) for count in comparison.entries[0].runs[0].table.counts.sum(1)}
    published = Published(
        *published_dataset(dataset, len(comparison.files), pixels.pop() if len(pixels) == 1 else 0)
    )
    analyses = analyse_cascades(comparison)
    sections = [
        _scores_section(comparison, published),
        *_difference_sections(comparison),
        _classes_section(comparison, published),
        _cars_section(comparison),
        _distribution_section(comparison, pictures.cars),
        *_cascade_sections(analyses),
        *_image_sections(comparison, pictures, num_images),
        *_training_sections(comparison, curves),
    ]
    num_runs = sum(len(entry.runs) for entry in comparison.entries)
    facts = [
        counted(num_runs, 'run'),
        counted(len(comparison.models), 'model'),
        counted(len(comparison.strategies), 'strategy', 'strategies'),
        f'seeds {", ".join(map(str, comparison.seeds))}' if len(comparison.seeds) > 1 else '',
        counted(len(comparison.files), 'image')
        + (f' ({num_dropped} left out that not all runs have)' if num_dropped else ''),
        f'CAR ranges {comparison.partition}',
    ]
    sources = {
        'Tables read': [
            f'{run.identity}: {run.path}' for entry in comparison.entries for run in entry.runs
        ]
    }
    if ignored:
        sources['Files left out'] = [f'{path}: {reason}' for path, reason in ignored]
    return ComparisonReport(
        title='Comparison of runs' + (f' on {dataset}' if dataset else ''),
        facts=' · '.join(filter(None, facts)),
        summary=_summary(comparison),
        notes=_notes(comparison, published, dataset, analyses),
        sections=sections,
        sources=sources,
    )


def _scores_section(comparison: Comparison, published: Published) -> Section:
    tables = [
        scores_table(comparison, published),
        teachers_table(comparison),
        models_table(comparison),
    ]
    return Section(
        'scores',
        'Scores',
        (),
        [figures.overview(comparison, published)],
        [table for table in tables if table],
    )


def _difference_sections(comparison: Comparison) -> list[Section]:
    sections = []
    for reference in comparison.references:
        if not reference.differences:
            continue
        name, words = f'differences_{plain(reference.name)}', reference_title(reference)
        picture = figures.differences(comparison, reference, name, words)
        table = differences_table(comparison, reference, name)
        sections.append(
            Section(name, f'Differences to {words}', (), [picture] if picture else [], [table])
        )
    return sections


def _classes_section(comparison: Comparison, published: Published) -> Section:
    return Section(
        'classes', 'Changed and unchanged pixels', (), (), [classes_table(comparison, published)]
    )


def _cars_section(comparison: Comparison) -> Section:
    quantiles, ranges = comparison.quantiles, comparison.ranges
    pictures = [
        figures.car_curves(comparison, model, quantiles, 'car_quantiles', 'mIoU in bins of CAR')
        for model in comparison.models
    ]
    pictures += [
        figures.car_curves(comparison, model, ranges, 'car_ranges', 'mIoU over CAR ranges')
        for model in comparison.models
    ]
    tables = [
        bins_table(
            comparison,
            quantiles,
            'car_quantiles',
            f'mIoU in {len(quantiles)} bins of equally many images',
        ),
        bins_table(comparison, ranges, 'car_ranges', 'mIoU in the CAR ranges'),
    ]
    return Section('car', 'mIoU over CAR', (), pictures, tables)


def _distribution_section(comparison: Comparison, cars: Mapping[str, np.ndarray]) -> Section:
    splits = dict(cars) or {'evaluated images': comparison.cars}
    return Section(
        'distribution',
        'CAR distribution',
        (),
        [figures.car_distribution(splits, comparison.partition)],
    )


def _cascade_sections(analyses: Sequence[CascadeAnalysis]) -> list[Section]:
    if not analyses:
        return []
    text = (
        'O-P lets the origin predict first, and the CAR of that coarse prediction picks the '
        'specialist that predicts again. A wrong range '
        'is a wrong specialist.'
    )
    pictures = [picture for analysis in analyses for picture in cascade_figures(analysis)]
    tables: list[Table] = [cascades_table(analyses), *map(confusion_table, analyses)]
    return [Section('cascades', 'When O-P fails', [text], pictures, tables)]


def _training_sections(comparison: Comparison, curves: Sequence[Curve]) -> list[Section]:
    if not curves:
        return []
    text = (
        'Scores on the validation split while training. The weights that were tested are '
        'those of the best validation.'
    )
    pictures = [
        figures.training_curves(comparison, model, own)
        for model in comparison.models
        if (own := [c for c in curves if c.model == model])
    ]
    return [Section('training', 'Training', [text], pictures)]


def _image_sections(comparison: Comparison, pictures: Pictures, num_images: int) -> list[Section]:
    reference = comparison.references[0]
    extremes = {
        difference: rows
        for difference in reference.differences.values()
        if (rows := _extremes(difference.by_image, num_images))
    }
    if not extremes:
        return []
    cards = {}
    for found, rows in extremes.items() if pictures.scenes else ():
        strategies = [strategy_title(side.strategy) for side in (found.entry, found.reference)]
        heading = f'{model_title(found.entry.model)}, {" against ".join(strategies)}'
        cards[heading] = [_card(comparison, found, row, pictures) for row in rows]
    legend = (
        'Predictions are drawn as errors: white = hit, red = missed, blue = false alarm.'
        if pictures.predictions
        else ''
    )
    if legend and any(len(entry.runs) > 1 for entry in comparison.entries):
        legend += ' Scores are averages over seeds, predictions those of the folder that was given.'
    table = images_table(comparison, extremes)
    return [
        Section(
            'images',
            'Images that gained and lost most',
            [legend] if legend else (),
            (),
            [table],
            cards,
        )
    ]


def _extremes(by_image: np.ndarray, num_images: int) -> list[int]:
    """Rows of the images that gained most, then of those that lost most, largest gain first."""
    order = np.argsort(-by_image, kind='stable')
    gained = [int(row) for row in order[:num_images] if by_image[row] > 0]
    last = order[max(0, len(order) - num_images) :]
    return gained + [int(row) for row in last if by_image[row] < 0]


def _card(comparison: Comparison, found: Difference, row: int, pictures: Pictures) -> ImageCard:
    from mtkd_cd.reporting.thumbnails import prediction_thumbnail, scene_thumbnails

    file, change, score = comparison.files[row], found.by_image[row], found.scores[row]
    scene = pictures.scenes[file]
    tiles = scene_thumbnails(scene)
    for entry in (found.reference, found.entry):
        if folder := pictures.predictions.get(entry):
            tile = prediction_thumbnail(strategy_title(entry.strategy), folder, file, scene)
            tiles += [tile] if tile else []
    text = (
        f'CAR {percent_text(comparison.cars[row])} · mIoU {score - change:.1f} → '
        f'{score:.1f} ({signed(change, 1)})'
    )
    return ImageCard(file, text, 'gain' if change > 0 else 'loss', tiles)


def _summary(comparison: Comparison) -> list[str]:
    reference = comparison.references[0]
    if len(comparison.models) == 1 or len(reference.differences) <= 3:
        return [_sentence(found, comparison) for found in reference.differences.values()]
    lines = []
    for strategy in comparison.strategies:
        found = [
            found for found in reference.differences.values() if found.entry.strategy == strategy
        ]
        if found:
            lines.append(_count_sentence(strategy, found, reference))
    return lines


def _sentence(found: Difference, comparison: Comparison) -> str:
    interval, p_value = found.intervals['mIoU'], found.p_values['mIoU']
    p_words = (
        f'p {p_text(p_value)}' if p_text(p_value).startswith('<') else f'p = {p_text(p_value)}'
    )
    verdict = (
        'a difference'
        if p_value < SIGNIFICANT
        else 'no difference that the test can tell from chance'
    )
    model = f'{model_title(found.entry.model)}: ' if len(comparison.models) > 1 else ''
    return (
        f'{model}{strategy_title(found.entry.strategy)} against {against(found)}: mIoU '
        f'{signed(interval.mean)} '
        f'[{signed(interval.low)}, {signed(interval.high)}], {p_words}: {verdict}.'
    )


def _count_sentence(strategy: str, found: Sequence[Difference], reference: Reference) -> str:
    means = np.array([difference.intervals['mIoU'].mean for difference in found])
    sure = np.array([difference.adjusted < SIGNIFICANT for difference in found])
    return (
        f'{strategy_title(strategy)} against {reference_title(reference)}: higher mIoU in '
        f'{(means > 0).sum()} of {len(found)} models '
        f"({(sure & (means > 0)).sum()} of them with p < {SIGNIFICANT} after Holm's correction), "
        f'lower in {(means < 0).sum()} '
        f'({(sure & (means < 0)).sum()}); mean over models {signed(float(means.mean()))}.'
    )


def _notes(
    comparison: Comparison,
    published: Published,
    dataset: str | None,
    analyses: Sequence[CascadeAnalysis],
) -> list[str]:
    notes = []
    known = [
        entry
        for entry in comparison.entries
        if published_scores(published.dataset, entry.model, entry.strategy)
    ]
    if known and not published.same:
        notes.append(
            f'Published figures (arXiv:2502.13407) are of the test set of {published.dataset}, '
            'another data set than the one evaluated '
            'here: compare differences between strategies, not levels.'
        )
    elif known and dataset is None:
        notes.append(
            'The evaluated images are as many and as large as the test set of '
            f'{published.dataset}, so the published figures are shown as '
            'figures of the same images. If they are others, say so with --dataset NAME.'
        )
    for reference in comparison.references:
        for entry in reference.strays:
            notes.append(
                f'{entry} has no run {reference.name} to compare with: its differences are to '
                f'{comparison.entries[0]}.'
            )
    counts = Counter(len(entry.runs) for entry in comparison.entries)
    if len(counts) > 1:
        words = ', '.join(
            f'{number} runs of {seeds} seed{"s"[: seeds > 1]}'
            for seeds, number in sorted(counts.items())
        )
        notes.append(
            f'Not all runs have equally many seeds: {words}. Differences use the seeds that both '
            'sides have.'
        )
    analysed = {analysis.entry for analysis in analyses}
    for entry in comparison.entries:
        strategy = strategy_in(entry.strategy)
        if strategy is not None and strategy.kind == 'op' and entry not in analysed:
            notes.append(
                f'{entry} is not in the analysis of O-P: its tables hold no coarse_car and '
                'coarse_range.'
            )
    for analysis in analyses:
        if analysis.follows < 1:
            notes.append(
                f'{analysis.entry}: {1 - analysis.follows:.0%} of the images were sent elsewhere '
                f'than the ranges {analysis.partition} send '
                'their coarse CAR. Either a validation split chose its routing, or it used other '
                'thresholds: then give --thresholds.'
            )
    return notes
