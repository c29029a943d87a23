"""Open every file of a change-detection data set, print what is in it, and list what is wrong (exit
code 1)."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mtkd_cd.analysis.check import check_dataset, draw_car_histograms, report_text
from mtkd_cd.cli.common import add_data_set_arguments, add_thresholds_argument
from mtkd_cd.core.car import CARPartition
from mtkd_cd.data.images import band_numbers
from mtkd_cd.drawing.quick_start import import_matplotlib_quickly


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; 1 if something is wrong with the data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_set_arguments(parser)
    parser.add_argument(
        '--bands',
        help='bands that the model takes, from 1: 4,3,2',
    )
    parser.add_argument(
        '--radiometry',
        help='rule of the data set for images of more than 8 bits: "linear(low=0, high=3000)"',
    )
    add_thresholds_argument(parser)
    parser.add_argument(
        '--figure',
        type=Path,
        help='PNG of the CAR histograms (default: work_dirs/check_dataset/<name>.png)',
    )
    args = parser.parse_args(argv)

    partition = CARPartition(args.thresholds)
    reports = check_dataset(
        args.data_root,
        args.dataset_type,
        progress=True,
        bands=None if args.bands is None else band_numbers(args.bands),
        radiometry=args.radiometry,
    )
    print(report_text(reports, partition))
    figure = args.figure or Path(
        'work_dirs/check_dataset', f'{Path(args.data_root).resolve().name}.png'
    )
    import_matplotlib_quickly()
    draw_car_histograms(reports, partition, figure)
    print(f'\nCAR histograms drawn in {figure}')

    problems = [problem for report in reports for problem in report.problems]
    print(f'{len(problems)} problems' if problems else 'Nothing wrong found', *problems, sep='\n  ')
    return 1 if problems else 0
