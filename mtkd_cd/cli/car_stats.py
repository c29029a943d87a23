"""How the Change Area Ratios (CAR) of a data set are distributed, what thresholds make of them, and
which ones suggest themselves."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mtkd_cd.analysis.car_stats import (
    candidate_name,
    config_text,
    propose_for,
    read_splits,
    save_stats,
    stats_text,
)
from mtkd_cd.analysis.check import draw_car_histograms
from mtkd_cd.cli.common import add_data_set_arguments, at_least
from mtkd_cd.core.car import DEFAULT_THRESHOLDS, CARPartition
from mtkd_cd.drawing.quick_start import import_matplotlib_quickly


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables; with --suggest, the config lines too."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_set_arguments(parser)
    parser.add_argument(
        '--thresholds',
        type=float,
        nargs='+',
        action='append',
        help='candidate CAR thresholds; may be given several times '
        f'(default: {" ".join(map(str, DEFAULT_THRESHOLDS))})',
    )
    parser.add_argument(
        '--suggest',
        type=at_least(2),
        metavar='K',
        help='propose thresholds for K ranges and print the config lines',
    )
    parser.add_argument(
        '--figure', type=Path, help='draw the histograms and thresholds here: .png, .pdf or .svg'
    )
    parser.add_argument('--out', type=Path, help='write the figures here: .json or .csv')
    args = parser.parse_args(argv)

    given = [
        CARPartition(thresholds).thresholds
        for thresholds in args.thresholds or [DEFAULT_THRESHOLDS]
    ]
    splits = read_splits(args.data_root, args.dataset_type)
    source, proposals = propose_for(splits, args.suggest) if args.suggest else ('', {})
    named = {f'proposed for {source}, {rule}': thresholds for rule, thresholds in proposals.items()}
    candidates = {**{candidate_name(thresholds): thresholds for thresholds in given}, **named}
    print(stats_text(splits, candidates))
    if proposals:
        print(f'\n{config_text(proposals)}')
    if args.out:
        save_stats(args.out, splits, candidates, proposals)
        print(f'figures written to {args.out}')
    if args.figure:
        import_matplotlib_quickly()
        others = dict(list(candidates.items())[1:])
        draw_car_histograms(splits, CARPartition(given[0]), args.figure, others)
        print(f'CAR histograms drawn in {args.figure}')
