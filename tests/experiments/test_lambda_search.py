"""The search for lambda: judged on validation alone, resumable, beside a control without
teachers."""

import json
import math
import multiprocessing
import shutil
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.engine import BestWeightsHook
from mtkd_cd.experiments import lambda_search
from mtkd_cd.experiments.lambda_search import (
    PruningHook,
    Search,
    _queue_next,
    _study,
    weight_of,
    work,
)
from mtkd_cd.recipe.options import RecipeOptions

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.fixture
def search(tmp_path):
    return Search(
        'fc_ef', RecipeOptions(CONFIGS, work_dir=tmp_path, iters=60), low=1e-3, high=10.0, startup=2
    )


def test_search_without_specialists_names_the_command_that_makes_them(tool, recipe_argv):
    code, err = tool('experiments/search_lambda', *recipe_argv())
    assert code == 2
    assert 'finished origin' in err
    assert 'mtkd-cd recipe fc_ef --strategies origin partition --thresholds 0.05 0.2' in err


@pytest.mark.slow
def test_search_finds_the_best_of_its_trials_and_goes_on_where_it_was(tool, recipe_argv, tmp_path):
    folder = tmp_path / 'recipe'
    assert tool('run_mtkd', *recipe_argv('--stages', 'origin', 'partition'))[0] == 0
    hidden = folder.parent / 'data'  # without test images: the search has no use for them
    argv = recipe_argv('--range', 0.1, 10, '--startup', 2, data=hidden)
    shutil.copytree(Path(recipe_argv()[2]), hidden)
    shutil.rmtree(hidden / 'test')
    assert tool('experiments/search_lambda', *argv, '--trials', 2)[0] == 0
    records = {
        path.parent.name: json.loads(path.read_text())
        for path in (folder / 'search' / 'fc_ef').glob('*/run.json')
    }
    assert set(records) == {'1.72', '0.297'}  # 0.1 * 100 ** 0.618, 0.1 * 100 ** 0.236
    assert all(record['finished'] for record in records.values())
    assert all(
        float(weight) == record['settings']['model.distill_loss.loss_weight']
        for weight, record in records.items()
    )
    control = json.loads((folder / 'continued' / 'fc_ef' / 'run.json').read_text())
    best = max(sorted(records, key=float), key=lambda weight: records[weight]['score'])
    text = (folder / 'search' / 'fc_ef.md').read_text()
    assert (
        f'Best: lambda = {best}, {records[best]["score"] - control["score"]:+.2f} to lambda = 0'
        in text
    )
    assert not list((folder / 'search').rglob('iter_*.pth'))

    assert tool('experiments/search_lambda', *argv, '--trials', 3)[0] == 0
    now = {
        path.parent.name: path.stat().st_mtime_ns
        for path in (folder / 'search' / 'fc_ef').glob('*/run.json')
    }
    assert set(records) < set(now)
    assert len(now) == 3
    with sqlite3.connect(folder / 'search' / 'fc_ef.db') as storage:
        assert storage.execute('select count(*) from trials').fetchone() == (3,)

    assert (
        tool('experiments/search_lambda', *argv, '--grid', 20, 0.297, 5)[0] == 0
    )  # one is outside the range, one trained already
    assert {path.parent.name for path in (folder / 'search' / 'fc_ef').glob('*/run.json')} == {
        *now,
        '20',
        '5',
    }


@pytest.mark.slow
def test_two_workers_share_the_trials(tool, recipe_argv, tmp_path):
    assert tool('run_mtkd', *recipe_argv('--stages', 'origin', 'partition'))[0] == 0
    assert (
        tool(
            'experiments/search_lambda', *recipe_argv('--trials', 4, '--workers', 2, '--threads', 1)
        )[0]
        == 0
    )
    records = list((tmp_path / 'recipe' / 'search' / 'fc_ef').glob('*/run.json'))
    assert len(records) == 4


def ask(study, weight=None):
    if weight is not None:
        study.enqueue_trial({'lambda': weight})
    return study.ask({'lambda': optuna.distributions.FloatDistribution(1e-3, 10.0, log=True)})


def test_startup_lambdas_cover_the_range(search):
    """After any number of them no gap is much wider than in an even spacing."""
    for count in range(2, 12):
        logarithms = sorted(math.log10(search.startup_weight(number)) for number in range(count))
        gaps = [right - left for left, right in zip([-3, *logarithms], [*logarithms, 1])]
        assert max(gaps) < 2 * 4 / count


def test_grid_is_worked_through_in_order_and_nothing_is_drawn_or_pruned(search):
    search = replace(search, grid=(0.5, 0.05, 2.0), trials=1)
    study = _study(search)
    study.tell(
        ask(study, 2.0), state=optuna.trial.TrialState.PRUNED
    )  # left by an earlier search: not trained to the end
    study.tell(ask(study, 0.0500001), 50.0)  # in three digits, the same
    weights = []
    while _queue_next(search, study):
        trial = ask(study)
        for step in (3, 15):
            trial.report(-len(weights), step)
        assert not trial.should_prune()
        weights.append(weight_of(trial))
        study.tell(trial, 60.0)
    assert weights == [0.5, 2.0]


@pytest.mark.parametrize('grid', [('0',), ('0.1', '-1')])
def test_grid_of_what_is_no_lambda(tool, recipe_argv, grid):
    code, err = tool('experiments/search_lambda', *recipe_argv('--grid', *grid))
    assert code == 2
    assert '--grid takes positive numbers' in err


def test_lambda_is_uniform_in_the_logarithm(search):
    study = _study(search)
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    logarithms = [math.log10(weight_of(ask(study))) for _ in range(40)]
    assert min(logarithms) < -2.6
    assert max(logarithms) > 0.6
    assert sum(logarithms) / 40 == pytest.approx(-1.0, abs=0.4)


def test_trial_of_a_killed_process_is_trained_again_and_that_of_a_living_one_is_not(
    search, monkeypatch
):
    search = replace(search, trials=2)
    fork = multiprocessing.get_context('fork')
    monkeypatch.setattr(lambda_search, 'HEARTBEAT', 1)
    monkeypatch.setattr(lambda_search, 'GRACE', 3)
    drawn = fork.Queue()

    def train_for_ever(_, trial):
        drawn.put(weight_of(trial))
        time.sleep(300)

    monkeypatch.setattr(lambda_search, '_train_trial', train_for_ever)
    processes, weights = [], []
    for _ in range(2):
        process = fork.Process(target=work, args=(search,))
        process.start()
        processes.append(process)
        weights.append(drawn.get(timeout=120))
    trained = []
    monkeypatch.setattr(
        lambda_search, '_train_trial', lambda _, trial: trained.append(weight_of(trial)) or 50.0
    )
    try:
        processes[0].kill()
        work(search)
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert trained == weights[:1]
    states = [trial.state.name for trial in _study(search).trials]
    assert states == ['FAIL', 'RUNNING', 'COMPLETE']


def test_trial_that_fails_is_drawn_again_by_the_next_call_and_a_pruned_one_is_not(
    search, monkeypatch
):
    search = replace(search, trials=2)
    endings = [ValueError('no memory'), optuna.TrialPruned(), None]
    trained = []

    def train(_, trial):
        trained.append(weight_of(trial))
        ending = endings[len(trained) - 1]
        if ending:
            raise ending
        return 50.0

    monkeypatch.setattr(lambda_search, '_train_trial', train)
    with pytest.raises(ValueError, match='no memory'):
        work(search)
    work(search)
    assert [trial.state.name for trial in _study(search).trials] == ['FAIL', 'PRUNED', 'COMPLETE']
    first, second = (float(f'{search.startup_weight(number):.3g}') for number in range(2))
    assert trained == [first, first, second]


def test_trial_of_a_process_that_died_while_it_drew_is_no_trial(search, monkeypatch):
    _study(search).ask()
    monkeypatch.setattr(lambda_search, '_train_trial', lambda *_: 50.0)
    work(replace(search, trials=1))
    assert [trial.state.name for trial in _study(search).trials] == ['FAIL', 'COMPLETE']


def test_trial_below_the_median_is_ended_after_a_third_of_the_iterations(search):
    study = _study(search)  # 60 iterations of the origin, 30 of the student
    for score in (60.0, 70.0, 80.0):
        trial = ask(study)
        for step in (3, 15, 30):
            trial.report(score, step)
        study.tell(trial, score)
    runner = SimpleNamespace(iter=3, max_iters=30, hooks=[BestWeightsHook()])
    worse, better = PruningHook(ask(study)), PruningHook(ask(study))
    for hook in (worse, better):  # too early to tell
        hook.after_val_epoch(runner, dict(mIoU=50.0))
    runner.iter = 15
    with pytest.raises(optuna.TrialPruned):
        worse.after_val_epoch(runner, dict(mIoU=65.0))
    better.after_val_epoch(runner, dict(mIoU=75.0))
    runner.iter = 30  # it is trained: let it count
    better.after_val_epoch(runner, dict(mIoU=50.0))


def test_trial_is_judged_by_what_its_best_weights_are_chosen_by(search):
    study = _study(search)
    hook = PruningHook(ask(study))
    runner = SimpleNamespace(iter=3, max_iters=30, hooks=[BestWeightsHook('pooled_mIoU')])
    hook.after_val_epoch(runner, dict(mIoU=60.0, pooled_mIoU=40.0))
    assert study.trials[0].intermediate_values == {3: 40.0}
    runner.hooks = [BestWeightsHook('val_loss', rule='less')]
    with pytest.raises(UserError, match='more is better'):
        hook.after_val_epoch(runner, dict(val_loss=0.1))


def test_search_does_not_go_on_with_students_of_other_settings(search):
    _study(search)
    _study(replace(search, trials=30, low=1e-4))  # the same students
    longer = replace(search, options=replace(search.options, student_iters=40))
    with pytest.raises(UserError, match=r'train_cfg.max_iters is 30 there, 40 now'):
        _study(longer)


@pytest.mark.parametrize('kept', [0.3, 0.95])
def test_damaged_file_of_a_search_is_named(search, kept):
    _study(search)
    path = search.folder / 'fc_ef.db'
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=r'fc_ef\.db, the file of the search, .*malformed'):
        _study(search)


@pytest.mark.parametrize('name', ['runs?1', 'runs%20of', 'runs#2'])
def test_study_lies_in_the_work_dir_whatever_its_name(tmp_path, name):
    place = tmp_path / name
    _study(Search('fc_ef', RecipeOptions(CONFIGS, work_dir=place, iters=60))).ask()
    with sqlite3.connect(place / 'search' / 'fc_ef.db') as storage:
        assert storage.execute('select count(*) from trials').fetchone() == (1,)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_lambda_does_not_weigh_is_not_searched(search):
    with pytest.raises(UserError, match='--match kl: lambda weighs the raw map alone'):
        replace(search, options=replace(search.options, match='kl'))
