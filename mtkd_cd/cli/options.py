"""The command line of the tools that run the recipe, made of the fields of
:class:`~mtkd_cd.recipe.options.RecipeOptions`.

Neither jsonargparse nor tyro makes it. jsonargparse wants ``--amp true`` and ``--thresholds
[0.1,0.3]`` where users write ``--amp`` and ``--thresholds 0.1 0.3``. tyro takes no abbreviated
option (``--iter 3``). And an experiment has to tell an option that was not given from one that was
given its default.
"""

import argparse
import dataclasses
import types
import typing
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from mtkd_cd.cli.common import (
    ConfigOptions,
    add_local_rank_argument,
    add_trust_argument,
    at_least,
)
from mtkd_cd.recipe.options import RecipeOptions, option_fields


def add_recipe_arguments(parser: argparse.ArgumentParser, leave_out: Container[str] = ()) -> None:
    """Add the model, the options, and what every tool that runs a config takes besides.

    Args:
        parser: Where to.
        leave_out: Names of options that the tool does not have.
    """
    parser.add_argument(
        'model',
        help='name of a benchmark model, for instance changer_mitb0, or config of an origin',
    )
    add_options(parser, leave_out)
    add_trust_argument(parser)
    add_local_rank_argument(parser)


def add_options(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    leave_out: Container[str] = (),
    unset: bool = False,
) -> None:
    """Add an argument for each option.

    Args:
        parser: Where to.
        leave_out: Names of options that the tool does not have.
        unset: Make ``None`` the default of all options. It tells the options that were not given.
    """
    for one in option_fields():
        if one.name not in leave_out:
            _add_option(parser, one, unset)


def options_of(args: argparse.Namespace, configs: Path, **others: Any) -> RecipeOptions:
    """The options that were parsed.

    Args:
        args: What :func:`add_options` made the parser read.
        configs: Folder of the configs.
        others: Values of options that the tool does not have.
    """
    found = {one.name: getattr(args, one.name) for one in option_fields() if one.name in args}
    return RecipeOptions(configs, **{**found, **others})


def _add_option(parser: Any, one: dataclasses.Field, unset: bool) -> None:
    said = one.metadata
    default = one.default
    if one.default_factory is not dataclasses.MISSING:
        default = one.default_factory()
    text = said['help']
    if isinstance(default, (str, Path)):
        text += f' (default: {default})'
    settings: dict[str, Any] = dict(default=None if unset else default, help=text, dest=one.name)
    kind, several = _type_of(one.name)
    if kind is bool:
        # What is on by default is switched off by --no-...
        settings['action'] = argparse.BooleanOptionalAction if default else 'store_true'
    elif kind is dict:
        settings |= dict(action=ConfigOptions, nargs='+', metavar='KEY=VALUE')
    else:
        settings['type'] = at_least(said['least']) if said['least'] is not None else kind
        settings |= dict(choices=said['choices']) if said['choices'] else {}
        settings |= dict(nargs='+') if several else {}
    parser.add_argument(f'--{one.name.replace("_", "-")}', *said['also'], **settings)


def _type_of(name: str) -> tuple[type, bool]:
    """The type of an option, and whether it takes several values."""
    hint = typing.get_type_hints(RecipeOptions)[name]
    if isinstance(hint, types.UnionType):
        [hint] = [part for part in typing.get_args(hint) if part is not types.NoneType]
    origin = typing.get_origin(hint)
    if origin is not None and issubclass(origin, Mapping):
        return dict, False
    return (typing.get_args(hint)[0], True) if origin else (hint, False)
