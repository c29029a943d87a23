"""An experiment: models x seeds x strategies, as jobs of one model and seed each, and one table
that accounts for every cell."""

import csv
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.jobs import Cluster, Job, Outcome, last_lines, run_jobs
from mtkd_cd.core.locks import alone
from mtkd_cd.core.strategy import TESTED_KINDS, WORK_DIRS, Layout, Strategy, of_each_fold
from mtkd_cd.core.text import closest, csv_row
from mtkd_cd.engine.config import load_config
from mtkd_cd.engine.record import check_settings, read_record, settings_of, write_json
from mtkd_cd.evaluation import load_table, mean_and_deviation
from mtkd_cd.evaluation.scores import MEAN_NAMES
from mtkd_cd.experiments import budget
from mtkd_cd.recipe.configs import step_config
from mtkd_cd.recipe.options import RecipeOptions, option_fields
from mtkd_cd.recipe.run import is_trained, run_recipe
from mtkd_cd.recipe.steps import Step, recipe
from mtkd_cd.recipe.testing import is_tested
from mtkd_cd.reporting.summaries import matrix_markdown

REFERENCES = ('origin', 'continued')
# What an experiment may say about a model, beside the settings of its runs.
OF_MODEL = ('config', 'strategies', 'student_cost')
_LAST_CALL = 35  # seconds before the end of a budget: jobs save, tables are gathered
# What an experiment may say about a run, for all models or for one.
RUN_SETTINGS = tuple(one.name for one in option_fields('run'))


@dataclass(frozen=True)
class Experiment:
    """What is run; a settings file holds one.

    Attributes:
        models: What each model, by name, has of its own: run settings, which are fields of
            :class:`~mtkd_cd.recipe.options.RecipeOptions`; ``config``, the file of that name with
            the origin's config; ``strategies``; ``student_cost``, the time of a student's step
            over that of an origin's.
        seeds: Every model is trained once with each.
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
    work_dir: Path = Path(WORK_DIRS, 'matrix')
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = sorted(path.stem for path in (self.configs / 'origin').glob('*.py'))
        for model, own in self.models.items():
            config = own.get('config')
            if config is None and model not in known:
                raise UserError(f'unknown model {model!r}: {closest(model, known)}')
            if config is not None and not (Path(config).stem == model and Path(config).is_file()):
                raise UserError(f'models.{model}.config={config}: no such file {model}.py')
            _check_settings({k: v for k, v in own.items() if k not in OF_MODEL}, f'models.{model}.')
            for name in self.strategies_of(model):
                Strategy.parse(name, TESTED_KINDS)
        _check_settings(self.settings, '')
        if not (self.models and self.seeds and self.strategies):
            raise UserError(
                'an experiment needs models, seeds and strategies: --models changer_mitb0, or a '
                'file --settings'
            )

    def strategies_of(self, model: str) -> Sequence[str]:
        """What is wanted of a model."""
        return self.models[model].get('strategies') or self.strategies

    def recipe_of(self, model: str) -> str:
        """The model as the recipe takes it: its name, or the file of its origin's config."""
        return self.models[model].get('config') or model

    def variants(self, model: str) -> dict[Strategy, list[str]]:
        """The wanted kinds of strategy, by variant. The key of a variant is its ``mtkd`` strategy.

        Origin and control are the same in every variant, and belong to the default.
        """
        found: dict[Strategy, list[str]] = {Strategy('mtkd'): []}
        for name in self.strategies_of(model):
            strategy = Strategy.parse(name, TESTED_KINDS)
            found.setdefault(strategy.of('mtkd'), []).append(strategy.kind)
        return {variant: kinds for variant, kinds in found.items() if kinds}

    @property
    def cells(self) -> Iterator[tuple[str, int, str]]:
        """Model, seed and strategy of everything that there has to be in the end."""
        return (
            (model, seed, strategy)
            for model in self.models
            for seed in self.seeds
            for strategy in self.strategies_of(model)
        )

    def options(self, model: str, seed: int, variant: Strategy) -> RecipeOptions:
        """The options of a recipe."""
        of_runs = {k: v for k, v in self.models[model].items() if k not in OF_MODEL}
        own: dict[str, Any] = {**self.settings, **of_runs}
        own['cfg_options'] = {
            **self.settings.get('cfg_options', {}),
            **self.models[model].get('cfg_options', {}),
        }
        own.setdefault('keep_checkpoints', False)
        own.setdefault('bundle', False)
        own |= dict(seed=seed, thresholds=variant.thresholds, routing=variant.routing)
        by = variant.teachers
        own['teachers'] = (self.recipe_of(by) if by in self.models else by) or None
        own['match'] = variant.match
        own['folds'] = variant.folds or None
        return RecipeOptions(configs=self.configs, work_dir=self.seed_dir(seed), **own)

    def seed_dir(self, seed: int) -> Path:
        """Where the recipes of a seed work."""
        return self.work_dir / f'seed{seed}'

    def table(self, model: str, seed: int, strategy: str) -> Path:
        """The per-image table of a cell."""
        wanted = Strategy.parse(strategy)
        kind = self.options(model, seed, wanted).tables
        return Layout(model, self.seed_dir(seed)).table(wanted, kind)


def read_experiment(path: Path | None, configs: Path, overrides: Mapping[str, Any]) -> Experiment:
    """The experiment of a settings file, as the command line changes it.

    Args:
        path: A config file with ``models`` (a dict of dicts; ``None`` for a model of ``_base_``
            that is left out), ``seeds``, ``strategies``, ``work_dir`` and run settings of all
            models; ``None`` for none.
        configs: Folder of the configs.
        overrides: Entries of the same names; ``models`` is a list that picks from those of the
            file, or names others. Run settings here go before those of the file, a model's own
            included.

    Raises:
        UserError: No such file, or an entry that means nothing.
    """
    content = load_config(path, needs=()).to_dict() if path else {}
    chosen = dict(overrides)
    models = content.pop('models', {})
    if not isinstance(models, Mapping):
        raise UserError(f'{path}: models is a dict of name=dict(iters=..., ...), found {models!r}')
    models = {name: own for name, own in models.items() if own is not None}
    for own in models.values():
        if path and own.get('config'):
            own['config'] = str(path.parent / own['config'])
        if overrides.get('strategies'):
            own.pop('strategies', None)
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
                f'{prefix}{key} is no setting of an experiment: {closest(key, RUN_SETTINGS)}'
            )


def run_recipes(experiment: Experiment, model: str, seed: int, until: float | None = None) -> None:
    """One job: the recipes of a model and a seed, variant after variant; what is finished is
    skipped. Teachers of another model are waited for until ``until``, a ``time.time()``."""
    with alone(experiment.seed_dir(seed) / f'.{model}.lock'):
        for variant, wanted in experiment.variants(model).items():
            kinds = {'origin', *wanted}
            if kinds & {'op', 'mtkd'}:
                kinds.add('partition')
            options = experiment.options(model, seed, variant)
            if until is not None and variant.teachers:
                _await_teachers(options.layout(model), variant, until)
            run_recipe(experiment.recipe_of(model), options, tuple(kinds))


def _await_teachers(layout: Layout, variant: Strategy, until: float) -> None:
    checkpoints = of_each_fold(layout.checkpoints(variant), variant.folds)
    files = [Path(path) for name, path in checkpoints.items() if name != 'student']
    while time.time() < until:
        if all(file.is_file() and read_record(file.parent).get('finished') for file in files):
            return
        time.sleep(1)


def within(experiment: Experiment, cluster: Cluster, until: float) -> Experiment:
    """The experiment with trainings that end in time, those of a model all shortened alike.

    What was measured and decided is kept in ``<work_dir>/budget.json`` and holds for later calls;
    models that were added since are measured, and theirs end in time.

    Args:
        experiment: With the longest trainings that are wanted.
        cluster: Where it will run.
        until: ``time.time()`` of the end.

    Raises:
        UserError: A model whose job did not get so far as to be measured.
    """
    decided = (budget.read_budget(experiment.work_dir) or {}).get('models', {})
    new = {model: own for model, own in experiment.models.items() if model not in decided}
    if new:
        found = _measure(dataclasses.replace(experiment, models=new), cluster, until)
        found['models'] = {**decided, **found['models']}
        budget.write_budget(experiment.work_dir, found)
    return as_budgeted(experiment)


def as_budgeted(experiment: Experiment) -> Experiment:
    """The experiment with the trainings that a budget has shortened, where there was one."""
    found = budget.read_budget(experiment.work_dir)
    if found is None:
        return experiment
    print(budget.as_text(found), flush=True)
    scales = {model: own['scale'] for model, own in found['models'].items()}
    models = {
        model: budget.scaled(own, scales.get(model, 1.0))
        for model, own in experiment.models.items()
    }
    return dataclasses.replace(experiment, models=models)


def _measure(experiment: Experiment, cluster: Cluster, until: float) -> dict[str, Any]:
    start = time.time()
    places = {
        (model, seed): experiment.work_dir / 'speed' / f'{model}_{seed}'
        for seed in experiment.seeds
        for model in experiment.models
    }
    jobs = []
    for (model, seed), place in places.items():
        options = experiment.options(model, seed, Strategy('mtkd'))
        if budget.read_speed(place) is None:
            arguments = (experiment.recipe_of(model), options, place)
            jobs.append(Job(f'speed of {model}, seed {seed}', budget.measure_speed, arguments))

    def ended(job: Job, outcome: Outcome) -> None:
        if outcome.error:
            print(f'{job.name}: {last_lines(outcome.error)} (log: {outcome.log})', flush=True)

    run_jobs(jobs, cluster, 0, ended, until=until)
    left = max(0.0, until - _LAST_CALL - time.time())
    waves = max(1.0, len(places) / cluster.limit)
    result: dict[str, Any] = {}
    for model, own in experiment.models.items():
        speeds = [budget.read_speed(place) for (name, _), place in places.items() if name == model]
        known = [speed for speed in speeds if speed is not None]
        if not known:
            raise UserError(f'the speed of {model} could not be measured; see the logs above')
        speed = budget.Speed.slowest(known)
        options = experiment.options(model, experiment.seeds[0], Strategy('mtkd'))
        cost = own.get('student_cost', 1.5)
        work = budget.work_of(options, experiment.strategies_of(model), cost)
        scale = work.scale(speed, budget.SHARE * left / waves)
        shorter = budget.scaled(own, scale)
        result[model] = dict(
            **vars(speed),
            scale=scale,
            seconds=work.seconds(speed, scale),
            iterations={key: shorter[key] for key in budget.SCALED if key in shorter},
        )
    return dict(measuring=time.time() - start, left=left, jobs=cluster.limit, models=result)


def run_matrix(
    experiment: Experiment,
    cluster: Cluster,
    retries: int = 1,
    until: float | None = None,
) -> 'Matrix':
    """Run what is not finished yet; gather after every job.

    Args:
        experiment: What to run.
        cluster: Where.
        retries: How many times a killed or failed job is started again.
        until: ``time.time()`` at which everything is to be over. Jobs that are not finished by then
            are asked to save and end; the next call goes on.

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
        Job(f'{model}, seed {seed}', run_recipes, (experiment, model, seed, until)): (model, seed)
        for seed, model in order
    }
    failures: dict[tuple[str, int], str] = {}

    def ended(job: Job, outcome: Outcome) -> None:
        nonlocal matrix
        if outcome.error is not None:
            failures[jobs[job]] = f'{last_lines(outcome.error)} (log: {outcome.log})'
        state = 'done' if outcome.error is None else 'failed: ' + failures[jobs[job]]
        if until is None:
            matrix = gather(experiment, failures)
            state += f'; {matrix.progress}'
        print(f'{job.name}: {state}', flush=True)

    last_call = None if until is None else until - _LAST_CALL
    run_jobs(list(jobs), cluster, retries, ended, until=last_call)
    return matrix if until is None else gather(experiment, failures)


@dataclass(frozen=True)
class MatrixCell:
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

    @cache  # several cells rest on the same trainings
    def check(step: Step, model: str, seed: int) -> None:
        options = experiment.options(model, seed, step.strategy.of('mtkd'))
        cfg = step_config(step, experiment.recipe_of(model), options)
        check_settings(cfg.work_dir, settings_of(cfg))

    matrix = Matrix([_cell(experiment, *key, failures or {}, check) for key in experiment.cells])
    matrix.write(experiment.work_dir)
    return matrix


def _cell(
    experiment: Experiment,
    model: str,
    seed: int,
    strategy: str,
    failures: Mapping[tuple[str, int], str],
    check: Callable[[Step, str, int], None],
) -> MatrixCell:
    wanted = Strategy.parse(strategy, TESTED_KINDS)
    steps = [step for step in recipe(wanted) if step.strategy == wanted]
    bases = [step for step in recipe(wanted) if _rests_on(wanted, step)]
    table = experiment.table(model, seed, strategy)
    why = failures.get((model, seed), '')
    if table.is_file():
        try:
            for step in bases:
                check(step, model, seed)
            if all(
                _is_done(
                    step,
                    experiment.recipe_of(model),
                    experiment.options(model, seed, wanted),
                    table,
                )
                for step in steps
            ):
                return MatrixCell(model, strategy, seed, 'done', scores=load_table(table).means())
        except UserError as error:
            why = why or str(error)
    return MatrixCell(model, strategy, seed, 'failed' if why else 'not run', why)


def _rests_on(wanted: Strategy, step: Step) -> bool:
    """Whether a cell's result follows from this training of another strategy."""
    specialists = wanted.kind in ('op', 'mtkd') and wanted.routing != 'origin'
    kinds = ('origin', 'partition') if specialists else ('origin',)
    return step.action == 'train' and step.strategy.kind in kinds and step.strategy != wanted


def _is_done(step: Step, model: str, options: RecipeOptions, table: Path) -> bool:
    cfg = step_config(step, model, options)
    return is_trained(cfg) if step.action == 'train' else is_tested(cfg, table)


@dataclass(frozen=True)
class Matrix:
    """What there is of an experiment."""

    cells: Sequence[MatrixCell]

    @property
    def complete(self) -> bool:
        """Whether every cell is done."""
        return all(cell.state == 'done' for cell in self.cells)

    @property
    def progress(self) -> str:
        """How many cells are done."""
        return f'{sum(cell.state == "done" for cell in self.cells)} of {len(self.cells)} cells done'

    def summary(self) -> list['Summary']:
        """What the seeds of each model and strategy come to."""
        scores = {
            (cell.model, cell.strategy, cell.seed): cell.scores
            for cell in self.cells
            if cell.state == 'done'
        }
        pairs = dict.fromkeys((cell.model, cell.strategy) for cell in self.cells)
        return [_summary(model, strategy, scores) for model, strategy in pairs]

    def as_markdown(self) -> str:
        """The tables as text."""
        return matrix_markdown(self)

    def write(self, folder: Path) -> None:
        """Write ``matrix.md``, ``matrix.csv`` (a row per cell) and ``matrix.json`` (both)."""
        with atomic_write(folder / 'matrix.md') as file:
            file.write(self.as_markdown())
        columns = [f.name for f in dataclasses.fields(MatrixCell) if f.name != 'scores']
        with atomic_write(folder / 'matrix.csv') as file:
            writer = csv.DictWriter(
                file, [*columns, *MEAN_NAMES], lineterminator='\n', extrasaction='ignore'
            )
            writer.writeheader()
            writer.writerows(
                csv_row({**dataclasses.asdict(cell), **cell.scores}) for cell in self.cells
            )
        write_json(
            folder / 'matrix.json',
            dict(
                cells=[dataclasses.asdict(cell) for cell in self.cells],
                summary=[dataclasses.asdict(row) for row in self.summary()],
            ),
        )


@dataclass(frozen=True)
class Spread:
    """Values of several seeds.

    Attributes:
        mean: Their mean.
        std: Their standard deviation; ``None`` for one value.
    """

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> 'Spread | None':
        """``None`` without values."""
        if not values:
            return None
        return cls(*mean_and_deviation(values))


@dataclass(frozen=True)
class Summary:
    """A model and a strategy over the seeds.

    Attributes:
        model: Name of the model.
        strategy: Text of the strategy.
        seeds: How many are done.
        scores: Of each score.
        differences: Of each score's difference to a reference, seed by seed: by reference
            (``origin``, ``continued``), then score.
    """

    model: str
    strategy: str
    seeds: int
    scores: Mapping[str, Spread | None]
    differences: Mapping[str, Mapping[str, Spread | None]]


_Scores = Mapping[tuple[str, str, int], Mapping[str, float]]


def _summary(model: str, strategy: str, scores: _Scores) -> Summary:
    own = {key[2]: values for key, values in scores.items() if key[:2] == (model, strategy)}
    differences = {}
    for reference in REFERENCES:
        others = {key[2]: values for key, values in scores.items() if key[:2] == (model, reference)}
        both = [seed for seed in own if seed in others and strategy != reference]
        differences[reference] = {
            column: Spread.of([own[seed][column] - others[seed][column] for seed in both])
            for column in MEAN_NAMES
        }
    spreads = {column: Spread.of([one[column] for one in own.values()]) for column in MEAN_NAMES}
    return Summary(model, strategy, len(own), spreads, differences)
