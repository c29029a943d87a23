"""The model behind the page: bundles, published weights, what make demo leaves."""

import shutil

import numpy as np
import pytest
import torch

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import CONFIGS
from mtkd_cd.demo.examples import make_examples
from mtkd_cd.demo.prediction import Counts, predict
from mtkd_cd.demo.served import DEFAULT, Served, open_served
from mtkd_cd.demo.text import facts, problem
from mtkd_cd.engine.config import load_config
from mtkd_cd.inference.bundle import create_bundle
from mtkd_cd.inference.card import Card
from mtkd_cd.inference.predictor import init_model
from mtkd_cd.models.conversion import LAYOUTS

TINY = {
    'model.backbone.base_channel': 4,
    'model.decode_head.in_channels': 4,
    'model.decode_head.channels': 4,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
}


@pytest.fixture(scope='module')
def bundle_file(scenes, tmp_path_factory):
    """A tiny model with random weights and a validation."""
    folder = tmp_path_factory.mktemp('bundle')
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py', TINY)
    cfg.val_dataloader.dataset.data_root = str(scenes)
    cfg.val_dataloader.dataset.serialize_data = False
    torch.manual_seed(0)
    weights = folder / 'weights.pth'
    torch.save(dict(state_dict=init_model(cfg).state_dict()), weights)
    create_bundle(cfg, weights, folder / 'student.mtkd', training_size=64, device='cpu')
    return folder / 'student.mtkd'


def test_precision_and_recall_are_those_of_the_bundles_card(bundle_file, tmp_path):
    served = open_served(bundle_file, tmp_path, 'cpu')
    assert served.name == 'student'
    assert served.images > 0
    assert served.curve.shape == (101, 3)
    assert served.scores(0.3) == tuple(served.curve[30, 1:])
    assert served.scores(0.3049) == tuple(served.curve[30, 1:])


def test_bundle_of_make_demo_is_the_default(bundle_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r'give a bundle .*published TinyCD.*make demo'):
        open_served(None, tmp_path, 'cpu')
    DEFAULT.parent.mkdir(parents=True)
    shutil.copy(bundle_file, DEFAULT)
    assert open_served(None, tmp_path, 'cpu').name == 'student'


def test_published_tinycd_is_converted(tmp_path):
    """The authors' layout is ours with other names; see tests/models/test_conversion.py."""
    cfg = load_config(CONFIGS / 'origin' / 'tinycd.py', dict(LAYOUTS['tinycd'].options))
    torch.manual_seed(1)
    detector = init_model(cfg)
    theirs = {k.removeprefix('backbone.'): v for k, v in detector.state_dict().items()}
    torch.save(theirs, tmp_path / 'published.pth')
    served = open_served(tmp_path / 'published.pth', tmp_path, 'cpu')
    assert (served.name, served.curve) == ('published', None)
    assert served.inferencer.card.training_size == 256
    found = served.inferencer.model.predictor().detector.state_dict()
    assert all(torch.equal(found[key], value) for key, value in detector.state_dict().items())


def test_other_files_are_refused_with_what_to_do(tmp_path):
    torch.save(dict(state_dict={'backbone.x': torch.zeros(1)}), tmp_path / 'mine.pth')
    with pytest.raises(UserError, match='mtkd-cd bundle create CONFIG'):
        open_served(tmp_path / 'mine.pth', tmp_path, 'cpu')
    with pytest.raises(UserError, match='do not exist'):
        open_served(tmp_path / 'none.pth', tmp_path, 'cpu')
    with pytest.raises(UserError, match='a bundle'):
        open_served('configs/origin/fc_ef.py', tmp_path, 'cpu')


def test_examples_are_predicted(inferencer, tmp_path):
    examples = make_examples(inferencer.card, tmp_path / 'examples')
    assert len(examples) == 3
    for index, example in enumerate(examples):
        folder = tmp_path / str(index)
        folder.mkdir()
        found = predict(inferencer, example.a, example.b, folder)
        assert found.counts(0.4).changed > 0
        assert (found.grid.crs is not None) == (example.a.suffix == '.tif')
        assert example.thumbnail.is_file()


def test_models_of_other_bands_have_no_examples(tmp_path):
    card = Card('four', (0.0,) * 8, (1.0,) * 8, bands=('red', 'green', 'blue', 'nir'))
    assert make_examples(card, tmp_path / 'examples') == []


def test_facts_give_the_scores_at_the_threshold(served):
    text = facts(Counts(0.25, 300, 1200, 30_000.0, 7), served)
    for part in ('25.00 %', '300 of 1,200', '3.00 ha', '>7<', '25.0 %', '75.0 %', '12 validation'):
        assert part in text, part
    noise = facts(Counts(0.25, 300, 1200, None, 20_001), served)
    assert 'above 20,000 they are not saved' in noise
    unknown = facts(Counts(0.25, 300, 1200, None, 7), Served(served.inferencer))
    assert 'not known' in unknown
    assert '300 px' in unknown


def test_problem_is_one_escaped_sentence():
    text = problem('image A (<b>.png) is no image:\ngive another')
    assert text.endswith('>Image A (&lt;b&gt;.png) is no image: give another.</div>')
    assert np.char.count(text, '\n') == 0
