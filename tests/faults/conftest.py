"""Faults injected into a tool that runs in a process of its own, at exact moments."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

# (event, arguments) of Python's audit hooks
Moment = Callable[[str, tuple], bool]


@pytest.fixture
def struck(tool, tmp_path) -> Callable[..., tuple[int, str]]:
    """``struck(moment, blow, name, *argv)`` runs a tool and calls ``blow()`` once, the first time
    that ``moment(event, arguments)`` holds; gives the exit code and what was said on stderr."""
    said = tmp_path / 'said.txt'

    def run(moment: Moment, blow: Callable[[], Any], name: str, *argv: object) -> tuple[int, str]:
        def child():
            # As from a terminal: what a shell starts in the background ignores it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            waiting = [True]

            def hook(event, args):
                if waiting and moment(event, args):
                    waiting.clear()
                    blow()

            sys.addaudithook(hook)
            code, err = tool(name, *argv)
            waiting.clear()
            said.write_text(err)
            os._exit(code)

        said.unlink(missing_ok=True)
        process = multiprocessing.get_context('fork').Process(target=child)
        process.start()
        process.join(300)
        code = process.exitcode
        process.kill()  # should it hang, the tests need not
        return code, said.read_text() if said.is_file() else ''

    return run


@pytest.fixture
def outcome() -> Callable[[Path], tuple]:
    """What a finished run leaves but for times: its record, its best weights, its curve."""

    def read(work_dir: Path) -> tuple:
        record = json.loads((work_dir / 'run.json').read_text())
        record.pop('seconds')
        weights = torch.load(work_dir / 'best.pth', weights_only=True)['state_dict']
        numbers = {name: value.numpy().tobytes() for name, value in weights.items()}
        return record, numbers, (work_dir / 'curve.csv').read_text()

    return read
