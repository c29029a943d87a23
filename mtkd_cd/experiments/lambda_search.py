"""The search for lambda, the weight of the distillation loss: a student per trial, judged on
validation data alone."""

import sqlite3
import time
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.jobs import Cluster, Job, Outcome, last_lines, run_jobs
from mtkd_cd.core.locks import alone
from mtkd_cd.core.strategy import Strategy
from mtkd_cd.core.text import format_markdown_table
from mtkd_cd.engine import BestWeightsHook
from mtkd_cd.engine.hooks.best_weights import is_less_better
from mtkd_cd.engine.record import read_record, setting_differences, settings_of
from mtkd_cd.engine.training import prepare_training, run_training
from mtkd_cd.recipe.configs import model_name, step_config
from mtkd_cd.recipe.options import RecipeOptions
from mtkd_cd.recipe.run import drop_checkpoints, is_trained
from mtkd_cd.recipe.steps import Step, recipe

PARAMETER = 'lambda'
_SETTINGS = 'settings'  # of the students, in the study
# Seconds. A trial whose process gives no sign of life for the second is drawn again.
HEARTBEAT = 10
GRACE = 60
_GOLDEN_SECTION = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Search:
    """What is searched.

    Attributes:
        model: Name of the model, or path of the config of an origin.
        options: Of the recipe whose origin and specialists are there; their ``loss_weight`` does
            not matter.
        low: Smallest lambda.
        high: Largest lambda.
        trials: Students in all, those of earlier calls included; lambda = 0 is not counted.
        startup: Trials spread evenly over the range, and never pruned, before the others learn from
            them.
        grid: Lambdas to train with, three digits of each, none of them pruned, instead of drawing
            any.

    Raises:
        UserError: The students match something that lambda does not weigh.
    """

    model: str
    options: RecipeOptions
    low: float = 1e-5
    high: float = 10.0
    trials: int = 20
    startup: int = 5
    grid: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        match = self.options.match
        if match != 'mse':
            raise UserError(
                f'--match {match}: lambda weighs the raw map alone, every student would be the '
                'same; search without --match'
            )

    @property
    def name(self) -> str:
        """Of the study and its files: the model, with the variant where there is one."""
        variant = self.strategy.variant
        name = model_name(self.model)
        return f'{name}@{variant}' if variant else name

    @property
    def strategy(self) -> Strategy:
        """Of the students."""
        return self.options.strategy('mtkd')

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self.options.work_dir / 'search'

    def place(self, weight: float) -> Path:
        """The work dir of a trial; the same lambda, drawn again after an interruption, resumes
        there."""
        return self.folder / self.name / f'{weight:g}'

    def startup_weight(self, number: int) -> float:
        """The lambda of a startup trial. The trials go in steps of the golden section, so that any
        number of them lies evenly on the logarithmic axis."""
        return self.low * (self.high / self.low) ** ((number + 1) * _GOLDEN_SECTION % 1)

    @property
    def turn(self) -> Path:
        """The lock file that a worker holds while it draws."""
        return self.folder / self.name / '.draw.lock'


def run_search(search: Search, workers: int = 1, threads: int | None = None) -> str:
    """Train students until there are enough trials. Another call, later or at the same time, goes
    on with the same study.

    Args:
        search: What is searched.
        workers: Trials at a time, each a process.
        threads: CPU threads of a worker.

    Returns:
        The table of all trials and the best lambda, also in ``<work_dir>/search/<model>.md``.

    Raises:
        UserError: Origin or specialists are not finished, which names the command; the study has
            students of other settings; there is no Optuna; a worker failed.
    """
    _check_teachers(search)
    _study(search)
    jobs = [Job('lambda = 0', train_control, (search,))]
    jobs += [Job(f'worker {number}', work, (search,)) for number in range(1, workers + 1)]
    outcomes: list[tuple[Job, Outcome]] = []
    cluster = Cluster(
        search.folder / 'jobs', 'local' if workers > 1 else 'debug', workers, threads=threads
    )
    run_jobs(jobs, cluster, retries=1, ended=lambda job, outcome: outcomes.append((job, outcome)))
    failed = [
        f'{job.name}: {last_lines(outcome.error)} (log: {outcome.log})'
        for job, outcome in outcomes
        if outcome.error is not None
    ]
    if failed:
        raise UserError('; '.join(failed))
    text = as_markdown(search)
    with atomic_write(search.folder / f'{search.name}.md') as file:
        file.write(text)
    return text


def _check_teachers(search: Search) -> None:
    for step in recipe(search.strategy):
        if step.strategy.kind not in ('origin', 'partition') or step.action != 'train':
            continue
        cfg = step_config(step, search.model, search.options)
        if not is_trained(cfg):
            thresholds = ' '.join(map(str, search.strategy.thresholds))
            raise UserError(
                f'the search starts from a finished {str(step).removeprefix("train ")}, and '
                f'{cfg.work_dir} holds none. To train it, with '
                f'the options given here: mtkd-cd recipe {search.model} --strategies '
                f'origin partition --thresholds {thresholds}'
                + (f' --folds {search.strategy.folds}' if search.strategy.folds else '')
                + f' --work-dir {search.options.work_dir}'
            )


def train_control(search: Search) -> None:
    """Train the student with lambda = 0. It is the control ``continued``, and has a place of its
    own in the recipe."""
    with alone(search.options.work_dir / f'.{model_name(search.model)}.lock', wait=True):
        run_training(prepare_training(_control_config(search)), resume=True, terse=True)


def _control_config(search: Search) -> Config:
    return step_config(Step(Strategy('continued'), 'train'), search.model, search.options)


def work(search: Search) -> None:
    """Train students until there are enough trials; take over those of processes that are gone."""
    study = _study(search)
    waited = 0
    while _train_next(search, study):
        pass
    while waited <= GRACE + HEARTBEAT and _is_running(study):
        # Of a worker beside this one, or of one that was killed: after the grace one can tell.
        time.sleep(HEARTBEAT)
        waited += HEARTBEAT
        while _train_next(search, study):
            waited = 0


def _train_next(search: Search, study: Any) -> bool:
    """Draw a lambda and train a student with it; false where there are trials enough."""
    with ExitStack() as turn:
        turn.enter_context(alone(search.turn, wait=True))
        _retry_lost_trials(study)
        if not _queue_next(search, study):
            return False
        study.sampler = _sampler(search, study)

        def objective(trial: Any) -> float:
            low, high = min((search.low, *search.grid)), max((search.high, *search.grid))
            trial.suggest_float(PARAMETER, low, high, log=True)
            turn.close()
            return _train_trial(search, trial)

        study.optimize(
            objective, n_trials=1, callbacks=[lambda _, trial: _drop_checkpoints(search, trial)]
        )
    return True


def _is_running(study: Any) -> bool:
    return any(trial.state.name == 'RUNNING' for trial in study.trials)


def _retry_lost_trials(study: Any) -> None:
    """Queue the trials of processes that are gone, by Optuna's heartbeat and its retry callback. To
    be called by the worker whose turn it is."""
    optuna = _optuna()
    for trial in study.trials:
        # Its process died while it drew: there is nothing to retry.
        if trial.state.name == 'RUNNING' and not trial.params:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def _queue_next(search: Search, study: Any) -> bool:
    """Queue the next lambda, unless one waits or the sampler is to draw it; false where there are
    trials enough."""
    trials = [trial for trial in study.trials if trial.state.name != 'FAIL']
    drawn = [trial for trial in trials if trial.state.name != 'WAITING']
    # A grid is queued here. Optuna's GridSampler counts a failed trial as done: a lambda whose
    # training broke off would never be trained again. Nor does it know what a search without grid
    # has trained.
    taken = {weight_of(trial) for trial in drawn if trial.state.name != 'PRUNED'}
    missing = [weight for weight in search.grid if _rounded(weight) not in taken]
    enough = not missing if search.grid else len(drawn) >= search.trials
    if enough:
        return False
    if len(drawn) == len(trials):
        if missing:
            study.enqueue_trial({PARAMETER: missing[0]})
        elif len(drawn) < search.startup:
            study.enqueue_trial({PARAMETER: search.startup_weight(len(drawn))})
    return True


def _train_trial(search: Search, trial: Any) -> float:
    weight = weight_of(trial)
    cfg = step_config(
        Step(search.strategy, 'train'),
        search.model,
        replace(search.options, loss_weight=weight),
    )
    cfg.work_dir = str(search.place(weight))
    record = run_training(
        prepare_training(cfg), resume=True, terse=True, hooks=[PruningHook(trial)]
    )
    trial.set_user_attr('iter', record['iter'])
    return float(record['score'])


def _drop_checkpoints(search: Search, trial: Any) -> None:
    if not search.options.keep_checkpoints:
        drop_checkpoints(search.place(weight_of(trial)))


def weight_of(trial: Any) -> float:
    """The lambda of a trial: what was drawn, in three digits."""
    return _rounded(trial.params[PARAMETER])


def _rounded(weight: float) -> float:
    return float(f'{weight:.3g}')


class PruningHook(Hook):
    """Reports every validation to the search, which may end the trial there.

    Args:
        trial: Optuna's.
    """

    priority = 'LOWEST'

    def __init__(self, trial: Any) -> None:
        self.trial = trial

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Report what the best weights are chosen by. Raises ``optuna.TrialPruned`` where the trial
        is not worth going on with."""
        best = next(hook for hook in runner.hooks if isinstance(hook, BestWeightsHook))
        if is_less_better(best.metric, best.rule):
            raise UserError(
                f'BestWeightsHook(metric={best.metric!r}): the search looks for the largest score; '
                'choose a metric of which more is better'
            )
        self.trial.report(float((metrics or {})[best.metric]), runner.iter)
        if runner.iter < runner.max_iters and self.trial.should_prune():
            raise _optuna().TrialPruned(f'iteration {runner.iter}')


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError(
            'the search runs through optuna, which is not installed: pip install '
            "'mtkd-cd[experiments]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(search: Search) -> Any:
    optuna = _optuna()
    path = search.folder.resolve() / f'{search.name}.db'
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        study = _opened(search, path)
    except Exception as error:  # SQLAlchemy's and Optuna's, of which each has many
        reason = str(error).partition('\n')[0]
        raise UserError(
            f'{path}, the file of the search, cannot be used ({reason}). If it is damaged, restore '
            'it, or delete it to search anew: students that are trained are taken over'
        ) from error
    cfg = step_config(Step(search.strategy, 'train'), search.model, search.options)
    _check_same_students(study, cfg, path)
    study.sampler = _sampler(search, study)
    if search.grid:
        study.pruner = optuna.pruners.NopPruner()
    else:
        warmup = cfg.train_cfg.get('max_iters', 0) // 3
        study.pruner = optuna.pruners.MedianPruner(
            n_startup_trials=search.startup, n_warmup_steps=warmup
        )
    return study


def _opened(search: Search, path: Path) -> Any:
    optuna = _optuna()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.RDBStorage(
            'sqlite:///' + quote(str(path)),
            # The path as it is: in an address, a question mark would end it.
            engine_kwargs=dict(
                creator=lambda: sqlite3.connect(path, timeout=60, check_same_thread=False)
            ),
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
        )
    return optuna.create_study(
        study_name=search.name, storage=storage, direction='maximize', load_if_exists=True
    )


def _check_same_students(study: Any, cfg: Config, path: Path) -> None:
    """Refuse a study whose trials were trained with other settings than are given now."""
    settings = settings_of(cfg)
    there = study.user_attrs.get(_SETTINGS)
    if there is None:
        study.set_user_attr(_SETTINGS, settings)
    elif shown := setting_differences(there, settings, {**there, **settings}):
        raise UserError(
            f'{path} holds a search with other students: {shown}. Choose another --work-dir, or '
            'delete the file to search anew'
        )


def _sampler(search: Search, study: Any) -> Any:
    # A seed for each draw: workers draw different lambdas, and one worker draws the same ones
    # whenever it was interrupted.
    seed = 1000 * (search.options.seed or 0) + len(study.trials)
    return _optuna().samplers.TPESampler(
        n_startup_trials=search.startup, constant_liar=True, seed=seed
    )


def as_markdown(search: Search) -> str:
    """The trials, and the best of them as lines for a config and a command."""
    control = read_record(_control_config(search).work_dir)
    metric = control['metric']
    rows = [['', '0', 'complete', f'{control["score"]:.2f}', str(control['iter'])]]
    trials = sorted(filter(lambda trial: trial.params, _study(search).trials), key=weight_of)
    for trial in trials:
        scores = (
            [trial.value] if trial.value is not None else list(trial.intermediate_values.values())
        )
        best = f'{max(scores):.2f}' if scores else ''
        rows.append(
            [
                str(trial.number),
                f'{weight_of(trial):g}',
                trial.state.name.lower(),
                best,
                str(trial.user_attrs.get('iter', '')),
            ]
        )
    lines = [
        f'{search.name}: {metric} of the student on the validation data, in percent, by lambda; 0 '
        'is the control without teachers.',
        '',
        format_markdown_table(['trial', 'lambda', 'state', f'best {metric}', 'at iteration'], rows),
        '',
    ]
    complete = [trial for trial in trials if trial.state.name == 'COMPLETE']
    if complete:
        best_trial = max(complete, key=lambda trial: trial.value)
        weight, gain = weight_of(best_trial), best_trial.value - control['score']
        lines += [
            f'Best: lambda = {weight:g}, {gain:+.2f} to lambda = 0 with the same seed. In the '
            'config:',
            '',
            f"    distill_loss=dict(type='ChangeMapMSELoss', loss_weight={weight:g})",
            '',
            f'or `--lambda {weight:g}` of mtkd-cd recipe.',
        ]
    return '\n'.join(lines) + '\n'
