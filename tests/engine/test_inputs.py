"""Options that change what a config reads."""

from pathlib import Path

import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.config import load_config
from mtkd_cd.engine.inputs import set_data, set_range

CONFIGS = Path(__file__).parents[2] / 'configs'


LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def load(stage, options=None):
    return load_config(CONFIGS / stage / 'fc_ef.py', options)


def test_unknown_range_lists_those_there_are():
    with pytest.raises(UserError, match=r"unknown CAR range 'tiny'.*small, medium, large"):
        set_range(load('partition'), 'tiny')
    with pytest.raises(UserError, match=r'no CAR range'):
        set_range(load('origin'), 'small')


def test_data_root_at_the_top_of_a_config_is_no_data_set():
    """A config that inherits ours and reads another folder leaves that variable as it is."""
    cfg = load('origin')
    set_data(cfg, 'my/data')
    set_data(cfg, 'other')
    assert cfg.data_root == 'data/JL1-CD'
    assert {cfg[loader].dataset.data_root for loader in LOADERS} == {'other'}
