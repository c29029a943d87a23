"""Choose CAR thresholds, and the number of teachers, on the validation split. Call it again after an interruption."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import is_main_process

from mtkd_cd.workflow.arguments import add_recipe_arguments, recipe_options
from mtkd_cd.workflow.cli import at_least, run_tool
from mtkd_cd.workflow.threshold_search import search_text, search_thresholds


def main(argv: Sequence[str] | None = None) -> None:
    """Search, and print the table and the config lines of the best."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_arguments(parser)
    parser.add_argument('--num-ranges', nargs='+', type=at_least(2), default=[2, 3], metavar='K', help='numbers of CAR ranges (2 3)')
    parser.add_argument('--score', choices=['op', 'mtkd'], default='mtkd', help='the cascade, or the student, which takes a training more')
    args = parser.parse_args(argv)

    options = recipe_options(args, Path(__file__).resolve().parents[2] / 'configs')
    trials = search_thresholds(args.model, options, args.num_ranges, args.score)
    if is_main_process():
        print(f'\n{search_text(trials, args.model, options, args.score)}')


if __name__ == '__main__':
    run_tool(main)
