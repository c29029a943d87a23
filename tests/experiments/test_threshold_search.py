"""Candidates come from the training labels, the choice from the validation split, and the test
split is not there at all."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mtkd_cd.core.car import suggest_thresholds
from mtkd_cd.core.errors import UserError
from mtkd_cd.data.layout import LAYOUTS
from mtkd_cd.data.splits import split_infos
from mtkd_cd.data.synthetic import make_dataset
from mtkd_cd.engine.config import load_config
from mtkd_cd.evaluation import load_table
from mtkd_cd.experiments import threshold_search
from mtkd_cd.experiments.threshold_search import Trial, candidate_thresholds, search_text
from mtkd_cd.recipe.options import RecipeOptions

REPO = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def scenes_without_test(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('search') / 'data'
    make_dataset(root, num_train=12, num_val=5, num_test=0, size=64, seed=0)
    return root


def config(*roots: Path, kind: str = 'CDDataset') -> Config:
    """An origin's config that trains on the data below ``roots`` together."""
    sets = [dict(type=kind, data_root=str(root), split='train') for root in roots]
    several = dict(type='ConcatDataset', datasets=sets)
    return Config(dict(train_dataloader=dict(dataset=sets[0] if len(sets) == 1 else several)))


def test_candidates_are_the_papers_and_those_of_the_training_labels(scenes_without_test, tmp_path):
    found = candidate_thresholds(config(scenes_without_test), (2, 3))
    assert 'paper' in found[0.1,]
    assert 'paper' in found[0.05, 0.2]
    assert {source for sources in found.values() for source in sources} == {
        'paper',
        'images',
        'pixels',
        'log',
    }
    assert {len(thresholds) for thresholds in found} == {1, 2}
    make_dataset(
        tmp_path / 'other', num_train=12, num_val=20, num_test=20, size=64, seed=0
    )  # more labels, the same for training
    assert candidate_thresholds(config(tmp_path / 'other'), (2, 3)) == found


def test_candidates_are_those_of_all_that_a_config_trains_on(scenes_without_test, scenes):
    """Of ``scenes`` the tenth that is held out for validation has no say."""
    infos = split_infos(LAYOUTS['CDDataset'], str(scenes), 'train')
    labels = [info['seg_map_path'] for info in infos]
    labels += sorted(map(str, (scenes_without_test / 'train' / 'label').iterdir()))
    cars = [(cv2.imread(label, cv2.IMREAD_GRAYSCALE) > 127).mean() for label in labels]
    assert len(cars) < 12 + 24
    found = candidate_thresholds(config(scenes, scenes_without_test), (3,))
    assert 'images' in found[suggest_thresholds(np.array(cars), 3, 'images')]


def test_equal_proposals_are_tried_once(monkeypatch, scenes_without_test):
    monkeypatch.setattr(
        threshold_search,
        'propose_for',
        lambda splits, number: ('train', dict(images=(0.1,), log=(0.3,))),
    )
    assert candidate_thresholds(config(scenes_without_test), (2,)) == {
        (0.1,): ('paper', 'images'),
        (0.3,): ('log',),
    }


def test_data_without_a_training_folder_are_refused(tmp_path):
    make_dataset(tmp_path / 'data', num_train=0, num_val=3, num_test=0, size=64)
    with pytest.raises(UserError, match="no split 'train'"):
        candidate_thresholds(config(tmp_path / 'data'), (2,))


@pytest.mark.slow
def test_search_ranks_by_the_validation_score_and_shares_the_origin(
    monkeypatch, tool, recipe_argv, scenes_without_test, tmp_path
):
    monkeypatch.setattr(
        threshold_search,
        'candidate_thresholds',
        lambda *_: {(0.1,): ('paper',), (0.3,): ('images', 'log')},
    )
    argv = recipe_argv('--score', 'op', data=scenes_without_test)
    assert tool('experiments/search_thresholds', *argv) == (0, '')
    work = tmp_path / 'recipe'
    assert sorted(path.name for path in work.iterdir()) == [
        'op@0.1',
        'op@0.3',
        'origin',
        'partition@0.1',
        'partition@0.3',
        'report',
    ]
    trials = json.loads((work / 'report/fc_ef/thresholds-op.json').read_text())
    origin = {
        row['file']: row['mIoU'] for row in load_table(work / 'origin/fc_ef/validation.json').rows()
    }
    assert {Path(file).name for file in origin} == {
        path.name for path in (scenes_without_test / 'val' / 'label').iterdir()
    }
    for trial in trials:
        (threshold,) = trial['thresholds']
        rows = load_table(work / f'op@{threshold}/fc_ef/validation.json').rows()
        assert trial['score'] == pytest.approx(np.mean([row['mIoU'] for row in rows]))
        differences = [row['mIoU'] - origin[row['file']] for row in rows]
        assert trial['difference'] == pytest.approx(np.mean(differences))
        assert (
            min(differences) - 1e-9
            <= trial['low']
            <= trial['difference']
            <= trial['high']
            <= max(differences) + 1e-9
        )
    assert sorted(trial['thresholds'] for trial in trials) == [[0.1], [0.3]]
    assert trials[0]['score'] >= trials[1]['score']

    before = {
        path: path.stat().st_mtime_ns
        for path in work.rglob('*')
        if path.suffix == '.pth' or path.name == 'validation.json'
    }
    assert tool('experiments/search_thresholds', *argv) == (0, '')
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_best_comes_with_the_lines_that_use_it(tmp_path):
    trials = [
        Trial((0.3,), ('images', 'log'), 61.25, 1.5, -0.25, 3.0),
        Trial((0.05, 0.2), ('paper',), 60.0, 0.25, -1.0, 1.0),
    ]
    text = search_text(trials, 'tinycd', RecipeOptions(REPO / 'configs', Path('w')), 'mtkd')
    first, second = [line for line in text.splitlines() if line.startswith('| small')]
    assert 'small: CAR <= 0.3, large: CAR > 0.3' in first
    assert 'equally many images, equal steps in log CAR' in first
    assert '61.25 | +1.50 [-0.25, +3.00]' in first
    assert 'paper' in second
    assert 'mtkd-cd recipe tinycd --thresholds 0.3 ' in text
    assert '--thresholds 0.05 0.2' not in text
    config = tmp_path / 'mtkd' / 'tinycd.py'
    config.parent.mkdir()
    lines = text[text.index('model = dict(') :]
    config.write_text(f"_base_ = '{REPO}/configs/mtkd/tinycd.py'\n{lines}")
    model = load_config(config).model
    assert model.thresholds == (0.3,)
    places = dict(
        student='origin/tinycd',
        small='partition@0.3/tinycd/small',
        large='partition@0.3/tinycd/large',
    )
    assert model.checkpoints == {name: f'w/{place}/best.pth' for name, place in places.items()}


def test_best_of_an_own_config_comes_with_the_command_alone():
    trials = [Trial((0.3,), ('images',), 61.25, 1.5, -0.25, 3.0)]
    text = search_text(trials, 'my nets/a.py', RecipeOptions(REPO / 'configs'), 'mtkd')
    assert text.endswith(
        "mtkd-cd recipe 'my nets/a.py' --thresholds 0.3   # and the other options as here"
    )
