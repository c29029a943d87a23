"""The command line of the tools that run the recipe."""

import argparse
from pathlib import Path

from mtkd_cd.cli.common import (
    add_data_arguments,
    add_machine_arguments,
    add_run_arguments,
    at_least,
)
from mtkd_cd.recipe.stages import SPECIALISTS_FROM, RecipeOptions

_OPTIONS = (
    *(
        'data_root',
        'dataset_type',
        'iters',
        'specialist_iters',
        'specialists_from',
        'student_iters',
        'image_size',
        'crop_size',
    ),
    *(
        'batch_size',
        'num_workers',
        'val_interval',
        'seed',
        'lr',
        'loss_weight',
        'amp',
        'device',
        'launcher',
        'cfg_options',
    ),
)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and whatever of :class:`~mtkd_cd.recipe.stages.RecipeOptions` is the same for all
    variants."""
    parser.add_argument('model', help='name of a benchmark model, for instance changer_mitb0')
    add_data_arguments(parser)
    parser.add_argument(
        '--iters', type=at_least(1), help='iterations of the origin and of each specialist'
    )
    parser.add_argument(
        '--specialist-iters',
        type=at_least(1),
        help='iterations of each specialist, default: --iters',
    )
    parser.add_argument(
        '--specialists-from',
        choices=SPECIALISTS_FROM,
        default='config',
        help="what specialists start from: the config's initial weights, as in the paper, or the origin's (default: %(default)s)",
    )
    parser.add_argument(
        '--student-iters',
        type=at_least(1),
        help='iterations of the student and of `continued`, default: half of --iters',
    )
    parser.add_argument('--batch-size', type=at_least(1), help='pairs per step and process')
    parser.add_argument('--num-workers', type=at_least(0), help='loader processes')
    parser.add_argument('--val-interval', type=at_least(1), help='iterations between validations')
    parser.add_argument('--seed', type=int)
    parser.add_argument('--lr', type=float, help='learning rate')
    parser.add_argument(
        '--loss-weight',
        '--lambda',
        type=float,
        help="weight of the distillation loss, the paper's lambda",
    )
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision: float16 on a GPU, bfloat16 on the CPU'
    )
    add_run_arguments(parser)
    add_machine_arguments(parser)
    parser.set_defaults(work_dir='work_dirs')


def recipe_options(args: argparse.Namespace, configs: Path, *others: str) -> RecipeOptions:
    """The options that :func:`add_recipe_arguments` parsed.

    Args:
        args: What was parsed.
        configs: Folder of the configs.
        others: Further fields of the options that the tool has arguments for.
    """
    return RecipeOptions(
        configs=configs,
        work_dir=Path(args.work_dir),
        **{name: getattr(args, name) for name in (*_OPTIONS, *others)},
    )
