"""How long a config trains, and how often it validates."""

from pathlib import Path

import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import Strategy
from mtkd_cd.engine.config import load_config
from mtkd_cd.engine.schedule import set_iters, set_val_interval
from mtkd_cd.recipe.configs import step_config
from mtkd_cd.recipe.options import RecipeOptions
from mtkd_cd.recipe.steps import Step

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.mark.parametrize('stage', ['origin', 'continued'])
def test_val_interval_counts_iterations_whatever_the_schedule_counts(stage):
    step, options = Step(Strategy(stage), 'train'), RecipeOptions(CONFIGS, val_interval=50)
    cfg = step_config(step, 'ttp_vitsam_l', options)
    assert 'max_epochs' in cfg.train_cfg
    assert not cfg.train_cfg.val_by_epoch
    assert cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval == 50
    shortened = step_config(
        step, 'ttp_vitsam_l', RecipeOptions(CONFIGS, val_interval=50, iters=100, student_iters=100)
    )
    assert shortened.train_cfg == dict(type='ReplayableIterLoop', max_iters=100, val_interval=50)


@pytest.mark.parametrize(
    'loop', [dict(type='EpochBasedTrainLoop'), dict(by_epoch=True)], ids=['type', 'by_epoch']
)
def test_schedule_of_mmengines_loop_by_epochs_becomes_one_in_iterations(loop):
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    cfg.train_cfg = dict(**loop, max_epochs=30, val_interval=1)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=5)  # of epochs
    with pytest.raises(UserError, match='validates by epochs'):
        set_val_interval(cfg, 7)
    set_iters(cfg, 100)
    assert cfg.train_cfg == dict(type='IterBasedTrainLoop', max_iters=100, val_interval=10)
    checkpoint = cfg.default_hooks.checkpoint
    assert (checkpoint.interval, checkpoint.by_epoch) == (10, False)


def test_steps_of_a_schedule_keep_their_places():
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=40_000, val_interval=400)
    cfg.param_scheduler = [
        dict(type='MultiStepLR', milestones=[20_000, 30_000], by_epoch=False),
        dict(type='StepLR', step_size=10_000, by_epoch=False),
    ]
    set_iters(cfg, 100)
    several, one = cfg.param_scheduler
    assert (several.milestones, several.end) == ([50, 75], 100)
    assert (one.step_size, one.end) == (25, 100)


def test_parts_of_a_schedule_keep_their_shares_of_it():
    """Also where none of them ends with the training, or the first is no warm-up."""
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    warmup = cfg.param_scheduler[0]
    cosine = dict(type='CosineAnnealingLR', T_max=149_000, begin=1000, end=150_000)
    flat = dict(type='ConstantLR', factor=0.1, begin=150_000, end=200_000)
    cfg.param_scheduler = [warmup, cosine, flat]
    set_iters(cfg, 20_000)
    places = [(one.begin, one.end) for one in cfg.param_scheduler]
    middle = 1000 + round(149 / 199 * 19_000)
    assert places == [(0, 1000), (1000, middle), (middle, 20_000)]
    assert cfg.param_scheduler[1].T_max == 14_900
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    cfg.param_scheduler = [dict(type='PolyLR', power=0.9, begin=0, end=180_000, by_epoch=False)]
    set_iters(cfg, 1000)
    assert [(one.begin, one.end) for one in cfg.param_scheduler] == [(0, 900)]
