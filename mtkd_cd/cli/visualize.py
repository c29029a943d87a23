"""Put the predictions of runs beside date A, date B and the label: red = missed, blue = false
alarm, white = hit.

A RUN is a folder that `mtkd-cd test --show-dir DIR` wrote, or any folder of masks named like the
images.
"""

import argparse
from collections.abc import Sequence

from mtkd_cd.analysis.sheets import SHEET_FORMATS, MaskComparison, open_runs, write_sheets
from mtkd_cd.cli.common import at_least
from mtkd_cd.data.layout import SPLITS


def main(argv: Sequence[str] | None = None) -> None:
    """Write a figure per image, or sheets of several."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'runs', nargs='+', metavar='RUN', help='folder of predicted masks, or LABEL=FOLDER'
    )
    parser.add_argument(
        '--data-root',
        required=True,
        help='folder with train/, val/, test/ (A, B and label in each)',
    )
    parser.add_argument('--out', required=True, help='folder to write to')
    parser.add_argument(
        '--images',
        nargs='+',
        required=True,
        metavar='NAME',
        help='names; all; worst:K or best:K by the mean mIoU of the runs; gain:K or loss:K of the '
        'last run against the first',
    )
    parser.add_argument('--split', choices=SPLITS, default='test', help='default: %(default)s')
    parser.add_argument(
        '--dataset-type', help='data set class whose folder names, suffixes and label coding hold'
    )
    parser.add_argument(
        '--contours',
        action='store_true',
        help='instead of errors: outlines of label and prediction on date B',
    )
    parser.add_argument(
        '--sheet',
        type=at_least(1),
        nargs='?',
        const=8,
        metavar='ROWS',
        help='several images in one figure (default: 8)',
    )
    parser.add_argument(
        '--format',
        nargs='+',
        choices=SHEET_FORMATS,
        default=['png'],
        help='of the files (default: png)',
    )
    args = parser.parse_args(argv)

    comparison = MaskComparison(open_runs(args.runs), args.data_root, args.split, args.dataset_type)
    print(
        f'{len(comparison.names)} of the {comparison.num_pairs} {args.split} images have a '
        'prediction in every run'
    )
    names = comparison.select(args.images)
    written = write_sheets(
        comparison,
        names,
        args.out,
        'contours' if args.contours else 'errors',
        args.sheet,
        args.format,
        reads=[args.data_root, *(folder.partition('=')[2] or folder for folder in args.runs)],
    )
    print(
        f'{len(names)} images drawn in '
        f'{", ".join(map(str, written[:3]))}{", ..." if len(written) > 3 else ""}'
    )
