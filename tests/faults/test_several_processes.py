"""Faults of one process of a distributed run, and of all: none waits for another that is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from mtkd_cd.core.checkpoint import read_checkpoint
from mtkd_cd.core.locks import alone

REPO = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


class Run:
    """Two processes, as torchrun starts them, without it: it would end the second one itself."""

    def __init__(self, argv: list[str], logs: Path, path: str = '') -> None:
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        shared = {
            'MASTER_ADDR': '127.0.0.1',
            'MASTER_PORT': str(port),
            'WORLD_SIZE': '2',
            'TORCHELASTIC_RUN_ID': 'test',
            'OMP_NUM_THREADS': '1',
            'PYTHONPATH': os.pathsep.join(filter(None, (str(REPO), path))),
        }
        self.files = [logs / f'rank{rank}.txt' for rank in range(2)]
        self.processes = []
        for rank, file in enumerate(self.files):
            with file.open('wb') as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, '-W', 'ignore', '-m', 'mtkd_cd', *argv],
                        env=os.environ | shared | {'RANK': str(rank), 'LOCAL_RANK': str(rank)},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )

    def wait(self) -> tuple[list[int], list[str]]:
        """(exit codes, what they said); a process that hangs, hangs for half an hour."""
        codes = [process.wait(300) for process in self.processes]
        return codes, [file.read_text() for file in self.files]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def start(train_argv, tmp_path):
    """``start(flag..., options=...)`` starts a training in two processes, which end with the
    test."""
    with ExitStack() as runs:

        def begin(*flags: object, path: str = '', config: Path | None = None, **kwargs) -> Run:
            argv = train_argv(
                'origin', '--launcher', 'pytorch', '--device', 'cpu', *flags, **kwargs
            )
            argv[0] = str(config or argv[0])
            run = Run(['train', *argv], tmp_path, path)
            runs.callback(run.close)
            return run

        yield begin


def only_errors(texts: list[str]) -> None:
    assert not any('Traceback' in text for text in texts), '\n'.join(texts)


def test_image_that_one_process_cannot_read_ends_both(start, own_scenes):
    damaged = own_scenes / 'train' / 'A' / '00001.png'
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 255
    damaged.write_bytes(content)
    codes, texts = start(data=own_scenes, options=('train_cfg.max_iters=100',)).wait()
    only_errors(texts)
    assert codes == [2, 2], texts
    assert sorted(text.count(f'error: image {damaged}') for text in texts) == [0, 1]
    assert sum('of this run has ended' in text for text in texts) == 1


def test_second_run_in_a_work_dir_ends_in_all_its_processes(start, tmp_path):
    with alone(tmp_path / 'work' / '.lock'):
        codes, texts = start().wait()
    only_errors(texts)
    assert codes == [2, 2]
    assert f'error: process {os.getpid()} is at work on' in texts[0]
    assert 'process 0 of this run has ended' in texts[1]


def test_sigterm_saves_once_and_ends_all(start, tmp_path):
    work = tmp_path / 'work'
    far = ('train_cfg.max_iters', 'train_cfg.val_interval', 'default_hooks.checkpoint.interval')
    run = start(options=(*(f'{key}=100000' for key in far), 'default_hooks.logger.interval=1'))
    until = time.monotonic() + 240
    # A step has been taken: before it, as in a validation, there is nothing to save.
    while not any(path.stat().st_size for path in work.glob('*/vis_data/*.json')):
        assert time.monotonic() < until
        time.sleep(0.2)
    for process in run.processes:
        process.send_signal(signal.SIGTERM)
    codes, texts = run.wait()
    only_errors(texts)
    assert codes == [143, 143], texts
    (saved,) = work.glob('iter_*.pth')
    assert f'saved {saved}. Go on with the same command and --resume' in texts[0]
    meta = read_checkpoint(saved)['meta']
    assert saved.name == f'iter_{meta["iter"]}.pth'
    assert not json.loads((work / 'run.json').read_text())['finished']


MODULE = """
import torch
from mmengine.hooks import Hook
from mtkd_cd.models.detectors import DIEncoderDecoder
from mtkd_cd.registry import HOOKS, MODELS

@MODELS.register_module()
class LazyDetector(DIEncoderDecoder):  # one parameter takes no part in the loss
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.unused = torch.nn.Parameter(torch.zeros(3))

@HOOKS.register_module()
class WrapperHook(Hook):
    def before_train(self, runner):
        model = runner.model
        print('wrapped', model.find_unused_parameters, model.gradient_as_bucket_view)
"""


@pytest.fixture
def lazy(start, tmp_path):
    """``lazy(config line...)`` trains a detector with a parameter that takes no part in its loss;
    gives the exit codes and what was said."""
    folder = tmp_path / 'modules'
    folder.mkdir()
    (folder / 'lazy_cd.py').write_text(MODULE)

    def train(*lines: str) -> tuple[list[int], list[str]]:
        config = folder / 'lazy.py'
        base = [
            f"_base_ = '{REPO / 'configs/origin/fc_ef.py'}'",
            "custom_imports = dict(imports=['lazy_cd'], allow_failed_imports=False)",
            "model = dict(type='LazyDetector')",
            "custom_hooks = [dict(type='BestWeightsHook'), dict(type='WrapperHook')]",
        ]
        config.write_text('\n'.join([*base, *lines]))
        return start(path=str(folder), config=config).wait()

    return train


@pytest.mark.parametrize(
    ('line', 'wrapped'),
    [
        ('find_unused_parameters = True', 'wrapped True False'),
        (
            "model_wrapper_cfg = dict(type='MMDistributedDataParallel', "
            'find_unused_parameters=True, gradient_as_bucket_view=True)',
            'wrapped True True',
        ),
    ],
)
def test_wrapper_on_the_cpu_is_as_the_config_says(lazy, line, wrapped):
    codes, texts = lazy(line)
    assert codes == [0, 0], texts
    assert all(wrapped in text for text in texts)


def test_unused_parameters_are_explained(lazy):
    codes, texts = lazy()
    only_errors(texts)
    assert codes == [2, 2]
    assert any('find_unused_parameters=True' in text for text in texts)
