"""Search lambda, the weight of the distillation loss, for a model, on validation data. Call it
again to go on, beside itself to help."""

import argparse
from collections.abc import Sequence

from mtkd_cd.cli.common import at_least
from mtkd_cd.cli.options import add_recipe_arguments, options_of
from mtkd_cd.core.files import CONFIGS


def main(argv: Sequence[str] | None = None) -> None:
    """Search. The recipe must have trained origin and specialists with the same options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_arguments(parser, leave_out=('show_dir', 'keep_checkpoints', 'bundle'))
    parser.add_argument(
        '--trials',
        type=at_least(1),
        default=20,
        help='students in all, earlier calls included (default: %(default)s)',
    )
    parser.add_argument(
        '--range',
        nargs=2,
        type=float,
        default=(1e-5, 10.0),
        metavar=('LOW', 'HIGH'),
        help='of lambda (default: 1e-5 10)',
    )
    parser.add_argument(
        '--startup',
        type=at_least(1),
        default=5,
        help='trials spread over the range, not pruned (default: %(default)s)',
    )
    parser.add_argument(
        '--grid',
        nargs='+',
        type=float,
        default=(),
        metavar='LAMBDA',
        help='train with these instead, as the paper does',
    )
    parser.add_argument('--workers', type=at_least(1), default=1, help='trials at a time')
    parser.add_argument('--threads', type=at_least(1), help='CPU threads of a worker')
    args = parser.parse_args(argv)
    if not 0 < args.range[0] < args.range[1]:
        parser.error('--range takes two positive numbers in increasing order')
    if not all(weight > 0 for weight in args.grid):
        parser.error('--grid takes positive numbers; lambda = 0 is always trained')
    if args.loss_weight is not None:
        parser.error('--lambda is what is searched; give the search its --range or --grid')

    from mtkd_cd.experiments.lambda_search import Search, run_search

    options = options_of(args, CONFIGS, keep_checkpoints=False, bundle=False)
    low, high = args.range
    search = Search(
        args.model,
        options,
        low,
        high,
        trials=args.trials,
        startup=args.startup,
        grid=tuple(args.grid),
    )
    said = run_search(search, args.workers, args.threads)
    print(f'\n{said}\nwritten to {search.folder / search.name}.md')
