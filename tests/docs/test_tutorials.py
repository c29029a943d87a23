"""The tutorials, run as their readers run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
TUTORIALS = sorted((REPO / 'docs' / 'tutorials').glob('*.md'))
# ```bash and ```python blocks; those without a language show what is not run.
_BLOCK = re.compile(
    r'^```(?P<language>bash|python)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$', re.M | re.S
)
_RESULTS = {
    'own-data': ['compare/report.html', 'work_dirs/mtkd/fc_ef/fc_ef.mtkd', 'change.png'],
    'own-detector': ['work_dirs/mtkd/my_origin/best.pth'],
    'from-open-cd': ['mtkd.py', 'parts/large.pth', 'work_dirs/from_opencd/best.pth'],
}


def script_of(page: Path) -> str:
    """A shell script of a page's blocks: one with a title is a file, another is run."""
    lines = ['set -euo pipefail']
    for number, block in enumerate(_BLOCK.finditer(page.read_text())):
        code = block['code'].rstrip('\n')
        if block['title']:
            lines.append(f"cat > {block['title']} <<'END_{number}'\n{code}\nEND_{number}")
        elif block['language'] == 'python':
            lines.append(f"python - <<'END_{number}'\n{code}\nEND_{number}")
        else:
            lines.append(code)
    return '\n'.join(lines) + '\n'


def test_every_tutorial_has_blocks_to_run():
    assert {page.stem for page in TUTORIALS} == set(_RESULTS)
    assert all('mtkd-cd ' in script_of(page) for page in TUTORIALS)


@pytest.mark.slow
@pytest.mark.parametrize('page', TUTORIALS, ids=lambda page: page.stem)
def test_tutorial_runs(page, tmp_path):
    commands = tmp_path / 'bin'
    commands.mkdir()
    for name, call in (('mtkd-cd', '-m mtkd_cd'), ('python', '')):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {call} "$@"\n')
        (commands / name).chmod(0o755)
    where = tmp_path / 'reader'
    where.mkdir()
    environment = {
        **os.environ,
        'PATH': f'{commands}:{os.environ["PATH"]}',
        'PYTHONPATH': str(REPO),
        'OMP_NUM_THREADS': '1',
        'CUDA_VISIBLE_DEVICES': '',
    }
    done = subprocess.run(
        ['bash', '-c', script_of(page)],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for result in _RESULTS[page.stem]:
        assert (where / result).is_file(), result
