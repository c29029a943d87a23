"""Test a config: the trained weights in the strategy's place, a checkpoint, or (configs/op) the
cascade of origin and specialists.

Prints the means of the per-image scores with their intervals, and pooled scores (docs/evaluation.md
says what each figure is), and keeps the table of each image in the work dir.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mtkd_cd.cli.common import (
    add_data_arguments,
    add_machine_arguments,
    add_precision_argument,
    add_range_argument,
    add_run_arguments,
    apply_data_arguments,
)
from mtkd_cd.core.strategy import BEST, TEST_TABLE
from mtkd_cd.evaluation.image_table import NUM_QUANTILES, check_table_suffix, load_table


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='for instance configs/mtkd/fc_ef.py')
    parser.add_argument(
        'checkpoint', nargs='?', help='weights; default: best.pth in the work dir of the training'
    )
    parser.add_argument(
        '--show-dir',
        help='write date A, date B, label, prediction and error map of each image here',
    )
    parser.add_argument(
        '--out',
        help='write the table of each image here too, .json or .csv; '
        f'{TEST_TABLE} in the work dir has it anyway',
    )
    add_range_argument(parser)
    parser.add_argument(
        '--tta',
        action='store_true',
        help="average over views of each pair: the config's tta_pipeline, else mirrored both ways",
    )
    add_precision_argument(parser, default=None)
    add_data_arguments(parser)
    add_run_arguments(parser)
    add_machine_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Test a config; without CHECKPOINT, the ``best.pth`` that its training left."""
    args = _parse(argv)

    from mmengine.dist import is_main_process

    from mtkd_cd.engine.config import is_cascade, load_config, strategy_of, work_dir_of
    from mtkd_cd.engine.costs import set_precision
    from mtkd_cd.engine.inputs import set_range
    from mtkd_cd.engine.machine import set_machine
    from mtkd_cd.engine.testing import per_image_evaluator, run_test, set_provenance

    if args.out:
        check_table_suffix(args.out)

    cfg = load_config(args.config, args.cfg_options, ('model', 'test_dataloader'))
    if args.range:
        set_range(cfg, args.range)
    apply_data_arguments(cfg, args)
    training_dir = work_dir_of(cfg)
    checkpoint = args.checkpoint or (None if is_cascade(cfg) else training_dir / BEST)
    cfg.work_dir = args.work_dir or str(training_dir / 'test')
    set_machine(cfg, args.device, args.launcher)
    if args.precision:
        set_precision(cfg, args.precision)
    set_provenance(cfg, strategy_of(cfg))
    # JSON, whatever --out says: it keeps the CAR ranges too.
    path = Path(cfg.work_dir, TEST_TABLE)
    run_test(
        cfg,
        checkpoint,
        out=path,
        copy=args.out,
        show_dir=args.show_dir,
        trusted=args.trust_checkpoint,
        tta=args.tta,
        terse=True,
    )
    if not is_main_process():
        return
    if not cfg.test_evaluator:
        print(f'the pairs have no labels: nothing is scored; masks: {args.show_dir}/prediction')
        return
    table = load_table(path)
    print(f'\n{table.report(per_image_evaluator(cfg).get("num_quantiles", NUM_QUANTILES))}\n')
    print(f'per-image table: {path}')
    if args.out:
        table.save(args.out)
        print(f'per-image table: {args.out}')
