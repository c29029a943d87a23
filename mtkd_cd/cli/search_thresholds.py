"""Choose CAR thresholds, and the number of teachers, on the validation split. Call it again after
an interruption."""

import argparse
from collections.abc import Sequence

from mtkd_cd.cli.common import at_least
from mtkd_cd.cli.options import add_recipe_arguments, options_of
from mtkd_cd.core.files import CONFIGS


def main(argv: Sequence[str] | None = None) -> None:
    """Search, and print the table and the config lines of the best."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_arguments(parser, leave_out=('thresholds', 'routing', 'folds', 'show_dir'))
    parser.add_argument(
        '--num-ranges',
        nargs='+',
        type=at_least(2),
        default=[2, 3],
        metavar='K',
        help='numbers of CAR ranges (2 3)',
    )
    parser.add_argument(
        '--score',
        choices=['op', 'mtkd'],
        default='mtkd',
        help='the cascade, or the student, which takes a training more',
    )
    args = parser.parse_args(argv)

    from mmengine.dist import is_main_process

    from mtkd_cd.experiments.threshold_search import search_text, search_thresholds

    options = options_of(args, CONFIGS)
    trials = search_thresholds(args.model, options, args.num_ranges, args.score)
    if is_main_process():
        print(f'\n{search_text(trials, args.model, options, args.score)}')
