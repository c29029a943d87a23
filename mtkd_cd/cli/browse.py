"""Draw the pairs of a config's training as the model will see them, after augmentation, with the
CAR range that decides on their teacher.

They are the first ones of the run with the config's seed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtkd_cd.cli.common import (
    add_config_options,
    add_data_arguments,
    add_range_argument,
    apply_data_arguments,
    at_least,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Write sheets of a few pairs each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='for instance configs/mtkd/fc_ef.py')
    parser.add_argument(
        '--num', type=at_least(1), default=16, help='pairs to draw (default: %(default)s)'
    )
    parser.add_argument(
        '--rows', type=at_least(1), default=4, help='pairs on a sheet (default: %(default)s)'
    )
    parser.add_argument(
        '--out', help='folder to write to (default: browse in the work dir of the config)'
    )
    add_range_argument(parser)
    add_data_arguments(parser)
    parser.add_argument('--seed', type=at_least(0), help="default: the config's")
    add_config_options(parser)
    args = parser.parse_args(argv)

    from mtkd_cd.analysis.browse import pairs_summary, partition_of, training_pairs, write_pairs
    from mtkd_cd.engine.config import load_config, work_dir_of
    from mtkd_cd.engine.inputs import set_range

    cfg = load_config(args.config, args.cfg_options)
    apply_data_arguments(cfg, args)
    if args.range:
        set_range(cfg, args.range)
    pairs = list(training_pairs(cfg, args.num, args.seed))
    out = args.out or Path(work_dir_of(cfg), 'browse')
    written = write_pairs(pairs, out, args.rows, _data_folders(cfg.train_dataloader.dataset))
    files = ', '.join(map(str, written[:3])) + (', ...' if len(written) > 3 else '')
    print(f'{pairs_summary(pairs, partition_of(cfg))}\ndrawn in {files}')


def _data_folders(dataset: Any) -> list[str]:
    while 'dataset' in dataset:
        dataset = dataset.dataset
    root = dataset.get('data_root')
    # A root that holds the current folder holds more than data.
    return [root] if root and not Path.cwd().is_relative_to(Path(root).resolve()) else []
