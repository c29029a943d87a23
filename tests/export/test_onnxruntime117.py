"""The onnxruntime that QGIS Deepness pins, in an environment of its own."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

from mtkd_cd.export.exporting import export_model
from mtkd_cd.inference.predictor import model_from_detector
from tests.export.conftest import SIZE

REPO = Path(__file__).parents[2]
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')


@pytest.fixture(scope='module')
def python117(tmp_path_factory) -> Path:
    """A Python with onnxruntime 1.17; ``MTKD_CD_ORT117`` names one that is there already."""
    if os.environ.get('MTKD_CD_ORT117'):
        return Path(os.environ['MTKD_CD_ORT117'])
    if sys.version_info >= (3, 13):
        pytest.skip('onnxruntime 1.17 has no wheels for this Python')
    folder = tmp_path_factory.mktemp('ort117')
    venv.create(folder, with_pip=True)
    python = folder / 'bin' / 'python'
    command = [python, '-m', 'pip', 'install', '-q', 'onnxruntime==1.17.3', 'numpy<2']
    if subprocess.run(command, capture_output=True, timeout=600).returncode:
        pytest.skip('pip cannot install onnxruntime 1.17.3 here')
    return python


@pytest.mark.slow
def test_files_of_every_form_load_and_agree(python117, tiny_detector, tmp_path):
    import numpy as np

    model = model_from_detector(tiny_detector)
    inputs = torch.randn(3, 6, SIZE, SIZE)
    wanted = model.predictor().probability(inputs)
    for dynamic in ('batch', 'none'):
        export_model(model, tmp_path / f'tiny.{dynamic}.onnx', size=SIZE, dynamic=dynamic)
    np.savez(tmp_path / 'tiny.npz', pair=inputs.numpy(), probability=wanted.numpy())
    files = sorted(map(str, tmp_path.glob('*.onnx')))
    run = subprocess.run(
        [python117, REPO / 'benchmarks' / 'load_onnx.py', *files],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert 'onnxruntime 1.17' in run.stdout
    assert run.stdout.count('max |dp|') == 2
