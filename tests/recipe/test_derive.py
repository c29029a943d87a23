"""What a strategy changes in the origin's config, and nothing else."""

import pickle
from pathlib import Path

import pytest
from mmengine.config import Config

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import CONFIGS
from mtkd_cd.core.strategy import Strategy
from mtkd_cd.engine.config import (
    fold_of,
    load_config,
    range_of,
    starting_weights,
    strategy_of,
    work_dir_of,
)
from mtkd_cd.recipe.derive import derive

RANGES = ('small', 'medium', 'large')


@pytest.fixture
def origin():
    return load_config(CONFIGS / 'origin' / 'fc_ef.py')


def changed(origin, cfg):
    return {key for key in {**origin, **cfg} if origin.get(key) != cfg.get(key)}


def test_specialist_differs_in_its_data(origin):
    cfg = derive(origin, Strategy('partition', (0.1,)), 'large')
    assert changed(origin, cfg) == {'train_dataloader', 'val_dataloader'}
    data = cfg.train_dataloader.dataset
    assert (data.type, data.range, data.thresholds) == ('CARPartitionDataset', 'large', (0.1,))
    assert data.dataset == origin.train_dataloader.dataset
    assert cfg.val_dataloader.dataset.dataset == origin.val_dataloader.dataset
    assert cfg.train_dataloader.sampler == origin.train_dataloader.sampler
    with pytest.raises(UserError, match=r"'medium'.*small, large"):
        derive(origin, Strategy('partition', (0.1,)), 'medium')


def test_cascade_differs_in_its_model(origin):
    cfg = derive(origin, Strategy('op', (0.1,), 'validated'), root='w')
    assert changed(origin, cfg) == {'model'}
    assert cfg.model == dict(
        type='OriginPartitionCascade',
        origin=origin.model,
        thresholds=(0.1,),
        routing='validated',
        routing_file='w/routing@0.1/fc_ef/routing.json',
        checkpoints=dict(
            origin='w/origin/fc_ef/best.pth',
            small='w/partition@0.1/fc_ef/small/best.pth',
            large='w/partition@0.1/fc_ef/large/best.pth',
        ),
    )


def test_control_and_student_differ_from_the_origin_in_start_and_schedule(origin):
    schedule = {'train_cfg', 'param_scheduler', 'default_hooks'}
    control = derive(origin, Strategy('continued'))
    assert changed(origin, control) == {'load_from', *schedule}
    assert control.load_from == 'work_dirs/origin/fc_ef/best.pth'
    student = derive(origin, Strategy('mtkd'))
    assert changed(origin, student) == {'model', *schedule}
    assert student.model.student == origin.model
    assert student.model.distill_loss == dict(type='ChangeMapMSELoss', loss_weight=1e-4)
    for cfg in (control, student):
        assert cfg.train_cfg == dict(type='ReplayableIterLoop', max_iters=100000, val_interval=1000)
        assert cfg.default_hooks.checkpoint.interval == 1000


def test_origin_is_not_touched(origin):
    before = pickle.dumps(origin._cfg_dict.to_dict())
    cfg = derive(origin, Strategy('mtkd'))
    cfg.model.student.backbone.base_channel = 7
    cfg.train_cfg.max_iters = 7
    assert pickle.dumps(origin._cfg_dict.to_dict()) == before


def test_config_of_another_strategy_is_no_origin(origin):
    with pytest.raises(UserError, match='derived from the config of an origin'):
        derive(derive(origin, Strategy('op')), Strategy('mtkd'))


def test_config_of_a_specialist_is_no_origin(origin):
    """Its specialists would learn from the images of two ranges at once, mostly from none."""
    with pytest.raises(UserError, match='trains on the CAR range medium alone'):
        derive(derive(origin, Strategy('partition'), 'medium'), Strategy('origin'))


def test_student_schedule_needs_that_of_its_learning_rate(origin):
    origin.pop('student_param_scheduler')
    with pytest.raises(UserError, match='no student_param_scheduler'):
        derive(origin, Strategy('continued'))


def test_student_of_a_config_without_a_student_schedule_trains_half_as_long(origin):
    for key in ('student_train_cfg', 'student_param_scheduler'):
        origin.pop(key)
    cfg = derive(origin, Strategy('mtkd'))
    assert cfg.train_cfg.max_iters == 100000
    assert cfg.train_cfg.val_interval == 5000
    assert [scheduler.end for scheduler in cfg.param_scheduler] == [1000, 100000]


@pytest.mark.parametrize('kind', ['origin', 'partition', 'op', 'continued', 'mtkd'])
def test_shipped_config_is_the_derived_one_without_our_loader(kind, origin, tmp_path):
    cfg = Config.fromfile(CONFIGS / kind / 'fc_ef.py')
    assert cfg.to_dict() == derive(origin, Strategy(kind)).to_dict()
    assert strategy_of(cfg) == Strategy(kind)
    assert pickle.loads(pickle.dumps(cfg)).to_dict() == cfg.to_dict()
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()


@pytest.mark.parametrize(
    ('kind', 'place'),
    [
        ('origin', 'origin/own'),
        ('partition', 'partition/own/small'),
        ('op', 'op/own'),
        ('continued', 'continued/own'),
        ('mtkd', 'mtkd@0.1/own'),
    ],
)
def test_strategy_of_an_own_config_is_found_in_any_folder(kind, place, tmp_path):
    path = tmp_path / 'own.py'
    text = f"_base_ = '{CONFIGS / kind / 'fc_ef.py'}'\n"
    path.write_text(text + ('model = dict(thresholds=(0.1,))\n' if kind == 'mtkd' else ''))
    cfg = load_config(path)
    assert work_dir_of(cfg) == Path('work_dirs', place)
    assert range_of(cfg) == ('small' if kind == 'partition' else None)


def test_config_may_call_the_range_partition(tmp_path):
    path = tmp_path / 'own.py'
    path.write_text(
        f"_base_ = '{CONFIGS / 'origin' / 'fc_ef.py'}'\n"
        'train_dataloader = dict(dataset=dict(_delete_=True, type="mtkd_cd.CARPartitionDataset",\n'
        '    partition="large", dataset={{_base_.train_dataloader.dataset}}))\n'
    )
    cfg = load_config(path)
    assert (strategy_of(cfg).kind, range_of(cfg)) == ('partition', 'large')


def test_student_matches_what_its_strategy_says(origin):
    loss = derive(origin, Strategy('mtkd', match='kl')).model.distill_loss
    assert loss == dict(type='ChangeMapLoss', match='kl', loss_weight=1.0)
    assert derive(origin, Strategy('mtkd')).model.distill_loss.type == 'ChangeMapMSELoss'


@pytest.mark.parametrize(
    'text',
    ['mtkd@kl', 'mtkd@0.1+best+by_tinycd+margin', 'mtkd@origin+by_tinycd', 'mtkd@by_tinycd+folds5'],
)
def test_students_config_tells_its_strategy(origin, text):
    """So that the table of its test is not taken for that of another student."""
    strategy = Strategy.parse(text)
    teachers = load_config(CONFIGS / 'origin' / 'tinycd.py') if strategy.teachers else None
    assert strategy_of(derive(origin, strategy, teachers=teachers)) == strategy


def test_specialists_of_folds_leave_one_out_and_their_student_tells_them_apart(origin):
    strategy = Strategy('mtkd', folds=5)
    cfg = derive(origin, strategy.of('partition'), 'large', fold=3)
    data = cfg.train_dataloader.dataset
    assert (data.type, data.range, data.dataset.type) == (
        *('CARPartitionDataset', 'large'),
        'FoldDataset',
    )
    assert (data.dataset.folds, data.dataset.leave_out) == (5, 3)
    assert data.dataset.dataset == origin.train_dataloader.dataset
    assert cfg.val_dataloader.dataset.dataset == origin.val_dataloader.dataset
    assert (strategy_of(cfg), fold_of(cfg)) == (strategy.of('partition'), 3)
    assert work_dir_of(cfg) == Path('work_dirs/partition@folds5/fc_ef/large_3')

    student = derive(origin, strategy)
    assert student.model.folds == 5
    assert student.model.checkpoints.large == (
        'work_dirs/partition@folds5/fc_ef/large_{fold}/best.pth'
    )
    folded = student.train_dataloader.dataset
    assert {key: folded[key] for key in ('type', 'folds', 'seed')} == {
        key: data.dataset[key] for key in ('type', 'folds', 'seed')
    }
    assert 'leave_out' not in folded
    assert folded.dataset == origin.train_dataloader.dataset
    assert strategy_of(student) == strategy
    files = starting_weights(student)
    assert set(files) == {'student', *(f'{n}@{k}' for n in RANGES for k in range(5))}
    assert not any('{' in path for path in files.values())


def test_folds_of_a_student_hold_its_own_data(origin):
    own = dict(_delete_=True, type='ConcatDataset', datasets=[dict(type='X'), dict(type='Y')])
    origin.merge_from_dict(dict(student_train_dataloader=dict(dataset=own)))
    student = derive(origin, Strategy('mtkd', folds=2))
    data = student.train_dataloader.dataset
    assert (data.type, data.dataset.type) == ('FoldDataset', 'ConcatDataset')
    assert [part.type for part in data.dataset.datasets] == ['X', 'Y']


def test_what_an_origins_config_says_of_the_student_holds_for_it_alone(origin):
    origin.merge_from_dict(
        dict(
            student_model=dict(unlabelled=dict(weight=0.5)),
            student_train_dataloader=dict(
                batch_size=3, sampler=dict(_delete_=True, type='RatioSampler', ratio=(1, 2))
            ),
        )
    )
    student = derive(origin, Strategy('mtkd'))
    assert student.model.unlabelled == dict(weight=0.5)
    assert student.train_dataloader.batch_size == 3
    assert student.train_dataloader.sampler == dict(type='RatioSampler', ratio=(1, 2))
    assert student.train_dataloader.dataset == origin.train_dataloader.dataset
    for other in ('origin', 'continued', 'op'):
        cfg = derive(origin, Strategy(other))
        assert cfg.train_dataloader == origin.train_dataloader
        assert 'unlabelled' not in cfg.model
        assert not {'student_model', 'student_train_dataloader'} & set(cfg)
