"""Old module names lead to the new modules."""

import importlib
import subprocess
import sys

import pytest

from mtkd_cd.core.moved import MOVED, new_name


@pytest.mark.parametrize('name', sorted(MOVED))
def test_every_new_name_is_a_module(name):
    importlib.import_module(MOVED[name])


def test_longest_name_counts():
    assert new_name('mtkd_cd.datasets.labels') == 'mtkd_cd.data.labels'
    assert new_name('mtkd_cd.datasets.check') == 'mtkd_cd.analysis.check'
    assert new_name('mtkd_cd.workflow.config') == 'mtkd_cd.engine.config'
    assert new_name('mtkd_cd.data.labels') is None


def test_old_import_gives_the_same_objects_and_a_warning():
    code = (
        'import warnings; warnings.simplefilter("always")\n'
        'from mtkd_cd.datasets.labels import read_label\n'
        'import mtkd_cd.car\n'
        'from mtkd_cd.data import labels\n'
        'from mtkd_cd.core import car\n'
        'assert read_label is labels.read_label and mtkd_cd.car is car\n'
        'assert labels.__name__ == labels.__spec__.name == "mtkd_cd.data.labels"\n'
    )
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert 'mtkd_cd.car is mtkd_cd.core.car now' in run.stderr
