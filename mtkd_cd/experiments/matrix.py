"""An experiment: models x seeds x strategies, as jobs of one model and seed each, and one table
that accounts for every cell."""

import csv
import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.locks import alone
from mtkd_cd.core.strategies import strategy_title
from mtkd_cd.core.text import format_markdown_table
from mtkd_cd.engine import config as adjust
from mtkd_cd.engine.record import write_json
from mtkd_cd.evaluation import load_table
from mtkd_cd.evaluation.scores import MEAN_NAMES
from mtkd_cd.experiments.jobs import Cluster, Job, Outcome, last_lines, run_jobs
from mtkd_cd.recipe.stages import (
    OPTIONAL_STAGES,
    STAGES,
    RecipeOptions,
    Step,
    is_tested,
    is_trained,
    recipe,
    run_recipe,
    step_config,
)
from mtkd_cd.recipe.variant import Variant, parse_strategy

STRATEGIES = tuple(stage for stage in (*STAGES, *OPTIONAL_STAGES) if stage != 'partition')
REFERENCES = ('origin', 'continued')
# What an experiment may say about a run, for all models or for one.
RUN_SETTINGS = (
    *(
        'data_root',
        'dataset_type',
        'iters',
        'specialist_iters',
        'specialists_from',
        'student_iters',
        'image_size',
        'crop_size',
    ),
    *(
        'batch_size',
        'num_workers',
        'val_interval',
        'lr',
        'loss_weight',
        'amp',
        'device',
        'keep_checkpoints',
        'cfg_options',
    ),
)


@dataclass(frozen=True)
class Experiment:
    """What is run; a settings file holds one.

    Attributes:
        models: Names of the models, each with its own run settings (fields of
            :class:`~mtkd_cd.recipe.stages.RecipeOptions`).
        seeds: A recipe each.
        strategies: ``origin``, ``continued``, ``op``, ``mtkd``, and variants such as ``op@0.1``.
        work_dir: The recipe of a seed works in ``<work_dir>/seed<k>``, the gathered tables are
            ``<work_dir>/matrix.*``.
        settings: Run settings of all models.
        configs: Folder of the configs.

    Raises:
        UserError: Something that is none of these, or nothing to run.
    """

    models: Mapping[str, Mapping[str, Any]]
    configs: Path
    seeds: Sequence[int] = (0, 1, 2)
    strategies: Sequence[str] = ('origin', 'continued', 'op', 'mtkd')
    work_dir: Path = Path(adjust.WORK_DIRS, 'matrix')
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = sorted(path.stem for path in (self.configs / 'origin').glob('*.py'))
        for model, own in self.models.items():
            if model not in known:
                raise UserError(f'unknown model {model!r}: {adjust.closest(model, known)}')
            _check_settings(own, f'models.{model}.')
        _check_settings(self.settings, '')
        for name in self.strategies:
            parse_strategy(name, STRATEGIES)
        if not (self.models and self.seeds and self.strategies):
            raise UserError(
                'an experiment needs models, seeds and strategies: --models changer_mitb0, or a '
                'file --settings'
            )

    @property
    def variants(self) -> dict[Variant, list[str]]:
        """The strategies of each variant; what none has an effect on comes first, with the
        default."""
        found: dict[Variant, list[str]] = {Variant(): []}
        for name in self.strategies:
            found.setdefault(parse_strategy(name, STRATEGIES)[1], []).append(name)
        return {variant: names for variant, names in found.items() if names}

    @property
    def cells(self) -> Iterator[tuple[str, int, str]]:
        """Model, seed and strategy of everything that there has to be in the end."""
        return (
            (model, seed, strategy)
            for model in self.models
            for seed in self.seeds
            for strategy in self.strategies
        )

    def options(self, model: str, seed: int, variant: Variant) -> RecipeOptions:
        """The options of a recipe."""
        own: dict[str, Any] = {**self.settings, **self.models[model]}
        own['cfg_options'] = {
            **self.settings.get('cfg_options', {}),
            **self.models[model].get('cfg_options', {}),
        }
        own.setdefault('keep_checkpoints', False)
        own |= dict(seed=seed, thresholds=variant.thresholds, routing=variant.routing)
        return RecipeOptions(configs=self.configs, work_dir=self.seed_dir(seed), **own)

    def seed_dir(self, seed: int) -> Path:
        """Where the recipes of a seed work."""
        return self.work_dir / f'seed{seed}'

    def table(self, model: str, seed: int, strategy: str) -> Path:
        """The per-image table of a cell."""
        return self.seed_dir(seed) / 'report' / model / f'{strategy}.csv'


def read_experiment(path: Path | None, configs: Path, overrides: Mapping[str, Any]) -> Experiment:
    """The experiment of a settings file, as the command line changes it.

    Args:
        path: A config file with ``models`` (a dict of dicts), ``seeds``, ``strategies``,
            ``work_dir`` and run settings of all models; ``None`` for none.
        configs: Folder of the configs.
        overrides: Entries of the same names; ``models`` is a list that picks from those of the
            file, or names others. Run settings here go before those of the file, a model's own
            included.

    Raises:
        UserError: No such file, or an entry that means nothing.
    """
    content = dict(adjust.load_config(path)._cfg_dict.to_dict()) if path else {}
    chosen = dict(overrides)
    models = content.pop('models', {})
    if not isinstance(models, Mapping):
        raise UserError(f'{path}: models is a dict of name=dict(iters=..., ...), found {models!r}')
    models = {name: models.get(name, {}) for name in chosen.pop('models', None) or models}
    parts = {
        key: chosen.pop(key, None) or content.pop(key, None)
        for key in ('seeds', 'strategies', 'work_dir')
    }
    for key in parts:
        content.pop(key, None)
    models = {name: {**own, **_merged(own, chosen)} for name, own in models.items()}
    if parts['work_dir']:
        parts['work_dir'] = Path(parts['work_dir'])
    return Experiment(
        models,
        configs,
        settings={**content, **_merged(content, chosen)},
        **{k: v for k, v in parts.items() if v},
    )


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    options = {**below.get('cfg_options', {}), **above.get('cfg_options', {})}
    return {**above, 'cfg_options': options} if options else dict(above)


def _check_settings(settings: Mapping[str, Any], prefix: str) -> None:
    for key in settings:
        if key not in RUN_SETTINGS:
            raise UserError(
                f'{prefix}{key} is no setting of an experiment: {adjust.closest(key, RUN_SETTINGS)}'
            )


def run_recipes(experiment: Experiment, model: str, seed: int) -> None:
    """One job: the recipes of a model and a seed, variant after variant; what is finished is
    skipped."""
    with alone(experiment.seed_dir(seed) / f'.{model}.lock'):
        for variant, strategies in experiment.variants.items():
            stages = {parse_strategy(name, STRATEGIES)[0] for name in strategies} | {'origin'}
            if stages & {'op', 'mtkd'}:
                stages.add('partition')
            run_recipe(model, experiment.options(model, seed, variant), tuple(stages))


def run_matrix(experiment: Experiment, cluster: Cluster, retries: int = 1) -> 'Matrix':
    """Run what is not finished yet; gather after every job.

    Args:
        experiment: What to run.
        cluster: Where.
        retries: How many times a killed or failed job is started again.

    Returns:
        The table of everything, also in ``<work_dir>/matrix.md``, ``.csv`` and ``.json``.
    """
    matrix = gather(experiment)
    open_pairs = dict.fromkeys(
        (cell.seed, cell.model) for cell in matrix.cells if cell.state != 'done'
    )
    order = [
        (seed, model)
        for seed in experiment.seeds
        for model in experiment.models
        if (seed, model) in open_pairs
    ]
    jobs = {
        Job(f'{model}, seed {seed}', run_recipes, (experiment, model, seed)): (model, seed)
        for seed, model in order
    }
    failures: dict[tuple[str, int], str] = {}

    def ended(job: Job, outcome: Outcome) -> None:
        nonlocal matrix
        if outcome.error is not None:
            failures[jobs[job]] = f'{last_lines(outcome.error)} (log: {outcome.log})'
        matrix = gather(experiment, failures)
        print(
            f'{job.name}: {"done" if outcome.error is None else "failed: " + failures[jobs[job]]}; '
            f'{matrix.progress}',
            flush=True,
        )

    run_jobs(list(jobs), cluster, retries, ended)
    return matrix


@dataclass(frozen=True)
class Cell:
    """One model, seed and strategy.

    Attributes:
        model: Name of the model.
        strategy: Name of the strategy.
        seed: The seed.
        state: ``done``, ``failed`` or ``not run``.
        why: Of a failure.
        scores: Per-image averages in percent, where it is done.
    """

    model: str
    strategy: str
    seed: int
    state: str
    why: str = ''
    scores: Mapping[str, float] = field(default_factory=dict)


def gather(
    experiment: Experiment, failures: Mapping[tuple[str, int], str] | None = None
) -> 'Matrix':
    """Look what there is of every cell, with the experiment's settings, and write the table.

    Args:
        experiment: What there has to be.
        failures: What went wrong with the job of a model and seed.
    """
    matrix = Matrix([_cell(experiment, *key, failures or {}) for key in experiment.cells])
    matrix.write(experiment.work_dir)
    return matrix


def _cell(
    experiment: Experiment,
    model: str,
    seed: int,
    strategy: str,
    failures: Mapping[tuple[str, int], str],
) -> Cell:
    stage, variant = parse_strategy(strategy, STRATEGIES)
    steps = [step for step in recipe(variant) if step.stage == stage]
    table = experiment.table(model, seed, strategy)
    why = failures.get((model, seed), '')
    if table.is_file():
        try:
            if all(
                _is_done(step, model, experiment.options(model, seed, variant), table)
                for step in steps
            ):
                return Cell(model, strategy, seed, 'done', scores=load_table(table).means())
        except UserError as error:
            why = why or str(error)
    return Cell(model, strategy, seed, 'failed' if why else 'not run', why)


def _is_done(step: Step, model: str, options: RecipeOptions, table: Path) -> bool:
    cfg = step_config(step, model, options)
    return is_trained(cfg) if step.action == 'train' else is_tested(cfg, table)


@dataclass(frozen=True)
class Matrix:
    """What there is of an experiment."""

    cells: Sequence[Cell]

    @property
    def complete(self) -> bool:
        """Whether every cell is done."""
        return all(cell.state == 'done' for cell in self.cells)

    @property
    def progress(self) -> str:
        """How many cells are done."""
        return f'{sum(cell.state == "done" for cell in self.cells)} of {len(self.cells)} cells done'

    def summary(self) -> list[dict[str, Any]]:
        """Per model and strategy: number of seeds; of each score, the mean and standard deviation
        over seeds; and those of its
        differences to the origin and to the control, seed by seed."""
        done = {
            (cell.model, cell.strategy, cell.seed): cell.scores
            for cell in self.cells
            if cell.state == 'done'
        }
        rows = []
        for model, strategy in dict.fromkeys((cell.model, cell.strategy) for cell in self.cells):
            seeds = [seed for name, other, seed in done if (name, other) == (model, strategy)]
            row: dict[str, Any] = dict(model=model, strategy=strategy, seeds=len(seeds))
            for column in MEAN_NAMES:
                row[column] = _spread([done[model, strategy, seed][column] for seed in seeds])
                for reference in REFERENCES:
                    paired = [
                        seed
                        for seed in seeds
                        if (model, reference, seed) in done and strategy != reference
                    ]
                    differences = [
                        done[model, strategy, seed][column] - done[model, reference, seed][column]
                        for seed in paired
                    ]
                    row[f'{column} - {reference}'] = _spread(differences)
            rows.append(row)
        return rows

    def as_markdown(self) -> str:
        """The tables as text."""
        wanted = len({cell.seed for cell in self.cells})
        lines = [
            'Per-image averages on the test data in percent: mean ± standard deviation over seeds. '
            'Differences are of the same seed.'
        ]
        lines.append('')
        header = [
            'model',
            'strategy',
            'seeds',
            *MEAN_NAMES,
            *(f'mIoU - {reference}' for reference in REFERENCES),
        ]
        rows = [
            [row['model'], strategy_title(row['strategy']), f'{row["seeds"]}/{wanted}']
            + [_text(row[column], '.2f') for column in MEAN_NAMES]
            + [_text(row[f'mIoU - {reference}'], '+.2f') for reference in REFERENCES]
            for row in self.summary()
        ]
        lines += [format_markdown_table(header, rows), '', self.progress]
        missing = [
            [c.model, c.strategy, str(c.seed), c.state, ' '.join(c.why.split())]
            for c in self.cells
            if c.state != 'done'
        ]
        if missing:
            lines += [
                '',
                format_markdown_table(['model', 'strategy', 'seed', 'state', 'why'], missing),
            ]
        return '\n'.join(lines) + '\n'

    def write(self, folder: Path) -> None:
        """Write ``matrix.md``, ``matrix.csv`` (a row per cell) and ``matrix.json`` (both)."""
        with atomic_write(folder / 'matrix.md') as file:
            file.write(self.as_markdown())
        columns = [f.name for f in dataclasses.fields(Cell) if f.name != 'scores']
        with atomic_write(folder / 'matrix.csv') as file:
            writer = csv.DictWriter(
                file, [*columns, *MEAN_NAMES], lineterminator='\n', extrasaction='ignore'
            )
            writer.writeheader()
            writer.writerows({**dataclasses.asdict(cell), **cell.scores} for cell in self.cells)
        write_json(
            folder / 'matrix.json',
            dict(cells=[dataclasses.asdict(cell) for cell in self.cells], summary=self.summary()),
        )


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, and standard deviation where there are two values."""
    if not values:
        return None
    return (
        dict(mean=statistics.fmean(values), std=statistics.stdev(values))
        if len(values) > 1
        else dict(mean=values[0])
    )


def _text(spread: Mapping[str, float] | None, form: str) -> str:
    if spread is None:
        return ''
    return format(spread['mean'], form) + (f' ± {spread["std"]:.2f}' if 'std' in spread else '')
