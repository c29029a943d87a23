"""Names of variants: what they change and where their files are."""

import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.config import stage_dir
from mtkd_cd.recipe.variant import Variant, parse_strategy, strategy_name

STAGES = ('origin', 'continued', 'partition', 'op', 'mtkd')


@pytest.mark.parametrize(
    ('text', 'thresholds', 'routing'),
    [
        ('', (0.05, 0.2), 'car'),
        ('0.1', (0.1,), 'car'),
        ('0.03_0.125', (0.03, 0.125), 'car'),
        ('validated', (0.05, 0.2), 'validated'),
        ('0.1+validated', (0.1,), 'validated'),
    ],
)
def test_text_and_variant_stand_for_each_other(text, thresholds, routing):
    variant = Variant(thresholds, routing)
    assert str(variant) == text
    assert Variant.parse(text) == variant


@pytest.mark.parametrize('text', ['0.2_0.1', 'x', '0.1+', '0.1 0.3', 'car', '0.1+validatd'])
def test_what_is_no_variant_is_refused(text):
    with pytest.raises(UserError):
        Variant.parse(text)


def test_stages_share_what_the_variant_does_not_change():
    variant = Variant((0.1,), 'validated')
    names = [strategy_name(stage, variant) for stage in STAGES]
    assert names == [
        'origin',
        'continued',
        'partition@0.1',
        'op@0.1+validated',
        'mtkd@0.1+validated',
    ]
    assert (
        str(stage_dir('partition', 'fc_ef', 'small', 'w', variant)) == 'w/partition@0.1/fc_ef/small'
    )


def test_strategies_are_read_by_their_names():
    assert parse_strategy('op', STAGES) == ('op', Variant())
    assert parse_strategy('mtkd@0.1', STAGES) == ('mtkd', Variant((0.1,)))
    for name, said in (
        ('mtdk', 'unknown strategy'),
        ('origin@0.1', "called 'origin'"),
        ('op@0.10', "called 'op@0.1'"),
        ('op@', "'op'"),
    ):
        with pytest.raises(UserError, match=said):
            parse_strategy(name, STAGES)
