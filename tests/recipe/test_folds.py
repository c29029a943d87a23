"""The recipe with folds: every image is taught by specialists that have not seen it."""

import json
import shutil
from pathlib import Path

import pytest

from mtkd_cd.apis import get_config
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import Strategy
from mtkd_cd.data.subsets import image_fold
from mtkd_cd.data.synthetic import make_dataset
from mtkd_cd.engine.record import read_data
from mtkd_cd.recipe.steps import recipe

FOLDS = ('--folds', 2, '--thresholds', 0.1)
SPECIALISTS = 'partition@0.1+folds2/fc_ef'


@pytest.fixture(scope='module')
def scenes_in_folds(tmp_path_factory) -> Path:
    """Training pairs of both ranges in each of two folds."""
    root = tmp_path_factory.mktemp('folds') / 'data'
    make_dataset(root, num_train=16, num_val=4, num_test=3, size=64, seed=0)
    return root


def test_recipe_has_a_specialist_of_each_range_and_fold_and_no_cascade():
    assert [str(step) for step in recipe(Strategy('mtkd', (0.1,), folds=2))] == [
        'train origin',
        'test origin',
        'train partition@0.1+folds2/small_0',
        'train partition@0.1+folds2/large_0',
        'train partition@0.1+folds2/small_1',
        'train partition@0.1+folds2/large_1',
        'train continued',
        'test continued',
        'train mtkd@0.1+folds2',
        'test mtkd@0.1+folds2',
    ]


@pytest.mark.slow
def test_specialists_see_all_folds_but_their_own_and_a_second_call_goes_on(
    tool, recipe_argv, scenes_in_folds, tmp_path
):
    argv = recipe_argv(*FOLDS, data=scenes_in_folds)
    assert tool('run_mtkd', *argv) == (0, '')
    folder = tmp_path / 'recipe'
    places = {path.name: path for path in (folder / SPECIALISTS).iterdir()}
    assert set(places) == {'small_0', 'large_0', 'small_1', 'large_1'}
    seen = {name: _trained_on(place) for name, place in places.items()}
    everything = {path.name for path in (scenes_in_folds / 'train' / 'label').iterdir()}
    assert set().union(*seen.values()) == everything
    for fold in (0, 1):
        others = {file for file in everything if _fold(file) != fold}
        assert seen[f'small_{fold}'] | seen[f'large_{fold}'] == others
        assert not seen[f'small_{fold}'] & seen[f'large_{fold}']
    student = folder / 'mtkd@0.1+folds2' / 'fc_ef'
    settings = json.loads((student / 'run.json').read_text())['settings']
    assert {key for key in settings if key.startswith('weights.')} == {
        'weights.student',
        *(f'weights.{name.replace("_", "@")}' for name in places),
    }
    report = json.loads((folder / 'report' / 'fc_ef' / 'report.json').read_text())
    assert set(report['metrics']) == {'origin', 'mtkd@0.1+folds2'}
    trained = [step['range'] for step in report['steps'] if step['strategy'].startswith('part')]
    assert trained == ['small_0', 'large_0', 'small_1', 'large_1']

    # One specialist is lost: it alone is trained again, and the student is not of these teachers.
    before = {name: (place / 'best.pth').stat().st_mtime_ns for name, place in places.items()}
    shutil.rmtree(places['large_1'])
    stages = recipe_argv(*FOLDS, '--strategies', 'partition', data=scenes_in_folds)
    assert tool('run_mtkd', *stages) == (0, '')
    after = {name: (place / 'best.pth').stat().st_mtime_ns for name, place in places.items()}
    assert {name for name in places if before[name] != after[name]} == {'large_1'}
    shutil.rmtree(places['small_0'])
    shutil.rmtree(student)
    code, said = tool('run_mtkd', *recipe_argv(*FOLDS, '--stages', 'mtkd', data=scenes_in_folds))
    assert code
    assert 'small_0/best.pth (small@0)' in said
    assert '--strategies partition --thresholds 0.1 --folds 2' in said


def _trained_on(place: Path) -> set[str]:
    """Names of the label files in the record of a training's data."""
    files = read_data(place)['train']
    return {Path(file).name for file in files if Path(file).parent.name == 'label'}


def _fold(file: str) -> int:
    return image_fold(dict(img_path=file), 2, seed=1)


def test_specialists_of_folds_do_not_start_from_what_has_seen_all(
    tool, recipe_argv, scenes_in_folds
):
    argv = recipe_argv(*FOLDS, '--specialists-from', 'origin', data=scenes_in_folds)
    code, said = tool('run_mtkd', *argv)
    assert code == 2
    assert 'the origin has seen the fold' in said


def test_config_of_one_fold_is_at_hand():
    cfg = get_config('fc_ef', 'partition@folds3', range='large', fold=2)
    assert cfg.work_dir == 'work_dirs/partition@folds3/fc_ef/large_2'
    assert cfg.train_dataloader.dataset.dataset.leave_out == 2
    with pytest.raises(UserError, match='there are 0 to 2'):
        get_config('fc_ef', 'partition@folds3', fold=3)
    with pytest.raises(UserError, match='no folds'):
        get_config('fc_ef', 'partition', fold=0)
