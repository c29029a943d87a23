"""Experiments in so many minutes: what is measured, how trainings are shortened, what a deadline
does."""

import time
from pathlib import Path

import pytest

from mtkd_cd.cli.matrix import main
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import CONFIGS
from mtkd_cd.core.jobs import Cluster, Job, run_jobs
from mtkd_cd.experiments import budget, matrix
from mtkd_cd.recipe.options import RecipeOptions


def options(**settings):
    defaults = dict(iters=1000, specialist_iters=200, student_iters=500, val_interval=250)
    return RecipeOptions(configs=CONFIGS, **{**defaults, **settings})


def test_work_counts_every_training_in_steps_of_the_origin():
    work = budget.work_of(options(), ['origin', 'continued', 'op', 'mtkd', 'mtkd@kl'], 1.5)
    # origin + three specialists + control + two students at 1.5 steps each
    assert work.steps == 1000 + 3 * 200 + 500 + 2 * 1.5 * 500
    # 4 of the origin, half of one for each specialist, 2 for each of three students, five tests
    assert work.validations == 4 + 3 * 0.5 + 3 * 2 + 1.5 * 5


def test_work_without_specialists_and_with_those_of_another_model():
    assert budget.work_of(options(), ['origin', 'continued']).steps == 1500
    work = budget.work_of(options(), ['origin', 'mtkd@origin+by_changer_mitb0'], 2.0)
    assert work.steps == 1000 + 2.0 * 500


def test_a_job_of_the_chosen_length_takes_the_time_there_is():
    work, speed = budget.Work(10_000, 30, 10), budget.Speed(0.05, 1.0)
    scale = work.scale(speed, 300)
    assert 0 < scale < 1
    assert work.seconds(speed, scale) == pytest.approx(300)
    assert work.scale(speed, 1e6) == 1
    assert work.scale(speed, 1) == 0


def test_shorter_trainings_validate_as_often():
    own = dict(iters=1000, specialist_iters=200, val_interval=250, lr=1e-3)
    assert budget.scaled(own, 0.1) == dict(iters=100, specialist_iters=20, val_interval=25, lr=1e-3)
    assert budget.scaled(own, 0)['iters'] == 1


def test_a_budget_needs_the_longest_trainings():
    with pytest.raises(UserError, match='set iters'):
        budget.work_of(options(iters=None), ['origin'])


@pytest.mark.parametrize(('options', 'shortened'), [([], True), (['--full-length'], False)])
def test_full_length_neither_measures_nor_shortens(monkeypatch, tmp_path, options, shortened):
    calls = []
    monkeypatch.setattr(matrix, 'within', lambda experiment, *_: calls.append(1) or experiment)
    ends = []

    def run(experiment, cluster, retries, until):
        ends.append(until)
        return matrix.Matrix([])

    monkeypatch.setattr(matrix, 'run_matrix', run)
    command = ['--models', 'fc_ef', '--work-dir', str(tmp_path), '--minutes', '5', *options]
    assert main(command) == 0
    assert bool(calls) == shortened
    assert ends[0] == pytest.approx(time.time() + 300, abs=60)


def test_a_model_that_is_added_later_is_fitted_too(monkeypatch, tmp_path):
    """It trained at full length, past the end of the minutes."""
    own = dict(iters=1000, specialist_iters=200, student_iters=500, val_interval=250)
    measured = []

    def measure(experiment, cluster, until):
        measured.append(list(experiment.models))
        speed = dict(iteration=1, validation=1, seconds=1, iterations={})
        return dict(left=9, models={name: dict(scale=0.1, **speed) for name in experiment.models})

    monkeypatch.setattr(matrix, '_measure', measure)
    for models in (['fc_ef'], ['fc_ef', 'tinycd'], ['tinycd']):
        experiment = matrix.Experiment(dict.fromkeys(models, own), CONFIGS, work_dir=tmp_path)
        found = matrix.within(experiment, Cluster(tmp_path / 'jobs'), 0.0)
        assert {name: settings['iters'] for name, settings in found.models.items()} == (
            dict.fromkeys(models, 100)
        )
    assert measured == [['fc_ef'], ['tinycd']]


@pytest.mark.parametrize('content', ['[]', '{}', '{"models": []}', '{"models": {"fc_ef": 1}}'])
def test_a_damaged_budget_is_refused(tmp_path, content):
    (tmp_path / budget.FILE).write_text(content)
    with pytest.raises(UserError, match=r'budget\.json is damaged: delete it'):
        budget.read_budget(tmp_path)


def note(folder, seconds):
    (Path(folder) / f'{seconds}.started').touch()
    time.sleep(seconds)
    (Path(folder) / f'{seconds}.done').touch()


@pytest.mark.slow
def test_at_the_deadline_jobs_are_stopped_and_the_rest_is_not_started(tmp_path):
    jobs = [Job(str(s), note, (str(tmp_path), s)) for s in (0, 600, 601)]
    ends = {}
    cluster = Cluster(tmp_path / 'jobs', kind='processes', jobs=1)
    waits = 60
    start = time.time()
    run_jobs(
        jobs, cluster, 1, lambda job, outcome: ends.update({job.name: outcome}), until=start + waits
    )
    assert time.time() - start < waits + 30
    assert ends['0'].error is None
    assert 'stopped' in ends['600'].error
    assert 'not started' in ends['601'].error
    assert [path.name for path in tmp_path.glob('*.done')] == ['0.done']


@pytest.mark.slow
def test_a_process_hands_over_its_outcome_or_its_last_words(tmp_path):
    ends = {}
    jobs = [Job('good', note, (str(tmp_path), 0)), Job('bad', note, ('/nowhere/at/all', 0))]
    cluster = Cluster(tmp_path / 'jobs', kind='processes', jobs=2)
    run_jobs(jobs, cluster, 0, lambda job, outcome: ends.update({job.name: outcome}))
    assert ends['good'].error is None
    assert 'FileNotFoundError' in ends['bad'].error


@pytest.mark.slow
def test_speed_whose_measurement_was_interrupted_is_measured_by_the_next_call(
    scenes, tmp_path, monkeypatch
):
    tiny = {'model.backbone.base_channel': 4} | {
        f'model.decode_head.{key}': 4 for key in ('in_channels', 'channels')
    }
    small = dict(image_size=32, batch_size=2, num_workers=0, iters=6, val_interval=3)
    settings = RecipeOptions(CONFIGS, tmp_path, scenes, cfg_options=tiny, device='cpu', **small)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(budget, 'write_json', interrupted)
        with pytest.raises(KeyboardInterrupt):
            budget.measure_speed('fc_ef', settings, tmp_path / 'speed')
    assert budget.read_speed(tmp_path / 'speed') is None
    budget.measure_speed('fc_ef', settings, tmp_path / 'speed')
    assert budget.read_speed(tmp_path / 'speed').iteration > 0
    assert [path.name for path in (tmp_path / 'speed').iterdir()] == ['speed.json']


def test_speed_leaves_out_the_start_and_the_validations(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(budget.time, 'monotonic', lambda: now[0])
    hook = budget.SpeedHook()

    def step(seconds):
        now[0] += seconds
        hook.after_train_iter(None)

    def validate(seconds):
        hook.before_val(None)
        now[0] += seconds
        hook.after_val(None)

    for seconds in [3.0] + [0.5] * 9:  # the first ones are slow
        step(seconds)
    validate(8.0)
    for _ in range(10):
        step(0.1)
    validate(1.0)
    assert hook.speed.iteration == pytest.approx(0.1)
    assert hook.speed.validation == pytest.approx(1.0)
