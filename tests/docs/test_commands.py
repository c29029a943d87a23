"""The commands in the documentation exist and take the options that it gives them."""

import contextlib
import io
import re
from importlib import import_module
from pathlib import Path

import pytest

from mtkd_cd.cli.main import COMMANDS

REPO = Path(__file__).parents[2]
PAGES = [REPO / 'README.md', REPO / 'mtkd_cd' / 'configs' / 'README.md']
PAGES += sorted((REPO / 'docs').glob('**/*.md'))
# A command up to the end of its line, of its inline code, or of the comment behind it; a backslash
# goes on.
_COMMAND = re.compile(r'mtkd-cd ((?:\\\n|[^`\n#])+)')
_ACTIONS = {'bundle': [['create'], ['inspect'], ['verify']], 'tables': [['pack'], ['unpack']]}
_OPTION = re.compile(r'(?<![\w-])--[a-z][a-z-]*')


def commands_of(page: Path) -> list[tuple[str, list[str]]]:
    """Name and options of each ``mtkd-cd`` command on a page."""
    found = []
    for match in _COMMAND.finditer(page.read_text()):
        name, *rest = match[1].split(maxsplit=1)
        if re.fullmatch('[a-z][a-z-]*', name):
            found.append((name, _OPTION.findall(rest[0]) if rest else []))
    return found


@pytest.fixture(scope='module')
def known_options():
    """What each command takes, read from its ``--help``."""
    said = {}
    for name, command in COMMANDS.items():
        texts = []
        for action in _ACTIONS.get(name, [[]]):
            out = io.StringIO()
            with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
                import_module(f'mtkd_cd.cli.{command.module}').main([*action, '--help'])
            texts.append(out.getvalue())
        said[name] = set(_OPTION.findall(' '.join(texts)))
    return said


def test_commands_in_the_documentation_exist_with_their_options(known_options):
    wrong, number = [], 0
    for page in PAGES:
        for name, options in commands_of(page):
            number += 1
            where = f'{page.relative_to(REPO)}: mtkd-cd {name}'
            if name not in COMMANDS:
                wrong.append(where)
            else:
                wrong += [f'{where} {o}' for o in options if o not in known_options[name]]
    assert number > 50
    assert not wrong, '\n'.join(wrong)


def test_files_that_the_documentation_links_and_names_exist():
    missing = []
    for page in PAGES:
        text = page.read_text()
        for target in re.findall(r'\]\((?!https?:)([^)#]+)', text):
            if not (page.parent / target).exists():
                missing.append(f'{page.relative_to(REPO)}: {target}')
        for path in re.findall(r'`((?:mtkd_cd|tests|benchmarks|tools)/[\w/]+\.\w+)', text):
            if not (REPO / path).is_file():
                missing.append(f'{page.relative_to(REPO)}: {path}')
    assert not missing, '\n'.join(missing)
