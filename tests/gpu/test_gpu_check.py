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
    options = ['--size', '32', '--batch', '3', '--models', 'fc_ef', '--settings', 'float32', 'amp']
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
    waits = found['syncs'][0]
    assert waits['test step']['number'] > 0  # the metric asks for its counts
    assert waits['training step']['number'] == 0
    assert [row['setting'] for row in found['times']] == ['float32', 'amp']
    assert all(row['mtkd_ms'] > 0 < row['origin_ms'] for row in found['times'])
    assert '| fc_ef | amp |' in (tmp_path / 'gpu_check.md').read_text()


@pytest.mark.slow  # it waits
def test_a_measurement_that_fails_or_hangs_leaves_the_others(monkeypatch, tmp_path):
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
    monkeypatch.syspath_prepend(str(_REPO / 'benchmarks'))
    gpu_check = importlib.import_module('gpu_check')
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
