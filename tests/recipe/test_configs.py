"""Configs of the recipe's steps."""

from pathlib import Path

from mtkd_cd.core.strategy import Strategy
from mtkd_cd.recipe.configs import step_config
from mtkd_cd.recipe.options import RecipeOptions
from mtkd_cd.recipe.steps import Step

CONFIGS = Path(__file__).parents[2] / 'configs'


def test_options_of_the_origin_reach_every_stage():
    options = RecipeOptions(
        CONFIGS,
        iters=40,
        loss_weight=0.5,
        seed=4,
        cfg_options={
            'model.backbone.base_channel': 4,
            'train_dataloader.dataset.img_suffix': '.tif',
            'optim_wrapper.optimizer.lr': 1.0,
        },
    )
    steps = [
        Step(Strategy('origin'), 'train'),
        Step(Strategy('partition'), 'train', 'medium'),
        Step(Strategy('op'), 'test'),
        Step(Strategy('mtkd'), 'train'),
    ]
    origin, specialist, cascade, student = (step_config(step, 'fc_ef', options) for step in steps)
    assert {
        cfg.base_channel
        for cfg in (origin.model.backbone, specialist.model.backbone, cascade.model.origin.backbone)
    } == {4}
    assert student.model.student.backbone.base_channel == 4
    assert (
        specialist.train_dataloader.dataset.dataset.img_suffix
        == student.train_dataloader.dataset.img_suffix
        == '.tif'
    )
    assert {cfg.optim_wrapper.optimizer.lr for cfg in (origin, specialist, student)} == {1.0}
    assert {cfg.randomness.seed for cfg in (origin, specialist, student)} == {4}
    assert (
        origin.train_cfg.max_iters,
        specialist.train_cfg.max_iters,
        student.train_cfg.max_iters,
    ) == (40, 40, 20)
    assert student.model.distill_loss.loss_weight == 0.5
    assert specialist.work_dir == 'work_dirs/partition/fc_ef/medium'
