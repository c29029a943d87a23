"""The package as its users get it: built, installed somewhere, run from somewhere else."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', REPO, '--no-deps', '-q', '-w', folder], check=True
    )
    return next(folder.glob('*.whl'))


@pytest.mark.slow
def test_wheel_holds_what_the_tools_need(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {path.relative_to(REPO).as_posix() for path in REPO.glob('mtkd_cd/configs/**/*.py')}
    assert package <= names
    assert (REPO / 'configs').resolve() == REPO / 'mtkd_cd' / 'configs'
    data = [*REPO.glob('mtkd_cd/**/*.json'), *REPO.glob('mtkd_cd/**/*.css')]
    assert {path.relative_to(REPO).as_posix() for path in data} <= names
    assert not any(name.startswith(('tests/', 'configs/', 'tools/')) for name in names)


@pytest.mark.slow
def test_installed_wheel_runs_the_recipe_outside_the_repository(wheel, tmp_path):
    """The environment's other packages are used; the package itself is the installed one."""
    site = tmp_path / 'site'
    install = ['install', '--no-deps', '-q', '--target', site, wheel]
    subprocess.run([sys.executable, '-m', 'pip', *install], check=True)
    script = site / 'bin' / 'mtkd-cd'
    where = tmp_path / 'elsewhere'
    where.mkdir()

    def call(*argv):
        environment = {**os.environ, 'PYTHONPATH': str(site), 'OMP_NUM_THREADS': '1'}
        command = [sys.executable, script, *argv]
        done = subprocess.run(
            command, cwd=where, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    located = ['-c', 'import mtkd_cd; print(mtkd_cd.__file__)']
    found = subprocess.run(
        [sys.executable, *located],
        cwd=where,
        env={**os.environ, 'PYTHONPATH': str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(str(site))
    call('make-synthetic', 'data', '--num-train', '24', '--num-test', '4', '--size', '64')
    said = call(
        *['recipe', 'fc_ef', '--data-root', 'data', '--image-size', '64', '--iters', '2'],
        *['--val-interval', '2', '--batch-size', '2', '--num-workers', '0', '--device', 'cpu'],
        *['--cfg-options', 'model.backbone.base_channel=4', 'model.decode_head.in_channels=4'],
        'model.decode_head.channels=4',
    )
    assert 'mtkd' in said.lower()
    assert (where / 'work_dirs' / 'mtkd' / 'fc_ef' / 'best.pth').is_file()
