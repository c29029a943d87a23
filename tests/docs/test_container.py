"""The container file, where no builder is at hand: what it copies is there and sent, what it
installs is an extra of ours, and what it runs is the page."""

import ast
import re
from pathlib import Path

import pytest

from mtkd_cd.cli.demo import _parser

tomllib = pytest.importorskip('tomllib')
REPO = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def steps() -> list[tuple[str, str]]:
    """(instruction, arguments) in their order, continued lines joined."""
    lines = (REPO / 'Dockerfile').read_text().splitlines()
    text = '\n'.join(line for line in lines if not line.startswith('#'))
    joined = re.sub(r'\s*\\\n\s*', ' ', text)
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def arguments(steps, instruction):
    return [rest for name, rest in steps if name == instruction]


def test_every_instruction_is_known(steps):
    known = 'FROM ARG RUN WORKDIR COPY USER ENV EXPOSE HEALTHCHECK ENTRYPOINT CMD'
    assert ' '.join(dict.fromkeys(name for name, _ in steps)) == known
    assert steps[0][0] == 'FROM'
    assert ':' in steps[0][1]  # a fixed base


def test_what_is_copied_exists_and_is_sent_to_the_builder(steps):
    ignore = (REPO / '.dockerignore').read_text().split()
    copied = [source for rest in arguments(steps, 'COPY') for source in rest.split()[:-1]]
    assert copied
    for source in copied:
        assert (REPO / source).exists(), source
        assert f'!{source}' in ignore, source
    project = tomllib.loads((REPO / 'pyproject.toml').read_text())['project']
    assert {project['readme'], *project['license-files']} <= set(copied)


def test_torch_is_the_one_of_the_build_arguments(steps):
    found = dict(rest.split('=', 1) for rest in arguments(steps, 'ARG'))
    makefile = (REPO / 'Makefile').read_text()
    assert found['TORCH'] == re.search(r'^TORCH \?= (\S+)$', makefile, re.MULTILINE)[1]
    assert found['TORCH_INDEX'].endswith('/cpu')
    pip = [rest for rest in arguments(steps, 'RUN') if 'pip install' in rest]
    assert '--index-url "${TORCH_INDEX}" "${TORCH}"' in pip[0]  # before the rest asks for any torch
    extra = re.search(r"'\.\[(\w+)\]'", pip[1])[1]
    project = tomllib.loads((REPO / 'pyproject.toml').read_text())['project']
    assert extra in project['optional-dependencies']


def test_page_is_served_to_other_machines_by_an_ordinary_user(steps):
    names = [name for name, _ in steps]
    user = arguments(steps, 'USER')[-1]
    assert int(user) > 0
    assert any(f'--uid {user}' in rest for rest in arguments(steps, 'RUN'))
    assert 'RUN' not in names[names.index('USER') :]
    program, command = (ast.literal_eval(*arguments(steps, name)) for name in ('ENTRYPOINT', 'CMD'))
    assert [*program, command[0]] == ['mtkd-cd', 'demo']
    args = _parser().parse_args(command[1:])
    assert args.host == '0.0.0.0'
    assert arguments(steps, 'EXPOSE') == [str(args.port)]
    assert f'127.0.0.1:{args.port}' in arguments(steps, 'HEALTHCHECK')[0]
