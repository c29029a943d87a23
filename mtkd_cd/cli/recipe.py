"""The whole recipe for one model: origin, specialists, O-P test, student, test, one table. Call it
again after an interruption."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import is_main_process

from mtkd_cd.cli.arguments import add_recipe_arguments, recipe_options
from mtkd_cd.core.files import CONFIGS
from mtkd_cd.recipe.stages import OPTIONAL_STAGES, STAGES, run_recipe
from mtkd_cd.recipe.variant import ROUTINGS


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe; without options, as in the paper."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_arguments(parser)
    parser.add_argument('--stages', nargs='+', choices=(*STAGES, *OPTIONAL_STAGES), default=STAGES)
    parser.add_argument(
        '--thresholds', nargs='+', type=float, help='CAR thresholds; 0.1 alone makes two teachers'
    )
    parser.add_argument(
        '--routing', choices=ROUTINGS, default='car', help='how an image finds its specialist'
    )
    parser.add_argument(
        '--show-dir',
        type=Path,
        help='write pictures of each test image to origin/, op/ and mtkd/ here',
    )
    args = parser.parse_args(argv)

    options = recipe_options(args, CONFIGS, 'thresholds', 'routing', 'show_dir')
    report = run_recipe(args.model, options, args.stages)
    if is_main_process():
        print(f'\n{report.as_markdown()}\nwritten to {options.work_dir / "report" / args.model}')
