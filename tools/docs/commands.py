"""Adds a page to the site that shows the help of every command, as the command prints it."""

import os
import re
import subprocess
import sys
from typing import Any

from mkdocs.structure.files import File, Files

from mtkd_cd.cli.main import GROUPS

_PAGE = 'commands.md'
_HEAD = """# Commands

What `mtkd-cd COMMAND --help` prints, for each command. The scripts in `tools/` take the same
arguments as the commands that they start.
"""
_ACTIONS = re.compile(r'^usage: \S+ \S+ \[-h\] \{([\w,-]+)\} \.\.\.')  # of a command that has some
_WIDTH = 100


def on_files(files: Files, config: Any) -> Files:
    """mkdocs calls this with the pages that it found."""
    parts = [_HEAD]
    for title, group in GROUPS.items():
        parts.append(f'## {title}')
        for name in group:
            text = _help(name)
            parts.append(_section(name, text))
            actions = _ACTIONS.match(text)
            for action in actions.group(1).split(',') if actions else ():
                parts.append(_section(f'{name} {action}', _help(name, action)))
    files.append(File.generated(config, _PAGE, content='\n'.join(parts)))
    return files


def _section(name: str, text: str) -> str:
    return f'### `{name}`\n\n```text\n{text}```\n'


def _help(*command: str) -> str:
    """What the command prints on ``--help``.

    Raises:
        CalledProcessError: It failed.
    """
    return subprocess.run(
        [sys.executable, '-m', 'mtkd_cd', *command, '--help'],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, 'COLUMNS': str(_WIDTH)},
    ).stdout
