"""Tiny scenes, and the tools as their users call them."""

import multiprocessing
import os
import runpy
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.logging import MMLogger
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from mtkd_cd.cli.common import run_tool
from mtkd_cd.data.synthetic import make_dataset

REPO = Path(__file__).parents[1]
# fc_ef on crops of 32 x 32: the smallest thing that is trained, on the CPU, in this process.
TINY = (
    'model.backbone.base_channel=4',
    'model.decode_head.in_channels=4',
    'model.decode_head.channels=4',
)
SIZE = 20  # of the pairs that `write_pairs` writes
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
TINY_LOADERS = tuple(
    f'{loader}.{key}' for loader in LOADERS for key in ('num_workers=0', 'persistent_workers=False')
)
# mmengine collects garbage in the whole process whenever it serialises a data set.
UNSERIALIZED = tuple(f'{loader}.dataset.serialize_data=False' for loader in LOADERS)


@pytest.fixture(autouse=True)
def one_thread():
    """Processes are forked here: a pool of threads does not survive that."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def convolved() -> Iterator[set[torch.dtype]]:
    """The types of what convolutions gave, in whatever module of this process."""
    found: set[torch.dtype] = set()

    def note(module, args, output):
        if isinstance(module, nn.Conv2d):
            found.add(output.dtype)

    hook = register_module_forward_hook(note)
    yield found
    hook.remove()


@pytest.fixture(scope='session')
def in_two_processes(tmp_path_factory) -> Callable[..., None]:
    """``in_two_processes(work, *args)`` calls ``work(*args)`` in two forked processes of one gloo
    group, which need not import torch and mmsegmentation again."""

    def member(rank, store, work, args):
        try:
            dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
            work(*args)
            dist.barrier()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)  # past the interpreter's teardown, where gloo's threads now and then abort

    def run(work, *args):
        store = tmp_path_factory.mktemp('group') / 'store'
        fork = multiprocessing.get_context('fork')
        processes = [fork.Process(target=member, args=(rank, store, work, args)) for rank in (0, 1)]
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.join(120)
        finally:
            for process in processes:
                process.kill()
        assert [process.exitcode for process in processes] == [0, 0]

    return run


@pytest.fixture(scope='session')
def scenes(tmp_path_factory) -> Path:
    """A data set that tests read only."""
    root = tmp_path_factory.mktemp('scenes') / 'data'
    make_dataset(root, num_train=24, num_test=7, size=64, seed=0)
    return root


@pytest.fixture
def own_scenes(scenes, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(scenes, tmp_path / 'own'))


@pytest.fixture
def tool(capfd) -> Callable[..., tuple[int, str]]:
    """``tool('train', *argv)`` runs a tool as the command line does; gives the exit code and what
    it said on stderr."""

    def run(name: str, *argv: object) -> tuple[int, str]:
        # one process, one command line: loggers of earlier ones write to streams that pytest has
        # closed
        MMLogger._instance_dict.clear()
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            run_tool(
                runpy.run_path(str(REPO / 'tools' / f'{name}.py'))['main'],
                [str(arg) for arg in argv],
            )
        return int(exit_info.value.code or 0), capfd.readouterr().err

    return run


@pytest.fixture
def train_argv(scenes, tmp_path) -> Callable[..., list[str]]:
    """Arguments of tools/train.py for a tiny run of four iterations in ``<tmp_path>/work``;
    ``options`` override config entries."""

    def argv(
        stage: str = 'origin', *flags: object, data: Path = scenes, options: tuple[str, ...] = ()
    ) -> list[str]:
        schedule = (
            'train_cfg.max_iters=4',
            'train_cfg.val_interval=2',
            'default_hooks.checkpoint.interval=2',
            'train_dataloader.batch_size=2',
        )
        inner = 'dataset.dataset' if stage == 'partition' else 'dataset'
        train, val, test = (
            f'train_dataloader.{inner}',
            f'val_dataloader.{inner}',
            'test_dataloader.dataset',
        )
        roots = [
            f'{dataset}.{key}'
            for dataset in (train, val, test)
            for key in (f'data_root={data}', 'serialize_data=False')
        ]
        sizes = [f'{train}.pipeline.3.crop_size=32,32']
        config = REPO / 'configs' / stage / 'fc_ef.py'
        all_options = [*TINY, *TINY_LOADERS, *schedule, *roots, *sizes, 'log_level=ERROR', *options]
        return [
            str(config),
            '--work-dir',
            str(tmp_path / 'work'),
            *map(str, flags),
            '--cfg-options',
            *all_options,
        ]

    return argv


@pytest.fixture
def recipe_argv(scenes, tmp_path) -> Callable[..., list[str]]:
    """Arguments of tools/run_mtkd.py for a tiny recipe in ``<tmp_path>/<place>``."""

    def argv(*flags: object, place: str = 'recipe', data: Path = scenes) -> list[str]:
        size = (
            '--iters',
            4,
            '--image-size',
            32,
            '--batch-size',
            2,
            '--num-workers',
            0,
            '--val-interval',
            2,
        )
        places = ('--data-root', data, '--work-dir', tmp_path / place)
        return ['fc_ef', *map(str, (*places, *size, *flags)), '--cfg-options', *TINY, *UNSERIALIZED]

    return argv


def label_with(changed: int) -> np.ndarray:
    """(20, 20) of 0 and 255 with that many changed pixels: CAR = changed / 400."""
    label = np.zeros(SIZE * SIZE, np.uint8)
    label[:changed] = 255
    return label.reshape(SIZE, SIZE)


@pytest.fixture
def write_pairs():
    """Write pairs of 20 x 20 pixels: ``write_pairs(folder, [changed pixels of each], ...)`` returns
    the file names."""

    def write(
        folder,
        changed,
        folders=('A', 'B', 'label'),
        suffix='.png',
        label_suffix=None,
        white=255,
        names=None,
        seed=0,
    ):
        rng = np.random.default_rng(seed)
        names = names or [f'{index:03d}' for index in range(len(changed))]
        for name, count in zip(names, changed):
            images = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2)]
            label = label_with(count) // 255 * white
            for sub, array, ending in zip(
                folders, [*images, label], [suffix, suffix, label_suffix or suffix]
            ):
                path = Path(folder) / sub / f'{name}{ending}'
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), array)
        return [f'{name}{suffix}' for name in names]

    return write
