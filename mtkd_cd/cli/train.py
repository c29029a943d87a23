"""Train a config: an origin, a specialist of one CAR range, or a student."""

import argparse
from collections.abc import Sequence

from mtkd_cd.cli.common import (
    add_cost_arguments,
    add_data_arguments,
    add_machine_arguments,
    add_range_argument,
    add_run_arguments,
    apply_cost_arguments,
    apply_data_arguments,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Train a config, in ``work_dirs/<strategy>/<model>[/<range>]`` unless ``--work-dir`` says
    otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='for instance configs/origin/fc_ef.py')
    parser.add_argument(
        '--resume', action='store_true', help='go on with the run in the work dir, or start it'
    )
    add_cost_arguments(parser)
    add_range_argument(parser)
    add_data_arguments(parser)
    add_run_arguments(parser)
    add_machine_arguments(parser)
    args = parser.parse_args(argv)

    from mtkd_cd.engine.checkup import TRAINING_NEEDS
    from mtkd_cd.engine.config import load_config
    from mtkd_cd.engine.inputs import set_range
    from mtkd_cd.engine.machine import set_machine
    from mtkd_cd.engine.training import prepare_training, run_training

    cfg = load_config(args.config, args.cfg_options, TRAINING_NEEDS)
    if args.range:
        set_range(cfg, args.range)
    apply_data_arguments(cfg, args)
    if args.work_dir:
        cfg.work_dir = args.work_dir
    set_machine(cfg, args.device, args.launcher)
    apply_cost_arguments(cfg, args)
    record = run_training(prepare_training(cfg), resume=args.resume)
    print(
        f'best {record["metric"]}: {record["score"]} at iteration {record["iter"]}, in '
        f'{cfg.work_dir}/best.pth'
    )
