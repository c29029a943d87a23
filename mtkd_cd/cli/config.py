"""Print the whole config of a model under a strategy."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mtkd_cd.cli.common import at_least
from mtkd_cd.cli.options import add_options, options_of
from mtkd_cd.core.files import CONFIGS, own_file
from mtkd_cd.core.strategy import KINDS, ROUTINGS, Strategy

_OF_STRATEGY_OR_RUN = (
    *('thresholds', 'routing', 'teachers', 'match', 'folds'),
    *('show_dir', 'keep_checkpoints'),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the config that the recipe would run with, the options applied."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', help='for instance changer_mitb0, or config of an origin')
    parser.add_argument(
        'strategy',
        nargs='?',
        default='origin',
        help=f'{", ".join(KINDS)}, and variants such as op@0.1+{ROUTINGS[1]} (default: origin)',
    )
    parser.add_argument('--range', help='CAR range of a specialist (default: the first)')
    parser.add_argument(
        '--fold', type=at_least(0), help='the fold that a specialist does not see (default: 0)'
    )
    parser.add_argument('--out', type=Path, help='write it to this file too')
    add_options(parser, leave_out=_OF_STRATEGY_OR_RUN)
    args = parser.parse_args(argv)

    from mtkd_cd.recipe.configs import step_config
    from mtkd_cd.recipe.steps import Step, fold_of_step

    strategy = Strategy.parse(args.strategy)
    options = options_of(
        args,
        CONFIGS,
        thresholds=strategy.thresholds,
        routing=strategy.routing,
        teachers=strategy.teachers or None,
        match=strategy.match,
        folds=strategy.folds or None,
    )
    name = args.range
    if strategy.kind == 'partition' and name is None:
        name = strategy.partition.names[0]
    fold = fold_of_step(strategy, args.fold)
    cfg = step_config(Step(strategy, 'train', name, fold), args.model, options)
    text = Config(_plain(cfg._cfg_dict)).pretty_text
    print(text, end='')
    if args.out:
        with own_file(args.out, 'w') as file:
            file.write(text)


def _plain(node: Any) -> Any:
    """A config with the names of the classes that pure-Python configs have as types: what is
    printed is a config file."""
    from mtkd_cd.engine.record import name_of

    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(_plain(value) for value in node)
    return name_of(node) if hasattr(node, '__qualname__') else node
