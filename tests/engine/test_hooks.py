"""Hooks: the best weights of a run in one file, and the time that a run took."""

import errno
import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EarlyStoppingHook
from mmengine.optim import OptimWrapper
from torch import nn

from mtkd_cd.core.checkpoint import load_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.engine import BestWeightsHook, ReplayableIterLoop, SharedBuffersHook, StopwatchHook
from mtkd_cd.engine.hooks import shared_buffers
from mtkd_cd.engine.hooks.exact_resume import inexact_because


@pytest.fixture
def runner(tmp_path):
    cfg = SimpleNamespace(filename='configs/origin/toy.py', get=lambda key: False)
    return SimpleNamespace(
        model=nn.Linear(2, 1),
        work_dir=str(tmp_path),
        iter=0,
        cfg=cfg,
        logger=logging.getLogger('test_hooks'),
        call_hook=lambda name, **kwargs: None,
    )


def validate(hook, runner, iteration, score):
    runner.iter = iteration
    nn.init.constant_(runner.model.weight, iteration)
    hook.after_val_epoch(runner, dict(mIoU=score, loss=-score))


def saved(tmp_path):
    content = torch.load(tmp_path / 'best.pth', weights_only=True)
    return (
        content['meta']['iter'],
        content['meta']['score'],
        content['state_dict']['weight'][0, 0].item(),
    )


def test_best_weights_are_those_of_the_best_validation(runner, tmp_path):
    hook = BestWeightsHook()
    for iteration, score in ((10, 50.0), (20, 70.0), (30, 60.0), (40, 70.0), (50, float('nan'))):
        validate(hook, runner, iteration, score)
    hook.after_train(runner)
    assert saved(tmp_path) == (20, 70.0, 20.0)
    content = torch.load(tmp_path / 'best.pth', weights_only=True)
    assert set(content) == {'state_dict', 'meta'}
    assert content['meta']['config'] == 'origin/toy.py'
    load_weights(nn.Linear(2, 1), tmp_path / 'best.pth')


def test_smaller_is_better_with_rule_less(runner, tmp_path):
    hook = BestWeightsHook(metric='loss', rule='less')
    for iteration, score in ((10, 50.0), (20, 70.0), (30, 60.0)):
        validate(hook, runner, iteration, score)
    assert saved(tmp_path)[:2] == (20, -70.0)


def test_resumed_run_goes_on_from_the_score_on_disk(runner, tmp_path):
    validate(BestWeightsHook(), runner, 10, 50.0)
    runner.cfg.get = lambda key: key == 'resume'
    hook = BestWeightsHook()
    hook.after_load_checkpoint(runner, {})
    validate(hook, runner, 20, 40.0)
    assert saved(tmp_path)[0] == 10
    validate(hook, runner, 30, 60.0)
    assert saved(tmp_path)[0] == 30


def test_run_without_validation_leaves_its_last_weights(runner, tmp_path):
    runner.iter = 7
    nn.init.constant_(runner.model.weight, 7)
    BestWeightsHook().after_train(runner)
    assert saved(tmp_path) == (7, None, 7.0)


def test_unknown_metric_lists_those_reported(runner):
    with pytest.raises(UserError, match=r"'mIuO'.*mIoU, loss"):
        validate(BestWeightsHook(metric='mIuO'), runner, 1, 1.0)


def test_full_disk_leaves_the_previous_best(runner, tmp_path, monkeypatch):
    hook = BestWeightsHook()
    validate(hook, runner, 10, 50.0)

    def full(content, file):
        file.write(b'part')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(OSError, match='No space'):
        validate(hook, runner, 20, 60.0)
    monkeypatch.undo()
    assert saved(tmp_path) == (10, 50.0, 10.0)
    assert [path.name for path in tmp_path.iterdir()] == ['best.pth']


def test_stopwatch_adds_the_time_before_an_interruption(runner, monkeypatch):
    now = [100.0]
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    first, checkpoint = StopwatchHook(), dict(meta={})
    first.before_run(runner)
    now[0] = 130.0
    first.before_save_checkpoint(runner, checkpoint)
    now[0] = 500.0  # time after the checkpoint is lost with the work done in it
    runner.cfg.get = lambda key: key == 'resume'
    second = StopwatchHook()
    second.before_run(runner)
    second.after_load_checkpoint(runner, checkpoint)
    now[0] = 512.0
    assert second.seconds == 42.0


def test_every_process_validates_the_statistics_of_the_first(monkeypatch):
    """Two processes that have seen other images; of mmengine's broadcast, the second's end."""
    first, second = (nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)) for _ in range(2))
    second.load_state_dict(first.state_dict())
    for model, mean in ((first, 0.0), (second, 5.0)):
        model(torch.randn(8, 1, 4, 4) + mean)
    sent = iter([buffer.clone() for buffer in first.buffers()])
    monkeypatch.setattr(shared_buffers, 'broadcast', lambda buffer: buffer.copy_(next(sent)))
    image = torch.randn(1, 1, 4, 4)
    expected = first.eval()(image)
    assert not torch.allclose(second.eval()(image), expected)
    hook, runner = SharedBuffersHook(), SimpleNamespace(model=second)
    hook.before_val_epoch(runner)  # alone, a process waits for nobody
    assert not torch.allclose(second(image), expected)
    monkeypatch.setattr(shared_buffers, 'get_world_size', lambda: 2)
    hook.before_val_epoch(runner)
    assert torch.equal(second(image), expected)


def test_resumed_run_says_that_the_patience_of_early_stopping_is_lost(runner):
    runner.train_loop = object.__new__(ReplayableIterLoop)
    runner.optim_wrapper = OptimWrapper(torch.optim.SGD(runner.model.parameters(), lr=0.1))
    runner.hooks = []
    assert not inexact_because(runner, 10)
    runner.hooks = [EarlyStoppingHook('mIoU', rule='greater')]
    (reason,) = inexact_because(runner, 10)
    assert 'EarlyStoppingHook' in reason
