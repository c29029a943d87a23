"""Reading configs, and what they say."""

from pathlib import Path

import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.config import check_checkpoints, load_config, work_dir_of
from mtkd_cd.engine.inputs import set_range

CONFIGS = Path(__file__).parents[2] / 'configs'


def load(stage, options=None):
    return load_config(CONFIGS / stage / 'fc_ef.py', options)


def test_misspelt_config_suggests_the_closest():
    with pytest.raises(UserError, match=r"fc_eff.py does not exist: did you mean 'fc_ef'"):
        load_config(CONFIGS / 'origin' / 'fc_eff.py')


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('fc_ef', 'does not exist: did you mean configs/origin/fc_ef.py'),
        ('configs/mtkd/fc_fe.py', "does not exist: did you mean 'fc_ef'?"),
        ('notes.py', 'config notes.py does not exist: check the path'),
        ('min.py', "config min.py does not exist: did you mean 'mine'?"),
        ('folder', 'config folder is a folder: give a file .py, .json'),
        ('mine.txt', 'config mine.txt is none: give a file .py, .json'),
    ],
)
def test_path_that_is_no_config(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'mine.py').touch()
    (tmp_path / 'mine.txt').touch()
    with pytest.raises(UserError) as error:
        load_config(path)
    assert message in str(error.value)


def test_shipped_config_is_found_outside_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config('configs/origin/fc_ef.py').model.type == 'DIEncoderDecoder'
    own = tmp_path / 'configs/origin/fc_ef.py'
    own.parent.mkdir(parents=True)
    own.write_text("model = dict(type='Mine')\n")
    assert load_config('configs/origin/fc_ef.py').model.type == 'Mine'


def test_config_with_an_error_in_it_is_named(tmp_path):
    path = tmp_path / 'broken.py'
    path.write_text("_base_ = 'nowhere.py'\n")
    with pytest.raises(UserError, match=r'broken.py cannot be read'):
        load_config(path)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'trian_cfg.max_iters': 3}, "did you mean 'train_cfg'"),
        ({'randomness.seed.x': 3}, 'seed'),
        ({'custom_hooks.7.metric': 'x'}, 'Index 7'),
    ],
)
def test_option_without_a_place_in_the_config(options, said):
    with pytest.raises(UserError, match=said):
        load('origin', options)


def test_places_of_the_stages():
    specialist = load('partition')
    set_range(specialist, 'large')
    assert work_dir_of(load('origin')) == Path('work_dirs/origin/fc_ef')
    assert work_dir_of(specialist) == Path('work_dirs/partition/fc_ef/large')
    assert (
        specialist.train_dataloader.dataset.range
        == specialist.val_dataloader.dataset.range
        == 'large'
    )


def test_missing_checkpoint_names_the_command_that_makes_it():
    with pytest.raises(UserError, match=r'mtkd-cd train configs/origin/fc_ef.py'):
        check_checkpoints(load('mtkd'))
