"""The GPU check runs to its end on the CPU."""

import json
import os
import subprocess
import sys
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
    assert found['syncs'][0]['training step']['number'] > 0
    assert [row['setting'] for row in found['times']] == ['float32', 'amp']
    assert all(row['mtkd_ms'] > 0 < row['origin_ms'] for row in found['times'])
    assert '| fc_ef | amp |' in (tmp_path / 'gpu_check.md').read_text()
