"""The whole recipe for one model: origin, specialists, O-P test, student, test, one table. Call it
again after an interruption."""

import argparse
from collections.abc import Sequence

from mtkd_cd.cli.options import add_recipe_arguments, options_of
from mtkd_cd.core.files import CONFIGS
from mtkd_cd.core.strategy import KINDS
from mtkd_cd.recipe.options import PAPER_KINDS


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe; without options, as in the paper."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_arguments(parser)
    parser.add_argument(
        '--strategies',
        '--stages',
        nargs='+',
        choices=KINDS,
        default=PAPER_KINDS,
        help=f'what to do now (default: {" ".join(PAPER_KINDS)})',
    )
    args = parser.parse_args(argv)

    from mmengine.dist import is_main_process

    from mtkd_cd.recipe.configs import model_name
    from mtkd_cd.recipe.run import run_recipe
    from mtkd_cd.reporting.summaries import recipe_markdown

    options = options_of(args, CONFIGS)
    results = run_recipe(args.model, options, args.strategies)
    if is_main_process():
        folder = options.layout(model_name(args.model)).report
        print(f'\n{recipe_markdown(results)}\nwritten to {folder}')
