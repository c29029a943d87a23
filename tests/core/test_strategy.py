"""Texts of strategies, what they change, and where their files are."""

from pathlib import Path

import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import CONFIGS
from mtkd_cd.core.strategy import (
    KINDS,
    Layout,
    Place,
    Strategy,
    of_each_fold,
    strategy_in,
    strategy_rank,
    strategy_title,
    training_command,
)


@pytest.mark.parametrize(
    ('text', 'thresholds', 'routing'),
    [
        ('op', (0.05, 0.2), 'car'),
        ('op@0.1', (0.1,), 'car'),
        ('mtkd@0.03_0.125', (0.03, 0.125), 'car'),
        ('mtkd@validated', (0.05, 0.2), 'validated'),
        ('op@0.1+validated', (0.1,), 'validated'),
    ],
)
def test_text_and_strategy_stand_for_each_other(text, thresholds, routing):
    strategy = Strategy(text.partition('@')[0], thresholds, routing)
    assert strategy.text == text
    assert Strategy.parse(text) == strategy


@pytest.mark.parametrize(
    ('text', 'routing', 'teachers'),
    [
        ('mtkd@best', 'best', ''),
        ('mtkd@by_changer_mitb0', 'car', 'changer_mitb0'),
        ('mtkd@origin+by_a_2.0', 'origin', 'a_2.0'),
    ],
)
def test_students_of_other_teachers_have_places_of_their_own(text, routing, teachers):
    strategy = Strategy('mtkd', routing=routing, teachers=teachers)
    assert strategy.text == text
    assert Strategy.parse(text) == strategy
    assert strategy.of('op') == Strategy('op')  # of the model's own specialists


def test_teachers_of_another_model_are_those_that_its_recipe_left():
    layout = Layout('m', Path('w'))
    of_origin = Strategy('mtkd', routing='origin', teachers='big')
    assert layout.checkpoints(of_origin) == {
        'student': 'w/origin/m/best.pth',
        'origin': 'w/origin/big/best.pth',
    }
    assert layout.checkpoints(Strategy('mtkd', (0.1,), teachers='big')) == {
        'student': 'w/origin/m/best.pth',
        'small': 'w/partition@0.1/big/small/best.pth',
        'large': 'w/partition@0.1/big/large/best.pth',
    }
    validated = Strategy('mtkd', routing='validated', teachers='big')
    assert layout.routing(validated) == Path('w/routing/big/routing.json')


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('mtdk', 'unknown strategy'),
        ('origin@0.1', "called 'origin'"),
        ('op@0.10', "called 'op@0.1'"),
        ('op@', "called 'op'"),
        ('op@validated+0.1', "called 'op@0.1[+]validated'"),
        ('op@0.2_0.1', 'increasing order'),
        ('op@x', 'unknown variant'),
        ('op@0.1+', 'unknown variant'),
        ('op@0.1 0.3', 'unknown variant'),
        ('op@car', 'unknown variant'),
        ('op@best', "called 'op'"),
        ('partition@by_big', "called 'partition'"),
        ('op@nan', 'CAR thresholds'),
    ],
)
def test_what_is_no_strategy_is_refused(text, said):
    with pytest.raises(UserError, match=said):
        Strategy.parse(text)


def test_strategies_share_what_the_variant_does_not_change():
    variant = Strategy('mtkd', (0.1,), 'validated')
    assert [variant.of(kind).text for kind in KINDS] == [
        'origin',
        'continued',
        'partition@0.1',
        'op@0.1+validated',
        'mtkd@0.1+validated',
    ]
    assert Strategy('origin', (0.1,), 'validated') == Strategy('origin')


@pytest.mark.parametrize(
    ('name', 'teachers', 'thresholds'),
    [
        ('op', 3, (0.05, 0.2)),
        ('op@0.05_0.2_0.5', 4, (0.05, 0.2, 0.5)),
        ('mine:op@0.1+validated', 2, (0.1,)),
        ('mtkd@validated', 3, (0.05, 0.2)),
        ('partition@0.1/small', None, (0.1,)),
        ('origin', None, (0.05, 0.2)),
    ],
)
def test_names_from_outside_tell_teachers_and_thresholds(name, teachers, thresholds):
    strategy = strategy_in(name)
    assert (strategy.num_teachers, strategy.thresholds) == (teachers, thresholds)


def test_names_that_are_no_strategies_keep_their_name_and_come_last():
    assert strategy_in('lambda 1e-3') is None
    names = ['zebra', 'mtkd@validated', 'mtkd', 'op', 'continued', 'origin', 'a:op']
    ordered = ['origin', 'continued', 'op', 'mtkd', 'mtkd@validated', 'zebra', 'a:op']
    assert sorted(names, key=strategy_rank) == ordered
    assert [strategy_title(name) for name in ('op@0.1', 'mine:op', 'zebra')] == [
        'O-P @ 0.1',
        'mine: O-P',
        'zebra',
    ]


def test_layout_and_place_stand_for_each_other():
    layout = Layout('fc_ef', Path('/data/runs'))
    for strategy, name, where in (
        (Strategy('origin'), None, 'origin/fc_ef/best.pth'),
        (Strategy('mtkd', (0.1,), 'validated'), None, 'mtkd@0.1+validated/fc_ef/best.pth'),
        (Strategy('partition', (0.1,)), 'large', 'partition@0.1/fc_ef/large/best.pth'),
    ):
        path = layout.weights(strategy, name)
        assert path == Path('/data/runs', where)
        assert Place.of(path) == Place(layout, strategy, name)
    routing = layout.routing(Strategy('op', (0.1,), 'validated'))
    assert routing == Path('/data/runs/routing@0.1/fc_ef/routing.json')
    assert Place.of(routing).layout == layout
    assert Place.of('weights/origin.pth') is None
    assert Place.of('best.pth') is None


def test_checkpoints_of_cascade_and_student():
    layout = Layout('m', Path('w'))
    assert layout.checkpoints(Strategy('op', (0.1,))) == {
        'origin': 'w/origin/m/best.pth',
        'small': 'w/partition@0.1/m/small/best.pth',
        'large': 'w/partition@0.1/m/large/best.pth',
    }
    assert list(layout.checkpoints(Strategy('mtkd'))) == ['student', 'small', 'medium', 'large']


def test_variants_are_those_with_files(tmp_path):
    for folder in ('op@0.1/m', 'partition@0.1/m', 'mtkd@0.1+validated/m', 'op@0.3/other', 'x@y/m'):
        (tmp_path / folder).mkdir(parents=True)
    found = [strategy.text for strategy in Layout('m', tmp_path).variants()]
    assert found == ['mtkd', 'mtkd@0.1', 'mtkd@0.1+validated']


@pytest.mark.parametrize(
    ('path', 'command'),
    [
        ('work_dirs/origin/fc_ef/best.pth', 'mtkd-cd train configs/origin/fc_ef.py'),
        (
            'w/origin/fc_ef/best.pth',
            'mtkd-cd train configs/origin/fc_ef.py --work-dir w/origin/fc_ef',
        ),
        (
            '/a b/partition/bit_r18/low/best.pth',
            'mtkd-cd train configs/partition/bit_r18.py --range low '
            "--work-dir '/a b/partition/bit_r18/low'",
        ),
        ('work_dirs/mtkd/fc_ef/best.pth', 'mtkd-cd train configs/mtkd/fc_ef.py'),
        ('w/mtkd/fc_ef/best.pth', 'mtkd-cd recipe fc_ef --strategies mtkd --work-dir w'),
        (
            'w/partition@0.1_0.3/fc_ef/large/best.pth',
            'mtkd-cd recipe fc_ef --strategies partition --thresholds 0.1 0.3 --work-dir w',
        ),
        (
            'work_dirs/mtkd@0.1+validated/fc_ef/best.pth',
            'mtkd-cd recipe fc_ef --strategies mtkd --thresholds 0.1 --routing validated',
        ),
        (
            'work_dirs/mtkd@best+by_bit_r18/fc_ef/best.pth',
            'mtkd-cd recipe fc_ef --strategies mtkd --routing best --teachers bit_r18',
        ),
        (
            'w/routing/fc_ef/routing.json',
            'mtkd-cd recipe fc_ef --strategies op --routing validated --work-dir w',
        ),
    ],
)
def test_command_that_makes_a_file_makes_it_there(path, command):
    assert training_command(path) == command


@pytest.mark.parametrize(
    ('config', 'path', 'command'),
    [
        ('own/net.py', 'work_dirs/origin/net/best.pth', 'own/net.py --strategies origin'),
        (
            'own/net.py',
            'w/partition@0.1/net/small/best.pth',
            'own/net.py --strategies partition --thresholds 0.1 --work-dir w',
        ),
        ('set/mtkd/net.py', 'work_dirs/mtkd/net/best.pth', 'set/origin/net.py --strategies mtkd'),
        (
            'own/net.py',
            'work_dirs/mtkd@by_big/net/best.pth',
            'own/net.py --strategies mtkd --teachers own/big.py',
        ),
        (
            'own/net.py',
            'work_dirs/mtkd@by_bit_r18/net/best.pth',
            'own/net.py --strategies mtkd --teachers bit_r18',
        ),
        (
            'elsewhere/other.py',
            'w/routing/net/routing.json',
            'PATH/TO/net.py --strategies op --routing validated --work-dir w',
        ),
        (None, 'work_dirs/origin/net/best.pth', 'PATH/TO/net.py --strategies origin'),
        ('own/fc_ef.py', 'work_dirs/origin/fc_ef/best.pth', 'own/fc_ef.py --strategies origin'),
    ],
)
def test_command_of_a_model_of_the_users_own_has_its_config(
    config, path, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for own in ('own/net.py', 'own/big.py', 'own/fc_ef.py', 'set/origin/net.py', 'set/mtkd/net.py'):
        Path(own).parent.mkdir(parents=True, exist_ok=True)
        Path(own).touch()
    assert training_command(path, config) == f'mtkd-cd recipe {command}'


def test_command_of_a_config_of_the_package_has_its_name():
    for name in (CONFIGS / 'op' / 'fc_ef.py', 'configs/op/fc_ef.py'):
        command = training_command('work_dirs/origin/fc_ef/best.pth', name)
        assert command == 'mtkd-cd train configs/origin/fc_ef.py'


def test_file_of_another_layout_has_no_command():
    for path in ('somewhere/else.pth', 'some@where/else.pth', 'op/m/best.pth'):
        assert training_command(path) is None


def test_folds_are_part_of_the_name_of_specialists_and_student():
    strategy = Strategy.parse('mtkd@0.1+best+by_big+folds3+kl')
    assert (strategy.folds, strategy.text) == (3, 'mtkd@0.1+best+by_big+folds3+kl')
    assert strategy.of('partition').text == 'partition@0.1+folds3'
    assert strategy.of('op') == Strategy('op', (0.1,))
    assert Strategy('mtkd', routing='origin', folds=3) == Strategy('mtkd', routing='origin')
    with pytest.raises(UserError, match=r'folds=1: at least 2'):
        Strategy.parse('mtkd@folds1')
    with pytest.raises(UserError, match='has seen every image'):
        Strategy('mtkd', routing='validated', folds=3)


def test_specialists_of_folds_have_places_of_their_own():
    layout = Layout('m', Path('w'))
    found = layout.checkpoints(Strategy('mtkd', (0.1,), teachers='big', folds=2))
    assert found == {
        'student': 'w/origin/m/best.pth',
        'small': 'w/partition@0.1+folds2/big/small_{fold}/best.pth',
        'large': 'w/partition@0.1+folds2/big/large_{fold}/best.pth',
    }
    files = of_each_fold(found, 2)
    assert list(files) == ['student', 'small@0', 'small@1', 'large@0', 'large@1']
    specialists = Strategy('partition', (0.1,), folds=2)
    assert files['large@1'] == str(Layout('big', Path('w')).weights(specialists, 'large', 1))
    assert training_command(files['large@1']) == (
        'mtkd-cd recipe PATH/TO/big.py --strategies partition --thresholds 0.1 --folds 2 '
        '--work-dir w'
    )


@pytest.mark.parametrize('name', ['my net v1.5', 'a@b', 'folds3', 'kl', '0.1', 'by_x', 'a_b-c,d'])
def test_teachers_of_any_other_name_are_found_again(name):
    strategy = Strategy('mtkd', (0.1,), 'best', name)
    assert Strategy.parse(strategy.text) == strategy
    assert strategy_in(f'mine:{strategy.text}') == strategy
    place = Place.of(Layout('m', Path('w')).weights(strategy))
    assert (place.strategy, place.layout.model) == (strategy, 'm')


@pytest.mark.parametrize('name', ['a+b', 'a:b', 'a/b', 'a\\b', 'a\nb'])
def test_teachers_whose_name_a_text_cannot_hold_are_refused(name):
    with pytest.raises(UserError, match=r'teachers .*means something else: give the config file'):
        Strategy('mtkd', teachers=name)
    assert Strategy('op', teachers=name) == Strategy('op')


def test_what_is_matched_is_part_of_a_students_name_alone():
    strategy = Strategy.parse('mtkd@0.1+origin+by_big+kl')
    assert (strategy.match, strategy.text) == ('kl', 'mtkd@0.1+origin+by_big+kl')
    assert strategy.of('partition').text == 'partition@0.1'
    assert Strategy('op', match='kl') == Strategy('op')
    with pytest.raises(UserError, match='mse, kl, margin'):
        Strategy('mtkd', match='cosine')


@pytest.mark.parametrize('model', ['net[1]', 'my net v1.5', 'what?'])
def test_variants_of_a_model_whose_name_has_wildcards_are_found(tmp_path, model):
    Layout(model, tmp_path).place(Strategy('op', (0.1,))).mkdir(parents=True)
    found = [strategy.text for strategy in Layout(model, tmp_path).variants()]
    assert found == ['mtkd', 'mtkd@0.1']
