"""Run an experiment, models x seeds x strategies, as jobs of this machine or of Slurm, and gather
one table. Call it again to go on."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from mtkd_cd.cli.common import ConfigOptions, add_trust_argument, at_least
from mtkd_cd.cli.options import add_options
from mtkd_cd.core.files import CONFIGS

_NOT_OF_EXPERIMENT = (
    *('thresholds', 'routing', 'teachers', 'match', 'folds'),
    *('seed', 'launcher', 'show_dir'),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and gather; 1 if a cell is missing in the end."""
    args = _parse(argv)
    until = time.time() + 60 * args.minutes if args.minutes else None

    import torch

    from mtkd_cd.core.jobs import Cluster
    from mtkd_cd.experiments.matrix import (
        RUN_SETTINGS,
        as_budgeted,
        gather,
        read_experiment,
        run_matrix,
        within,
    )

    settings = ('models', 'seeds', 'strategies', 'work_dir', *RUN_SETTINGS)
    overrides = {name: value for name in settings if (value := getattr(args, name)) is not None}
    experiment = read_experiment(args.settings, CONFIGS, overrides)
    if args.gather:
        experiment = as_budgeted(experiment)
        matrix = gather(experiment)
    else:
        slurm = dict(
            slurm_partition=args.slurm_partition,
            timeout_min=args.time,
            gpus_per_node=args.gpus,
            mem_gb=args.memory,
        )
        cluster = Cluster(
            folder=experiment.work_dir / 'jobs',
            kind=args.cluster,
            jobs=args.jobs,
            devices=tuple(range(torch.cuda.device_count()))
            if args.devices is None
            else tuple(args.devices),
            threads=args.threads,
            nice=args.nice,
            slurm={**slurm, 'slurm_additional_parameters': args.slurm_options},
        )
        if until is not None and not args.full_length:
            experiment = within(experiment, cluster, until)
        matrix = run_matrix(experiment, cluster, args.retries, until)
    print(f'\n{matrix.as_markdown()}\nwritten to {experiment.work_dir}/matrix.md, .csv and .json')
    return 0 if matrix.complete else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_argument_group('what to run; each overrides the settings file')
    what.add_argument(
        '--settings',
        type=Path,
        help='file that holds the experiment, for instance configs/experiments/ombria.py',
    )
    what.add_argument('--models', nargs='+')
    what.add_argument('--seeds', nargs='+', type=int)
    what.add_argument(
        '--strategies', nargs='+', help='origin, continued, op, mtkd, and variants such as op@0.1'
    )
    add_options(what, leave_out=_NOT_OF_EXPERIMENT, unset=True)
    add_trust_argument(parser)
    where = parser.add_argument_group('where and how')
    where.add_argument(
        '--cluster',
        choices=['local', 'processes', 'slurm', 'debug'],
        default='local',
        help='processes: as local, without submitit; debug: in this process',
    )
    where.add_argument(
        '--jobs',
        type=at_least(1),
        help='at most so many at a time; default: one per GPU, on Slurm all',
    )
    where.add_argument(
        '--devices', nargs='*', type=int, help='local GPUs, default all; none for the CPU'
    )
    where.add_argument('--threads', type=at_least(1), help='CPU threads of a job')
    where.add_argument(
        '--nice', type=at_least(0), default=0, help='added to the niceness of local jobs'
    )
    where.add_argument(
        '--retries',
        type=at_least(0),
        default=1,
        help='times that a killed or failed job is started again',
    )
    where.add_argument(
        '--minutes',
        type=float,
        help='measure the speed first, shorten the trainings so that they end in time, and stop '
        'then; the longest trainings are those of the settings',
    )
    where.add_argument(
        '--full-length',
        action='store_true',
        help='with --minutes: neither measure nor shorten, only stop then; another call goes on',
    )
    where.add_argument(
        '--gather', action='store_true', help='run nothing, write the table of what there is'
    )
    where.add_argument('--slurm-partition', '--partition', help="Slurm's partition")
    where.add_argument(
        '--time',
        type=at_least(1),
        help='minutes of a Slurm job; one that runs out is started again',
    )
    where.add_argument('--gpus', type=at_least(0), help='GPUs of a Slurm job')
    where.add_argument('--memory', type=float, help='GiB of a Slurm job')
    where.add_argument(
        '--slurm-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='further options of sbatch',
    )
    return parser.parse_args(argv)
