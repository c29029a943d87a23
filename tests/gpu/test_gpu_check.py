"""The GPU check runs to its end on the CPU."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

_REPO = Path(__file__).parents[2]


@pytest.mark.slow
def test_check_measures_and_writes_on_the_cpu(tmp_path):
    options = ['--size', '32', '--batch', '3', '--models', 'fc_ef']
    options += ['--settings', 'float32', 'amp+eager teachers']
    subprocess.run(
        [
            *(sys.executable, str(_REPO / 'benchmarks' / 'gpu_check.py'), '--minutes', '9'),
            *('--out', str(tmp_path), *options, '--tests', 'metric_counts'),
        ],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        check=True,
        timeout=600,
    )
    found = json.loads((tmp_path / 'gpu_check.json').read_text())
    assert found['tests']['code'] == 0, found['tests']
    assert found['tests']['passed'] == 1
    (steps,) = found['plain']
    assert 'error' not in steps
    assert steps['setting'] == 'float32'
    assert steps['mtkd_ratio'] == pytest.approx(
        steps['plain_mtkd_ms'] / steps['our_mtkd_ms'], abs=0.006
    )
    assert steps['plain_origin_ms'] > 0 < steps['our_origin_ms']
    waits = found['syncs'][0]
    assert waits['test step']['number'] > 0  # the metric asks for its counts
    assert waits['training step']['number'] == 0
    assert [row['setting'] for row in found['times']] == ['float32', 'amp+eager teachers']
    assert all(row['mtkd_ms'] > 0 < row['origin_ms'] for row in found['times'])
    assert not any('error' in row for row in found['times'])  # all losses are finite
    graphs, eager = found['teachers']
    assert graphs['ms'] > 0 < eager['ms']
    assert 'longest' not in graphs
    assert 'convolution' in ' '.join(eager['longest'])
    report = (tmp_path / 'gpu_check.md').read_text()
    assert 'no GPU, torch' in report
    assert '| fc_ef | amp+eager teachers |' in report
    assert f'| geometric mean | float32 |  |  | {steps["mtkd_ratio"]} |' in report


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(_REPO / 'benchmarks'))
    return importlib.import_module('gpu_check')


@pytest.mark.parametrize(('seconds', 'warm_up', 'timed'), [(0, 1, 1), (1e9, 5, 12)])
def test_steps_that_are_compared_take_turns(gpu_check, monkeypatch, seconds, warm_up, timed):
    """However slow they are, one round warms up and one is timed."""
    monkeypatch.setattr(gpu_check, '_LONGEST_WARM_UP', seconds)
    order = []
    calls = {name: lambda name=name: order.append(name) for name in ('plain', 'ours')}
    found = gpu_check._take_turns(calls, seconds)
    assert order == ['plain', 'ours'] * (warm_up + timed)
    assert found['rounds'] == timed
    assert {'plain_ms', 'ours_ms'} < set(found)


@pytest.mark.parametrize(('later', 'steps'), [(0.001, 8), (0.1, 3)])
def test_a_long_first_step_is_not_taken_for_a_slow_model(gpu_check, later, steps):
    """The steps that count come after those that warm up, in which teachers become graphs."""
    spans = iter([0.2])
    took = []

    def step():
        took.append(next(spans, later))
        time.sleep(took[-1])

    median, first = gpu_check._time_steps(step, 0.05)
    assert first > 0.19
    assert median == pytest.approx(later, abs=0.05)
    assert (len(took) == steps) if later > 0.05 else (len(took) >= steps)


def test_plain_steps_come_first_and_large_models_last(gpu_check, monkeypatch):
    options = ['--parts', 'times', 'syncs', 'plain', '--settings', 'amp', '--size', '64']
    options += ['--times-models', 'ttp_vitsam_l', 'tinycd', 'bit_r18']
    monkeypatch.setattr(sys, 'argv', ['gpu_check.py', *options])
    assert [task[:3] for task in gpu_check._tasks(gpu_check._parse())] == [
        ('plain', 'changer_mitb0', 'float32'),
        ('plain', 'bit_r18', 'float32'),
        ('plain', 'fc_siam_diff', 'float32'),
        ('plain', 'tinycd', 'float32'),
        ('syncs', 'changer_mitb0', '-'),
        ('times', 'tinycd', 'amp'),
        ('times', 'bit_r18', 'amp'),
        ('times', 'ttp_vitsam_l', 'amp'),
    ]


def test_mean_is_that_of_the_models_that_were_measured(gpu_check):
    rows = [
        dict(model='one', setting='float32', mtkd_ratio=2.0, origin_ratio=1.0),
        dict(model='two', setting='float32', mtkd_ratio=8.0, origin_ratio=4.0),
        dict(model='two', setting='amp', mtkd_ratio=3.0),
        dict(model='three', setting='float32', error='no memory'),
    ]
    assert gpu_check._means(rows) == [
        dict(model='geometric mean', setting='float32', mtkd_ratio=4.0, origin_ratio=2.0),
        dict(model='geometric mean', setting='amp', mtkd_ratio=3.0),
    ]


@pytest.mark.slow  # it waits
def test_a_measurement_that_fails_or_hangs_leaves_the_others(gpu_check, monkeypatch, tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(
        'import json, sys, time\n'
        'for what, model, *_ in json.loads(sys.argv[2]):\n'
        "    if model == 'hangs':\n"
        '        time.sleep(60)\n'
        "    if model == 'dies':\n"
        "        sys.exit('no memory')\n"
        "    print('something else', flush=True)\n"
        "    print('found: ' + json.dumps(dict(name=model)), flush=True)\n"
    )
    monkeypatch.setattr(gpu_check, '__file__', str(child))
    monkeypatch.setattr(gpu_check, '_LONGEST', 10)
    found = {}
    names = ('one', 'dies', 'two', 'ttp_vitsam_l', 'hangs')
    gpu_check.measure_all(
        [('times', name, '-', 32, 2) for name in names],
        time.monotonic() + 600,
        lambda task, result: found.update({task[1]: result}),
    )
    assert {name: found[name] for name in names if name not in ('dies', 'hangs')} == {
        name: dict(name=name) for name in ('one', 'two', 'ttp_vitsam_l')
    }
    assert found['dies'] == dict(error='no memory', lost=True)
    assert found['hangs'] == dict(error='not done after 10 s', lost=True)
