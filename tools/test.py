"""Test a config: the trained weights in the stage's place, a checkpoint, or (configs/op) the cascade of origin and specialists."""

import argparse
from collections.abc import Sequence

from mtkd_cd.workflow.cli import add_machine_arguments, add_run_arguments, run_tool
from mtkd_cd.workflow.config import is_cascade, load_config, set_machine, set_partition, work_dir_of
from mtkd_cd.workflow.run import BEST, run_test


def main(argv: Sequence[str] | None = None) -> None:
    """Test a config; without CHECKPOINT, the ``best.pth`` that its training left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='for instance configs/mtkd/fc_ef.py')
    parser.add_argument('checkpoint', nargs='?', help='weights; default: best.pth in the work dir of the training')
    parser.add_argument('--show-dir', help='write date A, date B, label, prediction and error map of each image here')
    parser.add_argument('--out', help='write the table of each image here, .json or .csv')
    parser.add_argument('--partition', help='CAR range of the specialist to test: small, medium or large')
    add_run_arguments(parser)
    add_machine_arguments(parser)
    args = parser.parse_args(argv)

    cfg = load_config(args.config, args.cfg_options)
    if args.partition:
        set_partition(cfg, args.partition)
    training_dir = work_dir_of(cfg)
    checkpoint = args.checkpoint or (None if is_cascade(cfg) else training_dir / BEST)
    cfg.work_dir = args.work_dir or str(training_dir / 'test')
    set_machine(cfg, args.device, args.launcher)
    run_test(cfg, checkpoint, out=args.out, show_dir=args.show_dir, trusted=args.trust_checkpoint)


if __name__ == '__main__':
    run_tool(main)
