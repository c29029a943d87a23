"""``mtkd-cd predict --pairs``: its arguments, and the batch that they ask for."""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtkd_cd.cli.common import ConfigOptions, at_least
from mtkd_cd.core.allocator import pass_over_imports
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.text import some

if TYPE_CHECKING:
    from mtkd_cd.core.jobs import Cluster
    from mtkd_cd.inference.batch import BatchOptions, ModelSource, Row
    from mtkd_cd.inference.pair_lists import PairTask

_SHOWN = 10
_OWN = ('resume', 'assets', 'stac', 'jobs', 'cluster', 'devices', 'threads', 'retries', 'slurm')
# Of a pair, which its list names or which the batch decides on.
_OF_A_PAIR = ('probability', 'vector')


def add_pairs_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`predict_pairs` reads."""
    many = parser.add_argument_group('many pairs')
    many.add_argument(
        '--pairs',
        metavar='LIST',
        help='a CSV file with the columns a,b[,out,mask,date_a,date_b,label], a folder with A/ and '
        'B/, or a JSON file of STAC items, two per pair; then -o is a folder, and --probability '
        "and --vector take '{name}_p.tif'",
    )
    many.add_argument(
        '--resume',
        action='store_true',
        help='keep outputs that are of this model, these inputs and options',
    )
    many.add_argument(
        '--assets', metavar='red,green,blue', help='assets of STAC items that hold the bands'
    )
    many.add_argument(
        '--stac', action='store_true', help='write a STAC item beside each change map'
    )
    many.add_argument(
        '--jobs',
        type=at_least(1),
        help='processes, each with a part of the pairs; default: one per GPU',
    )
    many.add_argument(
        '--devices', nargs='+', type=int, help='local GPUs, a process on each; default all'
    )
    many.add_argument(
        '--cluster', choices=['local', 'slurm'], help='where the processes run; default: here'
    )
    many.add_argument('--threads', type=at_least(1), help='CPU threads of a process')
    many.add_argument(
        '--retries', type=at_least(0), help='times that a killed process is started again (2)'
    )
    many.add_argument(
        '--slurm',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='for submitit: slurm_partition=gpu timeout_min=60 gpus_per_node=1',
    )


def refuse_pairs_arguments(args: argparse.Namespace) -> None:
    """Refuse what only a batch can do.

    Raises:
        UserError: An option without ``--pairs``.
    """
    for name in _OWN:
        if getattr(args, name):
            raise UserError(f'--{name} is for many pairs: give their list with --pairs')


def predict_pairs(
    args: argparse.Namespace,
    options: Mapping[str, Any],
    plan_lines: Callable[[dict[str, Any]], list[str]],
) -> int:
    """Predict the pairs of a list.

    Args:
        args: Parsed arguments of the command.
        options: Arguments of :meth:`~mtkd_cd.inference.inferencer.ChangeInferencer.predict_raster`.
        plan_lines: Makes the lines that describe the plan of a pair.

    Returns:
        The exit code: 1 if a pair failed.

    Raises:
        UserError: A mistake that concerns more than one pair.
    """
    from mtkd_cd.inference.batch import (
        DONE,
        FAILED,
        RESULTS,
        BatchOptions,
        ModelSource,
        run_batch,
    )
    from mtkd_cd.inference.pair_lists import read_pairs

    if args.a is not None:
        raise UserError(f'{args.a}: with --pairs the list names the rasters; leave this out')
    assets = args.assets.split(',') if args.assets else None
    tasks = read_pairs(args.pairs, assets)
    source = ModelSource(
        args.model,
        args.weights,
        args.device,
        args.backend,
        args.trust_checkpoint,
        args.cfg_options or None,
        args.precision,
    )
    wanted = BatchOptions(
        {key: value for key, value in options.items() if key not in _OF_A_PAIR},
        args.probability,
        args.vector,
        args.stac,
        args.resume,
        args.overwrite,
    )
    if args.dry_run:
        return _dry_run(source, tasks, wanted, Path(args.out), plan_lines)
    cluster, shards = _cluster(args)
    pass_over_imports()
    results = run_batch(
        source,
        tasks,
        args.out,
        wanted,
        cluster=cluster,
        shards=shards,
        retries=2 if args.retries is None else args.retries,
        finished=_Progress(len(tasks)),
    )
    failed = results.of_status(FAILED)
    if failed:
        texts = (f'failed: {row["name"]}: {row["error"]}' for row in failed)
        print(some(texts, _SHOWN, '\n'), file=sys.stderr)
    print(f'{len(results.of_status(DONE))} of {len(tasks)} pairs done, {len(failed)} failed')
    print(f'results: {Path(args.out, RESULTS)}')
    return 1 if failed else 0


def _cluster(args: argparse.Namespace) -> tuple['Cluster | None', int]:
    """Where shards run, and how many; ``None`` for one process, this one."""
    import torch

    from mtkd_cd.core.jobs import Cluster

    folder = Path(args.out, '.mtkd_cd_batch', 'jobs')
    if args.cluster == 'slurm':
        if not args.jobs:
            raise UserError('--cluster slurm: say in how many jobs with --jobs')
        return Cluster(folder, 'slurm', threads=args.threads, slurm=args.slurm or {}), args.jobs
    if args.slurm:
        raise UserError('--slurm is about --cluster slurm, which is not given')
    devices: tuple[int, ...] = ()
    if args.devices is not None:
        devices = tuple(args.devices)
        missing = [device for device in devices if device >= torch.cuda.device_count()]
        if missing:
            raise UserError(
                f'--devices {missing[0]}: torch finds {torch.cuda.device_count()} GPUs here'
            )
    elif args.device in ('auto', 'cuda') and torch.cuda.device_count() > 1:
        devices = tuple(range(torch.cuda.device_count()))
    shards = args.jobs or max(1, len(devices))
    if shards == 1 and not devices:
        return None, 1
    return Cluster(folder, jobs=shards, devices=devices, threads=args.threads), shards


def _dry_run(
    source: 'ModelSource',
    tasks: 'list[PairTask]',
    wanted: 'BatchOptions',
    folder: Path,
    plan_lines: Callable[[dict[str, Any]], list[str]],
) -> int:
    inferencer = source.open()
    failed = 0
    for task in tasks:
        if len(task.a) > 1 or len(task.b) > 1:
            print(f'{task.name}: bands {", ".join(task.a)} and {", ".join(task.b)}')
            continue
        files = wanted.files(task, folder)
        options = dict(wanted.raster, mask=task.mask or wanted.raster.get('mask'))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', UserWarning)
                result = inferencer.predict_raster(
                    task.a[0],
                    task.b[0],
                    files['change'],
                    probability=files.get('probability'),
                    vector=files.get('vector'),
                    **options,
                )
        except UserError as error:
            failed += 1
            print(f'{task.name}: {error}', file=sys.stderr)
            continue
        print('\n  '.join([f'{task.name}:', *plan_lines(result.report)]))
    return 1 if failed else 0


class _Progress:
    """One line on a terminal: how many pairs, how long."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.start = time.perf_counter()

    def __call__(self, row: 'Row') -> None:
        self.done += 1
        for note in filter(None, str(row['warnings']).split(' | ')):
            print(f'warning: {row["name"]}: {note}', file=sys.stderr)
        if not sys.stderr.isatty():
            return
        left = (time.perf_counter() - self.start) / self.done * (self.total - self.done)
        text = f'{self.done} of {self.total} pairs  {left:.0f} s left'
        end = '' if self.done < self.total else '\n'
        print(f'\r{text:<60}', end=end, file=sys.stderr, flush=True)
