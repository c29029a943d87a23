"""What is refused or put right before the first iteration."""

import copy

import pytest
from mmengine.config import Config

from mtkd_cd.core.errors import UserError
from mtkd_cd.engine import checkup
from mtkd_cd.engine.checkup import (
    check_batches,
    check_loop,
    check_optimizer,
    check_sampler,
    check_scope,
    fit_loaders,
    keep_best_weights,
    reported_metrics,
)


def config(hook=None, evaluator=None, custom_hooks=None):
    return Config(
        dict(
            val_dataloader={'num_workers': 0},
            val_evaluator=evaluator or dict(type='mmseg.IoUMetric', iou_metrics=['mFscore']),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', **(hook or {}))),
            custom_hooks=custom_hooks or [],
        )
    )


@pytest.mark.parametrize(
    ('hook', 'evaluator', 'metric', 'rule'),
    [
        ({}, None, 'aAcc', 'auto'),
        ({}, dict(type='IoUMetric', iou_metrics=['mFscore', 'mIoU']), 'mIoU', 'auto'),
        ({}, dict(type='IoUMetric', prefix='val'), 'val/mIoU', 'auto'),
        ({}, dict(type='PerImageChangeMetric'), 'mIoU', 'auto'),
        ({}, dict(type='TheirMetric'), 'auto', 'auto'),
        (dict(save_best='mFscore', rule='greater'), None, 'mFscore', 'greater'),
        (dict(save_best=['mRecall', 'mFscore'], rule=['less', 'greater']), None, 'mRecall', 'less'),
        (dict(save_best='auto'), None, 'aAcc', 'auto'),
        (dict(save_best='their/score'), dict(type='TheirMetric'), 'their/score', 'auto'),
    ],
)
def test_config_without_best_weights_hook_gets_one(hook, evaluator, metric, rule):
    cfg = config(hook, evaluator)
    keep_best_weights(cfg)
    assert cfg.custom_hooks == [dict(type='mtkd_cd.BestWeightsHook', metric=metric, rule=rule)]
    assert cfg.default_hooks.checkpoint.backend_args == dict(backend='atomic')


@pytest.mark.parametrize(
    ('hook', 'custom'),
    [
        (dict(save_best='mIoU'), []),
        (dict(save_best=['mFscore', 'mIoU']), []),
        ({}, [dict(type='BestWeightsHook')]),
        ({}, [dict(type='mtkd_cd.BestWeightsHook', metric='IoU')]),
    ],
)
def test_metric_that_is_not_reported_is_refused_with_those_that_are(hook, custom):
    with pytest.raises(UserError, match='aAcc, mFscore, mPrecision, mRecall'):
        keep_best_weights(config(hook, custom_hooks=custom))


def test_reported_metrics_are_those_of_the_metric_itself(tmp_path):
    import numpy as np

    from mtkd_cd.evaluation import PerImageChangeMetric

    settings = dict(thresholds=(0.1,), names=('few', 'many'))
    metric = PerImageChangeMetric(**settings)
    rows = [
        ((f'{index}.png',), [count, 0, 0, 100 - count], None, None)
        for index, count in enumerate((5, 50))
    ]
    found = metric.compute_metrics(rows)
    assert set(reported_metrics(dict(type='PerImageChangeMetric', **settings))) == set(found)
    assert np.isfinite(list(found.values())).all()


def test_loader_without_workers_has_nothing_that_needs_them(monkeypatch):
    monkeypatch.setattr(checkup, 'get_device', lambda: 'cpu')
    loader = dict(num_workers=0, persistent_workers=True, prefetch_factor=4, timeout=9)
    cfg = Config(dict(train_dataloader=loader, test_dataloader=dict(loader, num_workers=2)))
    fit_loaders(cfg)
    assert cfg.train_dataloader == dict(num_workers=0)
    assert cfg.test_dataloader == dict(loader, num_workers=2)
    cfg.test_dataloader.pop('timeout')
    fit_loaders(cfg)
    assert cfg.test_dataloader.timeout == checkup.LOADER_SECONDS


def test_batches_for_a_gpu_come_in_pinned_memory(monkeypatch):
    loaders = dict(
        train_dataloader=dict(num_workers=0),
        test_dataloader=dict(num_workers=0, pin_memory=False),
    )
    for device, wanted in (('cpu', None), ('cuda', True)):
        monkeypatch.setattr(checkup, 'get_device', lambda device=device: device)
        cfg = Config(copy.deepcopy(loaders))
        fit_loaders(cfg)
        assert cfg.train_dataloader.get('pin_memory') is wanted
        assert cfg.test_dataloader.pin_memory is False


def test_full_shared_memory_is_refused_with_advice(monkeypatch):
    free = type('Usage', (), {'free': 1000})
    monkeypatch.setattr(checkup.shutil, 'disk_usage', lambda path: free)
    with pytest.raises(UserError, match=r'/dev/shm has 0 KiB free.*--shm-size.*--num-workers 0'):
        fit_loaders(Config(dict(train_dataloader=dict(num_workers=1))))
    fit_loaders(Config(dict(train_dataloader=dict(num_workers=0))))


def test_scope_of_a_toolbox_that_is_missing_is_named():
    with pytest.raises(UserError, match=r"default_scope='opencd'.*default_scope='mtkd_cd'"):
        check_scope(Config(dict(default_scope='opencd')))
    check_scope(Config(dict(default_scope='mmseg')))


def test_mixed_batches_that_differ_between_gpus_are_refused():
    """Synchronised norms of a process that runs the student once wait for those that run it
    twice."""
    parts = [dict(type='CDDataset'), dict(type='UnlabelledDataset', dataset=dict(type='CDDataset'))]
    cfg = Config(
        dict(
            model=dict(type='MultiTeacherDistiller', unlabelled=dict(weight=1.0)),
            train_dataloader=dict(
                sampler=dict(type='InfiniteSampler'),
                dataset=dict(type='ConcatDataset', datasets=parts),
            ),
        )
    )
    check_batches(cfg)  # nothing is synchronised
    cfg.sync_bn = 'torch'
    with pytest.raises(UserError, match='RatioSampler'):
        check_batches(cfg)
    cfg.train_dataloader.dataset = parts[1]
    check_batches(cfg)  # every batch has no label
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=parts)
    cfg.train_dataloader.sampler = dict(type='mtkd_cd.RatioSampler', ratio=(1, 3))
    check_batches(cfg)


@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'mmengine.InfiniteSampler', 'RatioSampler'])
@pytest.mark.parametrize('loop', [dict(type='EpochBasedTrainLoop'), dict(by_epoch=True)])
def test_epochs_of_a_sampler_without_an_end_are_refused(sampler, loop):
    cfg = Config(dict(train_cfg=loop, train_dataloader=dict(sampler=dict(type=sampler))))
    with pytest.raises(UserError, match=r"has no end.*sampler=dict\(type='DefaultSampler'"):
        check_sampler(cfg)
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    check_sampler(cfg)
    cfg.train_dataloader.sampler = dict(type=sampler)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4)
    check_sampler(cfg)


@pytest.mark.parametrize(
    ('kind', 'other', 'wanted'),
    [
        ('EpochBasedTrainLoop', 'max_iters', 'max_epochs'),
        ('IterBasedTrainLoop', 'max_epochs', 'max_iters'),
    ],
)
def test_lengths_of_another_loop_are_refused(kind, other, wanted):
    cfg = Config({'train_cfg': {'type': kind, other: 3}, 'student_train_cfg': {other: 3}})
    said = rf'train_cfg\.{other}=3: {kind} takes {wanted}. Set student_train_cfg=dict'
    with pytest.raises(UserError, match=said):
        check_loop(cfg)
    cfg.train_cfg.type = 'ReplayableIterLoop'
    check_loop(cfg)
    cfg.train_cfg = {'type': kind, wanted: 3}
    check_loop(cfg)


def test_factors_of_a_weight_decay_that_there_is_not_are_refused():
    head = {'decode_head': dict(lr_mult=10.0)}
    wrapper = dict(
        optimizer=dict(type='SGD', lr=0.1), paramwise_cfg=dict(norm_decay_mult=0, custom_keys=head)
    )
    with pytest.raises(UserError, match=r'norm_decay_mult: there is no .*\.weight_decay'):
        check_optimizer(Config(dict(optim_wrapper=wrapper)))
    wrapper['optimizer']['weight_decay'] = 0.0
    check_optimizer(Config(dict(optim_wrapper=wrapper)))
    del wrapper['optimizer']['weight_decay'], wrapper['paramwise_cfg']['norm_decay_mult']
    check_optimizer(Config(dict(optim_wrapper=wrapper)))
