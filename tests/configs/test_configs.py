"""The shipped configs: complete, derived from the origin's, with the paper's figures."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mtkd_cd.analysis.complexity import build_without_weights
from mtkd_cd.core.strategy import Strategy
from mtkd_cd.engine.config import load_config
from mtkd_cd.engine.machine import set_machine
from mtkd_cd.engine.schedule import set_iters
from mtkd_cd.paper.published import published_models
from mtkd_cd.recipe.configs import step_config
from mtkd_cd.recipe.options import RecipeOptions
from mtkd_cd.recipe.steps import recipe
from mtkd_cd.registry import PARAM_SCHEDULERS

CONFIGS = Path(__file__).parents[2] / 'configs'
STAGES = ('origin', 'continued', 'partition', 'op', 'mtkd')
NAMES = sorted(path.stem for path in (CONFIGS / 'origin').glob('*.py'))
# Of Open-CD's configs; 0.05 where none is given.
WEIGHT_DECAY = {
    'changestar_farseg_r18': 0.01,
    'changeformer_mitb0': 0.01,
    'changeformer_mitb1': 0.01,
    'tinycd': 9.449677083344786e-3,
    'changer_mitb0': 0.01,
    'changer_mitb1': 0.01,
    'cgnet_vgg16': 0.0025,
    'ban_vitl14_mitb2': 1e-4,
}
# The models of the paper's table 8.
SYSU = (
    'fc_siam_diff',
    'snunet_c16',
    'bit_r18',
    'changeformer_mitb0',
    'tinycd',
    'changer_mitb1',
    'cgnet_vgg16',
    'ttp_vitsam_l',
)


def build_model(cfg: Config) -> torch.nn.Module:
    return build_without_weights(cfg.model)


def test_lines_have_at_most_100_columns():
    long = [
        f'{path.relative_to(CONFIGS)}:{number}'
        for path in CONFIGS.rglob('*.py')
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 100
    ]
    assert not long


@pytest.mark.parametrize('stage', STAGES)
def test_every_model_has_a_config_of_every_stage(stage):
    assert {path.stem for path in (CONFIGS / stage).glob('*.py')} == set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_figures_are_the_papers(name):
    origin, student = (
        load_config(CONFIGS / 'origin' / f'{name}.py'),
        load_config(CONFIGS / 'mtkd' / f'{name}.py'),
    )
    facts = published_models()[name]  # arXiv:2502.13407, table 6
    lr, loss_weight = facts['lr'], facts['lambda']
    weight_decay = WEIGHT_DECAY.get(name, 0.05)
    for cfg in (origin, student):
        optimizer = cfg.optim_wrapper.optimizer
        assert optimizer.type == 'AdamW'
        assert optimizer.lr == pytest.approx(lr, rel=1e-3)
        assert optimizer.weight_decay == weight_decay
        assert tuple(optimizer.betas) == (0.9, 0.999)
        assert cfg.train_dataloader.batch_size == (16 if name == 'changestar_farseg_r18' else 8)
    length = [
        cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs for cfg in (origin, student)
    ]
    assert length == ([300, 100] if name == 'ttp_vitsam_l' else [200000, 100000])
    assert student.model.distill_loss.loss_weight == loss_weight


@pytest.mark.parametrize('name', NAMES)
def test_other_stages_say_nothing_about_the_detector(name):
    origin = load_config(CONFIGS / 'origin' / f'{name}.py')
    assert load_config(CONFIGS / 'partition' / f'{name}.py').model == origin.model
    assert load_config(CONFIGS / 'continued' / f'{name}.py').model == origin.model
    assert load_config(CONFIGS / 'op' / f'{name}.py').model.origin == origin.model
    assert load_config(CONFIGS / 'mtkd' / f'{name}.py').model.student == origin.model
    for stage in STAGES[1:]:
        assert len((CONFIGS / stage / f'{name}.py').read_text().splitlines()) <= 4


@pytest.mark.parametrize('name', NAMES)
def test_stages_meet_in_fixed_places(name):
    student, cascade = (
        load_config(CONFIGS / 'mtkd' / f'{name}.py'),
        load_config(CONFIGS / 'op' / f'{name}.py'),
    )
    teachers = {
        key: f'work_dirs/partition/{name}/{key}/best.pth' for key in ('small', 'medium', 'large')
    }
    assert student.model.checkpoints == dict(
        student=f'work_dirs/origin/{name}/best.pth', **teachers
    )
    assert (
        load_config(CONFIGS / 'continued' / f'{name}.py').load_from
        == student.model.checkpoints['student']
    )
    assert cascade.model.checkpoints == dict(origin=f'work_dirs/origin/{name}/best.pth', **teachers)


@pytest.mark.parametrize('name', NAMES)
def test_control_differs_from_the_student_in_the_teachers_alone(name):
    student, control = (
        load_config(CONFIGS / 'mtkd' / f'{name}.py'),
        load_config(CONFIGS / 'continued' / f'{name}.py'),
    )
    assert {key for key in {**student, **control} if student.get(key) != control.get(key)} == {
        'model',
        'load_from',
    }


@pytest.mark.parametrize('name', NAMES)
def test_models_build_and_the_student_has_the_origins_keys(name):
    origin = build_model(load_config(CONFIGS / 'origin' / f'{name}.py'))
    student = build_model(load_config(CONFIGS / 'mtkd' / f'{name}.py'))
    cascade = build_model(load_config(CONFIGS / 'op' / f'{name}.py'))
    assert list(student.state_dict()) == list(origin.state_dict())
    assert sum(parameter.numel() for parameter in cascade.parameters()) == 4 * sum(
        p.numel() for p in origin.parameters()
    )


@pytest.mark.parametrize(
    ('name', 'head', 'norm'),
    [
        ('changeformer_mitb0', 17, 52),
        ('changeformer_mitb1', 17, 52),
        ('changer_mitb0', 26, 52),
        ('changer_mitb1', 26, 52),
    ],
)
def test_multipliers_of_the_transformers(name, head, norm):
    cfg = load_config(CONFIGS / 'origin' / f'{name}.py')
    wrapper = build_optim_wrapper(build_model(cfg), cfg.optim_wrapper)
    groups = [
        (round(group['lr'] / cfg.optim_wrapper.optimizer.lr), group['weight_decay'])
        for group in wrapper.optimizer.param_groups
    ]
    # All parameters of the head learn ten times faster, and keep their decay, norms included; other
    # norms have none. Counted with Open-CD.
    assert groups.count((10, 0.01)) == head
    assert groups.count((1, 0.0)) == norm
    assert groups.count((1, 0.01)) == 108
    assert len(groups) == head + norm + 108


def test_ban_learns_as_in_the_papers_repository():
    cfg = load_config(CONFIGS / 'origin' / 'ban_vitl14_mitb2.py')
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.loss_scale) == ('AmpOptimWrapper', 'dynamic')
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=0.01, norm_type=2)
    assert cfg.train_dataloader.num_workers == 8
    set_machine(cfg, 'cpu')
    model = build_model(cfg)
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = [
        (round(group['lr'] / 1e-4), group['weight_decay'])
        for group in wrapper.optimizer.param_groups
    ]
    assert (groups.count((10, 1e-4)), groups.count((1, 0.0))) == (23, 110)


@pytest.mark.parametrize('name', ['ban_vitl14_mitb2', 'ttp_vitsam_l'])
def test_frozen_parameters_are_no_business_of_the_optimiser(name):
    cfg = load_config(CONFIGS / 'origin' / f'{name}.py')
    set_machine(cfg, 'cpu')
    model = build_model(cfg)
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    learned = [
        parameter for group in wrapper.optimizer.param_groups for parameter in group['params']
    ]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in learned} == {id(parameter) for parameter in trainable}
    assert len(trainable) < len(list(model.parameters()))


@pytest.mark.parametrize('name', ['stanet_r18', 'cgnet_vgg16', 'ban_vitl14_mitb2', 'ttp_vitsam_l'])
def test_window_is_that_of_the_papers_repository(name):
    assert load_config(CONFIGS / 'origin' / f'{name}.py').model.test_cfg == dict(
        mode='slide', crop_size=(512, 512), stride=(256, 256)
    )


@pytest.mark.parametrize(
    ('stage', 'epochs'), [('origin', 300), ('partition', 300), ('continued', 100), ('mtkd', 100)]
)
def test_ttp_warms_up_over_five_epochs_and_follows_a_cosine(stage, epochs):
    length = 10  # steps of an epoch
    rates = learning_rates(
        load_config(CONFIGS / stage / 'ttp_vitsam_l.py'), epochs * length, epoch_length=length
    )
    warmup = [1e-4 + (1 - 1e-4) * step / (5 * length - 1) for step in range(5 * length)]
    # The period is that of all epochs, so the rate does not quite reach 0.
    cosine = [
        (1 + math.cos(math.pi * step / (epochs * length))) / 2
        for step in range((epochs - 5) * length)
    ]
    assert rates == pytest.approx(warmup + cosine, abs=1e-6)


@pytest.mark.parametrize('name', SYSU)
def test_sysu_variant_is_an_option_of_the_recipe(name):
    options = RecipeOptions(
        configs=CONFIGS,
        data_root=Path('data/SYSU-CD'),
        dataset_type='SYSU_CD_Dataset',
        image_size=256,
    )
    for step in recipe(Strategy('mtkd', (0.1,))):
        cfg = step_config(step, name, options)
        datasets = [
            loader.dataset.get('dataset', loader.dataset)
            for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
        ]
        assert {(dataset.type, dataset.data_root) for dataset in datasets} == {
            ('SYSU_CD_Dataset', 'data/SYSU-CD')
        }
        assert next(
            transform.crop_size for transform in datasets[0].pipeline if 'Crop' in transform.type
        ) == (256, 256)
        assert next(
            transform.scale for transform in datasets[2].pipeline if 'Resize' in transform.type
        ) == (256, 256)


def learning_rates(cfg: Config, steps: int, **epoch_length: int) -> list[float]:
    wrapper = OptimWrapper(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0))
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        schedulers = [
            PARAM_SCHEDULERS.build(scheduler, default_args=dict(optimizer=wrapper, **epoch_length))
            for scheduler in cfg.param_scheduler
        ]
    rates = []
    for _ in range(steps):
        rates.append(wrapper.param_groups[0]['lr'])
        wrapper.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates


def closed_formula(step: int, warmup: int, end: int) -> float:
    """Base 1: from 1e-6 to 1 at the last step of the warm-up, then to 0 at the last step of all."""
    if step < warmup:
        return 1e-6 + (1 - 1e-6) * step / (warmup - 1)
    return 1 - (step - warmup) / (end - 1 - warmup)


@pytest.mark.parametrize(
    ('stage', 'end'),
    [('origin', 200000), ('partition', 200000), ('continued', 100000), ('mtkd', 100000)],
)
def test_learning_rate_follows_the_papers_schedule(stage, end):
    rates = learning_rates(load_config(CONFIGS / stage / 'fc_ef.py'), 3000)
    assert rates == pytest.approx(
        [closed_formula(step, 1000, end) for step in range(3000)], abs=1e-9
    )


@pytest.mark.parametrize(('iters', 'warmup'), [(40, 4), (240, 24), (20000, 1000)])
def test_shortened_schedule_warms_up_over_a_tenth_and_ends_at_zero(iters, warmup):
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    set_iters(cfg, iters)
    rates = learning_rates(cfg, iters)
    assert rates == pytest.approx(
        [closed_formula(step, warmup, iters) for step in range(iters)], abs=1e-9
    )
    assert cfg.train_cfg == dict(
        type='ReplayableIterLoop', max_iters=iters, val_interval=iters // 10
    )


@pytest.mark.parametrize('iters', [1, 2, 10, 19])
def test_schedule_of_a_handful_of_steps_has_finite_rates(iters):
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    set_iters(cfg, iters)
    assert all(0 <= rate <= 1 for rate in learning_rates(cfg, iters))


def test_training_pipelines_are_the_benchmarks():
    def steps(name):
        return [
            step.type.removeprefix('MultiImg')
            for step in load_config(
                CONFIGS / 'origin' / f'{name}.py'
            ).train_dataloader.dataset.pipeline
        ]

    flips = ['RandomRotate', 'RandomCrop', 'RandomFlip', 'RandomFlip', 'PhotoMetricDistortion']
    exchange = ['RandomRotFlip', 'RandomCrop', 'ExchangeTime', 'PhotoMetricDistortion']
    load, pack = ['LoadImageFromFile', 'LoadAnnotations'], ['PackSegInputs']
    for name in NAMES:
        assert steps(name) == load + (exchange if name.startswith('changer_') else flips) + pack


@pytest.mark.parametrize('stage', STAGES)
def test_mmengine_alone_takes_the_config(stage, tmp_path):
    """Open-CD's tools build a runner from it without our workflow."""
    cfg = Config.fromfile(CONFIGS / stage / 'fc_ef.py')
    cfg.update(work_dir=str(tmp_path), experiment_name=f'{tmp_path}', log_level='ERROR')
    cfg.model.pop('checkpoints', None)
    runner = Runner.from_cfg(cfg)
    assert {type(hook).__name__ for hook in runner.hooks} >= {
        'BestWeightsHook',
        'CheckpointHook',
        'StopwatchHook',
    }
