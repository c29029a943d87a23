"""Experiments: every cell of the matrix is accounted for, whatever becomes of its job."""

import csv
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mtkd_cd.core.checkpoint import load_only_tensors
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.jobs import Cluster, Job, run_jobs
from mtkd_cd.core.strategy import Strategy
from mtkd_cd.engine.record import settings_of, write_record
from mtkd_cd.evaluation import ImageTable, load_table
from mtkd_cd.experiments import matrix as matrix_module
from mtkd_cd.experiments.matrix import Matrix, MatrixCell, Spread, gather, read_experiment
from mtkd_cd.recipe.configs import step_config
from mtkd_cd.recipe.steps import Step

REPO = Path(__file__).parents[2]


@pytest.fixture
def argv(scenes, tmp_path):
    """Arguments of run_matrix for tiny recipes in ``<tmp_path>/matrix``, in this process."""
    settings = tmp_path / 'tiny.py'
    tiny = {
        'model.backbone.base_channel': 4,
        'model.decode_head.in_channels': 4,
        'model.decode_head.channels': 4,
    }
    tiny |= {
        f'{split}_dataloader.dataset.serialize_data': False for split in ('train', 'val', 'test')
    }
    settings.write_text(
        f'work_dir = {str(tmp_path / "matrix")!r}\ndata_root = {str(scenes)!r}\ndevice = "cpu"\n'
        'image_size, batch_size, num_workers, val_interval = 32, 2, 0, 2\nseeds = (0,)\n'
        'strategies = ("origin",)\n'
        f'models = dict(fc_ef=dict(iters=2, cfg_options={tiny!r}))\n'
    )
    return ['--settings', settings, '--cluster', 'debug', '--devices']


def cells(tmp_path):
    with (tmp_path / 'matrix' / 'matrix.csv').open(newline='') as file:
        return {
            (row['model'], row['strategy'], int(row['seed'])): row for row in csv.DictReader(file)
        }


def times(folder):
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob('*')
        if path.name in ('best.pth', 'origin.json', 'mtkd.json')
    }


@pytest.mark.slow
def test_every_cell_is_run_once_and_gathered(tool, argv, tmp_path):
    strategies = ('origin', 'continued', 'op', 'mtkd', 'op@0.1', 'op@0.1+validated')
    assert (
        tool('experiments/run_matrix', *argv, '--seeds', 0, 1, '--strategies', *strategies)[0] == 0
    )
    table = cells(tmp_path)
    assert set(table) == {('fc_ef', strategy, seed) for strategy in strategies for seed in (0, 1)}
    assert {row['state'] for row in table.values()} == {'done'}
    for (model, strategy, seed), row in table.items():
        path = tmp_path / 'matrix' / f'seed{seed}' / 'report' / model / f'{strategy}.json'
        scores = [image['mIoU'] for image in load_table(path).rows()]
        assert float(row['mIoU']) == pytest.approx(statistics.fmean(scores))
    summary = {
        row['strategy']: row
        for row in json.loads((tmp_path / 'matrix' / 'matrix.json').read_text())['summary']
    }
    differences = [
        float(table['fc_ef', 'mtkd', seed]['mIoU'])
        - float(table['fc_ef', 'continued', seed]['mIoU'])
        for seed in (0, 1)
    ]
    assert summary['mtkd']['differences']['continued']['mIoU'] == pytest.approx(
        dict(mean=statistics.fmean(differences), std=statistics.stdev(differences))
    )
    assert summary['op@0.1']['seeds'] == 2

    place = tmp_path / 'matrix' / 'seed1'
    assert not list(place.rglob('iter_*.pth'))
    settings = json.loads((place / 'mtkd' / 'fc_ef' / 'run.json').read_text())['settings']
    assert (settings['randomness.seed'], settings['train_cfg.max_iters']) == (1, 1)
    with (place / 'report' / 'fc_ef' / 'curves.csv').open(newline='') as file:
        curves = list(csv.DictReader(file))
    record = json.loads((place / 'origin' / 'fc_ef' / 'run.json').read_text())
    assert [float(point['mIoU']) for point in curves if point['strategy'] == 'origin'] == [
        pytest.approx(record['score'])
    ]
    assert {(point['strategy'], point['range']) for point in curves} >= {
        ('partition', 'small'),
        ('partition@0.1', 'large'),
    }

    before = times(tmp_path / 'matrix')
    assert (
        tool('experiments/run_matrix', *argv, '--seeds', 0, 1, '--strategies', *strategies)[0] == 0
    )
    assert times(tmp_path / 'matrix') == before


def test_failed_job_is_reported_and_keeps_no_other_from_running(tool, argv, tmp_path):
    (tmp_path / 'matrix' / 'seed0').mkdir(parents=True)
    (tmp_path / 'matrix' / 'seed0' / 'origin').write_text('in the way')
    assert tool('experiments/run_matrix', *argv, '--seeds', 0, 1)[0] == 1
    table = cells(tmp_path)
    assert table['fc_ef', 'origin', 1]['state'] == 'done'
    assert table['fc_ef', 'origin', 0]['state'] == 'failed'
    assert 'NotADirectoryError' in table['fc_ef', 'origin', 0]['why']
    assert 'in the way' not in (tmp_path / 'matrix' / 'matrix.md').read_text()
    assert 'NotADirectoryError' in (tmp_path / 'matrix' / 'matrix.md').read_text()


def test_other_settings_are_not_taken_for_done(tool, argv, tmp_path):
    assert tool('experiments/run_matrix', *argv)[0] == 0
    assert tool('experiments/run_matrix', *argv, '--gather', '--iters', 3)[0] == 1
    assert 'train_cfg.max_iters is 2 there, 3 now' in cells(tmp_path)['fc_ef', 'origin', 0]['why']
    assert (
        tool('experiments/run_matrix', *argv, '--gather', '--strategies', 'origin', 'mtkd')[0] == 1
    )
    assert cells(tmp_path)['fc_ef', 'mtkd', 0]['state'] == 'not run'


def test_specialists_of_other_settings_leave_no_cell_done_that_follows_from_them(
    scenes, tmp_path, monkeypatch
):
    """The settings of O-P's test and of the student's training say nothing of the specialists'."""
    monkeypatch.setattr(matrix_module, '_is_done', lambda *_: True)
    counts = np.array([[5, 0, 5, 90]])

    def states(specialist_iters):
        experiment = read_experiment(
            None,
            REPO / 'configs',
            dict(
                models=['fc_ef'],
                seeds=[0],
                strategies=['origin', 'continued', 'op', 'mtkd', 'mtkd@origin'],
                work_dir=tmp_path,
                data_root=scenes,
                device='cpu',
                iters=4,
                specialist_iters=specialist_iters,
            ),
        )
        for _, _, strategy in experiment.cells:
            table = experiment.table('fc_ef', 0, strategy)
            if not table.exists():
                ImageTable(['a.png'], counts, [None], [None]).save(table)
        step = Step(Strategy('partition'), 'train', 'medium')
        cfg = step_config(step, 'fc_ef', experiment.options('fc_ef', 0, Strategy('mtkd')))
        if not Path(cfg.work_dir).exists():
            write_record(cfg.work_dir, dict(settings=settings_of(cfg), finished=True))
        return {cell.strategy: cell for cell in gather(experiment).cells}

    assert {cell.state for cell in states(2).values()} == {'done'}
    now = states(3)
    assert {name for name, cell in now.items() if cell.state == 'done'} == {
        'origin',
        'continued',
        'mtkd@origin',
    }
    assert 'partition/fc_ef/medium holds another run: ' in now['op'].why
    assert 'train_cfg.max_iters is 2 there, 3 now' in now['mtkd'].why


@pytest.mark.slow
def test_killed_job_is_started_again_and_resumes(tool, argv, tmp_path, capfd):
    argv = [
        *argv,
        '--cluster',
        'local',
        '--iters',
        40,
        '--val-interval',
        5,
        '--threads',
        1,
        '--nice',
        1,
    ]
    runner = multiprocessing.get_context('fork').Process(
        target=tool, args=('experiments/run_matrix', *argv)
    )
    runner.start()
    place = tmp_path / 'matrix' / 'seed0'
    deadline = time.monotonic() + 120
    while not list(place.glob('origin/fc_ef/iter_*.pth')):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(int((place / '.fc_ef.lock').read_text()), signal.SIGKILL)
    runner.join(120)
    assert cells(tmp_path)['fc_ef', 'origin', 0]['state'] == 'done'
    logs = [path.read_text() for path in (place / 'origin' / 'fc_ef').glob('*/*.log')]
    assert len(logs) == 2
    assert sum('resumed epoch' in log for log in logs) == 1
    with (place / 'origin' / 'fc_ef' / 'curve.csv').open(newline='') as file:
        assert [int(row['iter']) for row in csv.DictReader(file)] == list(range(5, 41, 5))
    assert len(list((tmp_path / 'matrix' / 'jobs').glob('*_result.pkl'))) == 1


def flaky(folder: Path, failures: int) -> None:
    tries = len(list(folder.glob('try*')))
    (folder / f'try{tries}').touch()
    if tries < failures:
        raise RuntimeError(f'try {tries} went wrong')


def mistaken(folder: Path) -> None:
    flaky(folder, 0)
    raise UserError('no such data')


@pytest.mark.parametrize(
    ('failures', 'retries', 'tries', 'error'),
    [(1, 1, 2, None), (2, 1, 2, 'RuntimeError: try 1 went wrong'), (1, 0, 1, 'try 0')],
)
def test_job_is_retried_so_many_times(failures, retries, tries, error, tmp_path):
    outcomes = []
    job = Job('flaky', flaky, (tmp_path, failures))
    run_jobs(
        [job], Cluster(tmp_path / 'jobs', 'debug'), retries, lambda *ended: outcomes.append(ended)
    )
    assert len(list(tmp_path.glob('try*'))) == tries
    [(ended, outcome)] = outcomes
    assert ended == job
    assert outcome.error is None if error is None else error in outcome.error


def test_mistake_of_the_user_is_not_retried(tmp_path):
    outcomes = []
    run_jobs(
        [Job('mistaken', mistaken, (tmp_path,))],
        Cluster(tmp_path / 'jobs', 'debug'),
        3,
        lambda _, outcome: outcomes.append(outcome),
    )
    assert len(list(tmp_path.glob('try*'))) == 1
    assert outcomes[0].error == 'no such data'


def pause(folder: Path, name: str) -> None:
    (folder / name).write_text(
        f'{time.monotonic()} {os.environ["CUDA_VISIBLE_DEVICES"]} {os.environ["OMP_NUM_THREADS"]} '
    )
    time.sleep(0.5)
    with (folder / name).open('a') as file:
        file.write(str(time.monotonic()))


@pytest.mark.slow
@pytest.mark.parametrize('trusted', [True, False])
def test_job_trusts_checkpoints_where_its_parent_does(trusted, tmp_path):
    said = tmp_path / 'said'
    code = f"""
from pathlib import Path
from mtkd_cd.core.checkpoint import trusts_checkpoints
Path({str(said)!r}).write_text(str(trusts_checkpoints()))
"""
    load_only_tensors(not trusted)
    try:
        run_jobs([Job('asked', exec, (code,))], Cluster(tmp_path / 'jobs', 'processes'))
    finally:
        load_only_tensors()
    assert said.read_text() == str(trusted)


def test_jobs_end_with_a_parent_that_gets_sigterm(tmp_path):
    started = tmp_path / 'started'
    sleep = f"""
import os, time
with open({str(started)!r} + '.part', 'w') as file:
    file.write(str(os.getpid()))
os.rename({str(started)!r} + '.part', {str(started)!r})
time.sleep(300)
"""
    parent = f"""
from pathlib import Path
from mtkd_cd.core.jobs import Cluster, Job, run_jobs
jobs = [Job('sleeping', exec, ({sleep!r},))]
run_jobs(jobs, Cluster(Path({str(tmp_path / 'jobs')!r}), 'processes'))
"""
    process = subprocess.Popen([sys.executable, '-c', parent], cwd=REPO)
    wait_for(started.exists, process)
    job = int(started.read_text())
    process.terminate()
    assert process.wait(timeout=120) == 143
    wait_for(lambda: not is_running(job))


def is_running(process: int) -> bool:
    """Whether the process is there and is no zombie."""
    try:
        state = Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[0]
    except FileNotFoundError:
        return False
    return state != 'Z'


def wait_for(moment, process=None) -> None:
    end = time.monotonic() + 120
    while not moment():
        assert process is None or process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_at_most_so_many_jobs_at_a_time_on_the_devices_in_turn(tmp_path):
    jobs = [Job(name, pause, (tmp_path, name)) for name in 'abc']
    run_jobs(jobs, Cluster(tmp_path / 'jobs', 'local', devices=(3, 5), threads=1))
    spans = {}
    for name in 'abc':
        start, device, threads, end = (tmp_path / name).read_text().split()
        assert threads == '1'
        spans[name] = (float(start), float(end), device)
    assert {spans['a'][2], spans['b'][2]} == {'3', '5'}
    assert spans['c'][0] >= min(spans['a'][1], spans['b'][1])


def test_slurm_is_asked_for_what_the_job_needs(tmp_path, monkeypatch):
    tools = tmp_path / 'bin'
    tools.mkdir()
    script = tmp_path / 'script.sh'
    (tools / 'sbatch').write_text(f'#!/bin/sh\ncp "$1" {script}\necho Submitted batch job 7\n')
    (tools / 'srun').write_text('#!/bin/sh\n')
    (tools / 'sacct').write_text('#!/bin/sh\necho "JobID|State"\necho "7|FAILED"\n')
    for path in tools.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tools}:{os.environ["PATH"]}')
    monkeypatch.setattr('submitit.core.core.InfoWatcher.is_done', lambda *_, **__: True)
    monkeypatch.setattr('submitit.core.core.Job._results_timeout_s', 0)
    outcomes = []
    slurm = dict(
        slurm_partition='gpu',
        timeout_min=90,
        gpus_per_node=1,
        mem_gb=None,
        slurm_additional_parameters={'account': 'us'},
    )
    cluster = Cluster(tmp_path / 'jobs', 'slurm', threads=4, slurm=slurm)
    run_jobs(
        [Job('x', flaky, (tmp_path, 0))], cluster, 0, lambda _, outcome: outcomes.append(outcome)
    )
    lines = script.read_text().splitlines()
    for option in ('partition=gpu', 'time=90', 'gpus-per-node=1', 'cpus-per-task=4', 'account=us'):
        assert f'#SBATCH --{option}' in lines
    assert 'killed' in outcomes[0].error


def test_spread_and_differences_are_those_of_the_seeds():
    scores = {
        ('origin', 0): 50.0,
        ('origin', 1): 60.0,
        ('mtkd', 0): 51.0,
        ('mtkd', 1): 63.0,
        ('continued', 1): 62.0,
    }
    named = [
        MatrixCell('m', *key, 'done', scores=dict.fromkeys(matrix_module.MEAN_NAMES, value))
        for key, value in scores.items()
    ]
    matrix = Matrix([*named, MatrixCell('m', 'continued', 0, 'failed', 'a\nb')])
    rows = {row.strategy: row for row in matrix.summary()}
    student = rows['mtkd']
    assert student.scores['mIoU'] == Spread(57.0, pytest.approx(8.485281374238571))
    assert student.differences['origin']['mIoU'] == Spread(2.0, pytest.approx(2**0.5))
    assert student.differences['continued']['mIoU'] == Spread(1.0, None)
    assert rows['origin'].differences['origin']['mIoU'] is None
    text = matrix.as_markdown()
    assert '57.00 ± 8.49' in text
    assert '+2.00 ± 1.41' in text
    assert '4 of 5 cells' not in text
    assert '5 of 6 cells done' in text
    assert 'a b' in text


CONFIGS = REPO / 'configs'


def test_tables_of_an_experiment_show_what_a_name_spells(tmp_path):
    Matrix([MatrixCell('=m', 'origin', 0, 'failed', 'no <b>data</b> | here')]).write(tmp_path)
    assert r'no \<b>data\</b> \| here' in (tmp_path / 'matrix.md').read_text()
    assert "\n'=m,origin,0,failed," in (tmp_path / 'matrix.csv').read_text()


def test_settings_of_a_model_go_before_those_of_all_and_the_command_line_before_both(tmp_path):
    path = tmp_path / 'experiment.py'
    path.write_text(
        'iters = 10\nseeds = (3,)\ncfg_options = {"a.b": 1, "a.c": 1}\n'
        'models = dict(fc_ef=dict(iters=20, cfg_options={"a.c": 2}), bit_r18=dict())\n'
    )
    experiment = read_experiment(path, CONFIGS, {})
    default = Strategy('mtkd')
    assert [experiment.options(model, 3, default).iters for model in experiment.models] == [20, 10]
    assert experiment.options('fc_ef', 3, default).cfg_options == {'a.b': 1, 'a.c': 2}
    experiment = read_experiment(
        path,
        CONFIGS,
        dict(models=['fc_ef', 'tinycd'], iters=5, cfg_options={'a.c': 3}, seeds=[0, 1]),
    )
    assert [experiment.options(model, 3, default).iters for model in experiment.models] == [5, 5]
    assert experiment.options('fc_ef', 0, default).cfg_options == {'a.b': 1, 'a.c': 3}
    assert list(experiment.cells)[:2] == [('fc_ef', 0, 'origin'), ('fc_ef', 0, 'continued')]
    assert len(list(experiment.cells)) == 2 * 2 * 4


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('models = dict(fc_eff={})', "did you mean 'fc_ef'"),
        (
            'models = dict(fc_ef=dict(itres=3))',
            "models.fc_ef.itres is no setting of an experiment: did you mean 'iters'",
        ),
        ('models = dict(fc_ef={})\nstrategies = ("mtdk",)', "unknown strategy 'mtdk'"),
        ('models = dict(fc_ef={})\nepochs = 3', 'epochs is no setting'),
        ('models = ["fc_ef"]', 'models is a dict'),
        ('seeds = (0,)', 'needs models'),
    ],
)
def test_what_means_nothing_is_refused(text, said, tmp_path):
    (tmp_path / 'x.py').write_text(text)
    with pytest.raises(UserError, match=said):
        read_experiment(tmp_path / 'x.py', CONFIGS, {})


def test_a_model_has_its_own_strategies_and_config_unless_the_command_line_says_otherwise():
    path = REPO / 'configs' / 'experiments' / 'mix.py'
    experiment = read_experiment(path, REPO / 'configs', {})
    few, changer = 'fc_siam_diff_10', 'changer_mitb0'
    assert experiment.strategies_of(few) == ('origin', 'continued', 'mtkd@kl', 'mtkd@origin+kl')
    assert 'op' in experiment.strategies_of(changer)
    assert experiment.recipe_of(few) == str(path.parent / 'mix' / f'{few}.py')
    assert next(iter(experiment.variants(few))) == Strategy('mtkd')
    same = read_experiment(path, REPO / 'configs', {'strategies': ['origin'], 'models': [few]})
    assert list(same.cells) == [(few, seed, 'origin') for seed in (0, 1, 2)]


def test_settings_may_leave_out_a_model_of_those_they_start_from(tmp_path):
    (tmp_path / 'base.py').write_text(
        'models = dict(fc_ef=dict(iters=20), bit_r18=dict(iters=9))\n'
    )
    path = tmp_path / 'own.py'
    path.write_text("_base_ = './base.py'\nmodels = dict(bit_r18=None, fc_ef=dict(lr=0.1))\n")
    experiment = read_experiment(path, CONFIGS, {})
    assert experiment.models == {'fc_ef': dict(iters=20, lr=0.1)}


@pytest.mark.parametrize('name', ['mix_quarter', 'mix_cpu'])
def test_shorter_experiments_ask_the_second_question_alone(name):
    path = REPO / 'configs' / 'experiments' / f'{name}.py'
    experiment = read_experiment(path, REPO / 'configs', {})
    assert list(experiment.models) == ['fc_siam_diff_10', 'fc_siam_diff_25']
    for model in experiment.models:
        assert experiment.strategies_of(model) == ('origin', 'continued', 'mtkd@kl', 'mtkd')
        options = experiment.options(model, 0, Strategy('mtkd'))
        cfg = step_config(Step(Strategy('mtkd'), 'train'), experiment.recipe_of(model), options)
        assert cfg.model.student.backbone.dropout == 0
        [metric] = [hook.metric for hook in cfg.custom_hooks if hook.type == 'BestWeightsHook']
        assert metric == 'pooled_mIoU'
        assert cfg.model.distill_loss.loss_weight == 1e-7
        kl = Strategy('mtkd', match='kl')
        own = experiment.options(model, 0, kl)
        student = step_config(Step(kl, 'train'), experiment.recipe_of(model), own)
        assert student.model.distill_loss.loss_weight == 1
        assert student.model.unlabelled.confidence == 'probability'


def test_teachers_of_an_own_config_are_built_from_it(tmp_path):
    (tmp_path / 'mine.py').write_text(f"_base_ = '{CONFIGS}/origin/fc_siam_diff.py'\n")
    (tmp_path / 'experiment.py').write_text(
        'strategies = ("origin",)\niters = 4\nmodels = dict(mine=dict(config="mine.py"), '
        'fc_ef=dict(strategies=("mtkd@origin+by_mine", "mtkd@origin+by_tinycd")))\n'
    )
    experiment = read_experiment(tmp_path / 'experiment.py', CONFIGS, dict(work_dir=tmp_path))
    for text, backbone in (('by_mine', 'FC_Siam_diff'), ('by_tinycd', 'TinyCD')):
        variant = Strategy.parse(f'mtkd@origin+{text}')
        options = experiment.options('fc_ef', 0, variant)
        assert options.strategy('mtkd') == variant
        cfg = step_config(Step(variant, 'train'), 'fc_ef', options)
        assert cfg.model.teachers.backbone.type == backbone
