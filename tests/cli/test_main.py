"""The command ``mtkd-cd``: its table, help and errors."""

import os
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mtkd_cd.cli.main import COMMANDS, GROUPS, main
from mtkd_cd.version import __version__

REPO = Path(__file__).parents[2]


def called(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    return ended.value.code, *capsys.readouterr()


def test_help_lists_every_command_in_its_group(capsys):
    code, out, _ = called(capsys, '--help')
    assert code == 0
    for title, group in GROUPS.items():
        part = out.partition(f'{title}:\n')[2].partition('\n\n')[0]
        assert [line.split()[0] for line in part.splitlines()] == list(group)


def test_no_command_is_a_usage_error_that_shows_them(capsys):
    code, out, _ = called(capsys)
    assert code == 2
    assert 'make-synthetic' in out


def test_help_whose_reader_has_seen_enough_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, '-m', 'mtkd_cd', '--help']
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, '')


def test_version(capsys):
    assert called(capsys, '--version') == (0, f'mtkd-cd {__version__}\n', '')


@pytest.mark.parametrize(
    ('typed', 'said'),
    [
        ('trian', "did you mean 'train'?"),
        ('check_data', "did you mean 'check-data'?"),
        ('zzz', 'mtkd-cd --help lists the commands'),
    ],
)
def test_unknown_command_names_the_similar_one(typed, said, capsys):
    code, out, err = called(capsys, typed)
    assert (code, out) == (2, '')
    assert err.startswith(f'error: there is no command {typed!r}')
    assert said in err


def test_a_command_gets_its_arguments_and_ends_with_its_code(tmp_path, capsys):
    root = tmp_path / 'data'
    argv = ['--num-train', '2', '--num-test', '1', '--size', '64']
    assert called(capsys, 'make-synthetic', str(root), *argv)[0] == 0
    assert len(list((root / 'train' / 'label').iterdir())) == 2
    code, _, err = called(capsys, 'make-synthetic', str(root), *argv)
    assert code == 2
    assert err.startswith('error: ')
    assert 'is not empty' in err


def test_every_tool_of_the_repository_is_a_command():
    """tools/*.py run the main of a command's module, but those that only this repository needs."""
    mains = {import_module(f'mtkd_cd.cli.{command.module}').main for command in COMMANDS.values()}
    found = sorted((REPO / 'tools').rglob('*.py'))
    tools = [tool for tool in found if 'run_tool(main)' in tool.read_text()]
    others = {tool.name for tool in found if tool not in tools}
    assert others == {
        'by_set.py',
        'commands.py',
        'pack_data.py',
        'page_screenshots.py',
        'sources.py',
    }
    assert len(tools) >= 15
    for tool in tools:
        assert runpy.run_path(str(tool))['main'] in mains, tool
