"""CAR thresholds, and with them the number of teachers: proposed from the training labels, chosen
by the validation score."""

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process

from mtkd_cd.analysis.car_stats import propose_for, split_labels
from mtkd_cd.core.car import DEFAULT_THRESHOLDS, THRESHOLD_RULES, CARPartition
from mtkd_cd.core.strategy import BEST, Strategy
from mtkd_cd.core.text import format_markdown_table
from mtkd_cd.data.car_index import cars_of_data_infos
from mtkd_cd.engine.open_data import open_training_data
from mtkd_cd.engine.record import write_json
from mtkd_cd.evaluation import ImageTable
from mtkd_cd.evaluation.scores import image_scores
from mtkd_cd.evaluation.statistics import paired_difference
from mtkd_cd.recipe.configs import model_name, step_config
from mtkd_cd.recipe.options import RecipeOptions
from mtkd_cd.recipe.run import run_recipe
from mtkd_cd.recipe.steps import Step
from mtkd_cd.recipe.testing import validation_table

PAPER = {2: (0.1,), 3: DEFAULT_THRESHOLDS}  # arXiv:2502.13407, tables 2 and 5, by number of ranges


@dataclass(frozen=True)
class Trial:
    """Thresholds and what came of them.

    Attributes:
        thresholds: Between the CAR ranges.
        sources: Who proposed them: ``paper``, rules of :data:`~mtkd_cd.core.car.THRESHOLD_RULES`.
        score: Mean mIoU over the validation images, in percent.
        difference: ``score`` minus that of the origin.
        low: Lower bound of the 95 % bootstrap interval of the difference, over the images.
        high: Upper bound.
    """

    thresholds: tuple[float, ...]
    sources: tuple[str, ...]
    score: float
    difference: float
    low: float
    high: float


def candidate_thresholds(
    cfg: Config, num_ranges: Sequence[int]
) -> dict[tuple[float, ...], tuple[str, ...]]:
    """What there is to try: by thresholds, who proposed them.

    Args:
        cfg: The origin's config; the labels that it trains on are looked at, and no others.
        num_ranges: Numbers of ranges, and so of teachers.

    Raises:
        UserError: A pair without a label, or more ranges than the labels have different CARs; what
            is wrong with the data.
    """
    data = open_training_data(cfg)
    infos = [data.get_data_info(index) for index in range(len(data))]
    cars = cars_of_data_infos(infos)
    labels = split_labels('train', [info['seg_map_path'] for info in infos], cars)
    found: dict[tuple[float, ...], tuple[str, ...]] = {}
    for number in num_ranges:
        paper = {'paper': PAPER[number]} if number in PAPER else {}
        for source, thresholds in (paper | propose_for([labels], number)[1]).items():
            found[thresholds] = (*found.get(thresholds, ()), source)
    return found


def search_thresholds(
    model: str,
    options: RecipeOptions,
    num_ranges: Sequence[int] = (2, 3),
    kind: Literal['op', 'mtkd'] = 'mtkd',
) -> list[Trial]:
    """Train specialists, and students, for every candidate, and score them on the validation split.
    The test split is not read.

    What is finished is skipped, what was interrupted goes on. All candidates share the origin.
    Weights stay in the places of the recipe.

    Args:
        model: Name of a benchmark model, or path of the config of an origin.
        options: Of the recipe; ``thresholds`` are the search's own.
        num_ranges: Numbers of ranges to try.
        kind: What is scored, the cascade or the student.

    Returns:
        The trials, best first; among equals the one with fewer ranges. Also in
        ``<work_dir>/report/<model>/thresholds-<kind>.json``.

    Raises:
        UserError: As :func:`candidate_thresholds` and :func:`~mtkd_cd.recipe.run.run_recipe`.
    """
    origin_step = Step(Strategy('origin'), 'train')
    candidates = candidate_thresholds(step_config(origin_step, model, options), num_ranges)
    kinds = ('origin', 'partition', *(('mtkd',) if kind == 'mtkd' else ()))
    trials = []
    for thresholds, sources in candidates.items():
        own = dataclasses.replace(options, thresholds=thresholds)
        run_recipe(model, own, kinds, tests=False)
        origin = _validate(origin_step, model, own)
        table = _validate(Step(own.strategy(kind), 'test'), model, own)
        trials.append(_trial(thresholds, sources, table, origin))
    trials.sort(key=lambda trial: (-trial.score, len(trial.thresholds)))
    if is_main_process():
        write_json(
            options.layout(model_name(model)).report / f'thresholds-{kind}.json',
            [dataclasses.asdict(trial) for trial in trials],
        )
    barrier()
    return trials


def _validate(step: Step, model: str, options: RecipeOptions) -> ImageTable:
    place, cfg = step.place(options.layout(model_name(model))), step_config(step, model, options)
    return validation_table(cfg, place / 'validation', step.strategy, place / BEST)


def _trial(
    thresholds: tuple[float, ...], sources: tuple[str, ...], table: ImageTable, origin: ImageTable
) -> Trial:
    scores, reference = (
        dict(zip(one.files, image_scores(one.counts, one.zero_division)['mIoU']))
        for one in (table, origin)
    )
    paired = paired_difference(list(scores.values()), [reference[file] for file in scores])
    return Trial(
        thresholds, sources, table.means()['mIoU'], paired.difference, paired.low, paired.high
    )


def search_text(trials: Sequence[Trial], model: str, options: RecipeOptions, kind: str) -> str:
    """Write the table of the trials, the command that goes on with the best, and the lines that set
    the best in a config of one's own."""
    rows = [
        [
            str(CARPartition(trial.thresholds)),
            ', '.join(THRESHOLD_RULES.get(source, source) for source in trial.sources),  # type: ignore[call-overload]
            f'{trial.score:.2f}',
            f'{trial.difference:+.2f} [{trial.low:+.2f}, {trial.high:+.2f}]',
        ]
        for trial in trials
    ]
    best = dataclasses.replace(options, thresholds=trials[0].thresholds)
    # Variants have places of their own: lines without the paths would find the default's
    # specialists.
    files = best.layout(model_name(model)).checkpoints(best.strategy(kind))
    paths = ''.join(f'        {name}={path!r},\n' for name, path in files.items())
    lines = [
        f'{model}, {kind}: mIoU on the validation split in percent, and '
        'difference to the origin with its 95 % bootstrap interval.\n',
        format_markdown_table(['CAR ranges', 'proposed by', 'mIoU', 'to the origin'], rows),
        '\nThe best, trained and tested:',
        f'mtkd-cd recipe {shlex.quote(model)} --thresholds '
        f'{" ".join(map(repr, trials[0].thresholds))}   # and the other options as here',
    ]
    if model == model_name(model):  # of another config nobody has written configs/<kind>
        lines += [
            f'or in a config derived from configs/{kind}/{model}.py:',
            f'model = dict(\n    thresholds={trials[0].thresholds},\n'
            f'    checkpoints=dict(\n        _delete_=True,\n{paths}    ),\n)',
        ]
    return '\n'.join(lines)
