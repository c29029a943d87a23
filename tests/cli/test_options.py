"""One field of RecipeOptions is all that an option takes."""

import argparse
import dataclasses
from pathlib import Path

import pytest

from mtkd_cd.cli.options import add_recipe_arguments, options_of
from mtkd_cd.recipe.options import RecipeOptions, option_fields

FIELDS = {one.name: one for one in option_fields()}
# Where any word or a number will not do.
VALUES = dict(
    thresholds=(['0.1', '0.3'], [0.1, 0.3]),
    loss_weight=(['0.5'], 0.5),
    lr=(['1e-3'], 1e-3),
    seed=(['3'], 3),
    cfg_options=(['log_level=INFO'], {'log_level': 'INFO'}),
    work_dir=(['w'], Path('w')),
    data_root=(['w'], Path('w')),
    show_dir=(['w'], Path('w')),
)


def _given(one: dataclasses.Field) -> tuple[list[str], object]:
    """Words of a command line that are not the default, and what they mean."""
    flag = f'--{one.name.replace("_", "-")}'
    if isinstance(one.default, bool):
        return ([f'--no-{flag[2:]}'] if one.default else [flag]), not one.default
    if one.name in VALUES:
        words, value = VALUES[one.name]
    elif one.metadata['choices']:
        value = one.metadata['choices'][-1]
        words = [value]
    elif one.metadata['least'] is not None:
        value = one.metadata['least'] + 1
        words = [str(value)]
    else:
        words, value = ['word'], 'word'
    return [flag, *words], value


@pytest.mark.parametrize('name', FIELDS)
def test_every_field_is_an_option_of_the_command_line(name):
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser)
    words, value = _given(FIELDS[name])
    found = options_of(parser.parse_args(['tinycd', *words]), Path('configs'))
    assert getattr(found, name) == value
    assert dataclasses.replace(found, **{name: getattr(RecipeOptions(Path('configs')), name)}) == (
        RecipeOptions(Path('configs'))
    )
