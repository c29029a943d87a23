"""Score change masks on disk, other people's predictions for instance, against their labels: per
image as the paper does, and pooled.

Both folders hold one mask per image under the same relative name, up to the suffix. Masks are 0 /
1, 0 / 255 or anti-aliased.
"""

import argparse
from collections.abc import Sequence

from mtkd_cd.cli.common import add_thresholds_argument, at_least
from mtkd_cd.core.files import check_own_file
from mtkd_cd.evaluation import per_image_scores
from mtkd_cd.evaluation.image_table import check_table_suffix, is_table


def main(argv: Sequence[str] | None = None) -> None:
    """Print the scores of a folder of predictions; write the table of each image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'predictions', help='folder with the predicted masks, searched with its sub-folders'
    )
    parser.add_argument('labels', help='folder with the labels')
    parser.add_argument('--out', help='write the table of each image here, .json or .csv')
    parser.add_argument(
        '--ignore-index',
        type=int,
        help='value of label pixels that do not count; default: all count',
    )
    add_thresholds_argument(parser)
    parser.add_argument('--jobs', type=at_least(1), help='threads; default: one per CPU')
    args = parser.parse_args(argv)
    if args.out:
        check_table_suffix(args.out)
        check_own_file(args.out, [args.predictions, args.labels], is_table)

    table = per_image_scores(
        args.predictions,
        args.labels,
        ignore_index=args.ignore_index,
        thresholds=args.thresholds,
        num_workers=args.jobs,
        progress=True,
    )
    print(table.report())
    if args.out:
        table.save(args.out)
        print(f'\nper-image table: {args.out}')
