"""Resuming: the samples, augmentations and losses of an interrupted run equal those of an
uninterrupted one."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS, DefaultScope
from mmengine.runner import Runner
from torch import nn

import mtkd_cd  # noqa: F401
from mtkd_cd.core.errors import UserError
from mtkd_cd.engine import NumberedSampler, ReplayableIterLoop, SeededDataset
from mtkd_cd.engine.runner import end_workers


@DATASETS.register_module()
class NoisyNumbers(BaseDataset):
    """Ten numbers, with noise from numpy's global generator, as augmentation draws it."""

    def __init__(self, noise=True):
        self.noise = noise
        super().__init__()

    def load_data_list(self):
        return [dict(value=float(i)) for i in range(10)]

    def __getitem__(self, index):
        noise = np.random.uniform(size=3) if self.noise else np.zeros(3)
        return dict(inputs=torch.from_numpy(noise.astype(np.float32)) + index)


@MODELS.register_module()
class DropoutRegressor(BaseModel):
    """Records the loss of every step; its dropout draws from torch's generator."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.losses = []

    def forward(self, inputs, mode='tensor'):
        x = torch.stack(inputs) if isinstance(inputs, (list, tuple)) else inputs
        if mode != 'loss':
            return [x]
        loss = nn.functional.dropout(self.linear(x), 0.5).square().mean()
        self.losses.append(loss.item())
        return dict(loss=loss)


@METRICS.register_module()
class Score(BaseMetric):
    """A score that is read off the weights."""

    def process(self, data_batch, data_samples):
        self.results.append(data_samples[0].sum().item())

    def compute_metrics(self, results):
        return dict(mIoU=sum(results))


class KilledError(Exception):
    """Stands for SIGKILL."""


def run(
    work_dir: Path,
    num_workers: int,
    *,
    resume_from: int | None = None,
    stop_after: int | None = None,
) -> list[float]:
    cfg = Config(
        dict(
            default_scope='mtkd_cd',
            model=dict(type='DropoutRegressor'),
            work_dir=str(work_dir),
            randomness=dict(seed=3),
            train_dataloader=dict(
                batch_size=2,
                num_workers=num_workers,
                dataset=dict(type='NoisyNumbers'),
                sampler=dict(type='InfiniteSampler'),
            ),
            val_dataloader=dict(
                batch_size=2,
                num_workers=0,
                dataset=dict(type='NoisyNumbers', noise=False),
                sampler=dict(type='DefaultSampler', shuffle=False),
            ),
            train_cfg=dict(type='ReplayableIterLoop', max_iters=8, val_interval=4),
            val_cfg={},
            val_evaluator=dict(type='Score'),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
            param_scheduler=[dict(type='PolyLR', by_epoch=False, power=1.0, end=8)],
            default_hooks=dict(
                checkpoint=dict(
                    type='CheckpointHook',
                    by_epoch=False,
                    interval=2,
                    max_keep_ckpts=2,
                    backend_args=dict(backend='atomic'),
                )
            ),
            custom_hooks=[dict(type='BestWeightsHook'), dict(type='StopwatchHook')],
            log_processor=dict(by_epoch=False),
            log_level='ERROR',
            experiment_name=f'{work_dir}-{resume_from}',
            resume=resume_from is not None,
            load_from=str(work_dir / f'iter_{resume_from}.pth') if resume_from else None,
        )
    )
    runner = Runner.from_cfg(cfg)
    try:
        if stop_after is not None:
            step = runner.model.train_step

            def killed(*args, **kwargs):
                if runner.iter == stop_after:
                    raise KilledError
                return step(*args, **kwargs)

            runner.model.train_step = killed
            with pytest.raises(KilledError):
                runner.train()
        else:
            runner.train()
    finally:
        end_workers(runner)
    return runner.model.losses


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Losses and best weights of an uninterrupted run."""
    work_dir = tmp_path_factory.mktemp('whole')
    return run(work_dir, num_workers=0), torch.load(work_dir / 'best.pth', weights_only=True)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_resumed_run_continues_with_the_losses_of_an_uninterrupted_one(
    num_workers, whole, tmp_path
):
    losses, best = whole
    first = run(tmp_path, num_workers, stop_after=5)
    second = run(tmp_path, num_workers, resume_from=4)
    assert len(set(losses)) == 8
    assert first == losses[:5]
    assert second == losses[4:]
    resumed_best = torch.load(tmp_path / 'best.pth', weights_only=True)
    assert resumed_best['meta'] == best['meta']
    assert all(
        torch.equal(resumed_best['state_dict'][key], value)
        for key, value in best['state_dict'].items()
    )


def test_run_resumed_from_a_checkpoint_of_a_validation_iteration_validates_first(tmp_path):
    run(tmp_path, 0)
    (
        tmp_path / 'best.pth'
    ).unlink()  # as if killed between the last checkpoint and the last validation
    run(tmp_path, 0, resume_from=8)
    assert torch.load(tmp_path / 'best.pth', weights_only=True)['meta']['iter'] == 8


def test_schedule_in_epochs_counts_the_images():
    loader = dict(
        batch_size=4,
        num_workers=0,
        dataset=dict(type='NoisyNumbers'),
        sampler=dict(type='InfiniteSampler'),
    )
    runner = SimpleNamespace(
        seed=0, build_dataloader=Runner.build_dataloader, visualizer=SimpleNamespace()
    )
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        loop = ReplayableIterLoop(runner, loader, max_epochs=5, val_interval=2)
        by_iteration = ReplayableIterLoop(
            runner, loader, max_epochs=5, val_interval=2, val_by_epoch=False
        )
    assert (loop.max_iters, loop.val_interval) == (
        15,
        6,
    )  # ten images in batches of four: three steps
    assert (by_iteration.max_iters, by_iteration.val_interval) == (15, 2)
    with pytest.raises(UserError, match='set one of them'):
        ReplayableIterLoop(runner, loader, max_epochs=5, max_iters=15)


def test_numbered_sampler_skips_to_a_position_of_the_stream():
    dataset = list(range(5))
    stream = iter(NumberedSampler(dataset, dict(type='InfiniteSampler'), seed=7))
    expected = [next(stream) for _ in range(12)][9:]
    sampler = NumberedSampler(dataset, dict(type='InfiniteSampler'), seed=7)
    sampler.skip(9)
    resumed = iter(sampler)
    assert [next(resumed) for _ in range(3)] == expected
    assert [position for position, _ in expected] == [9, 10, 11]


def test_positions_go_on_when_a_finite_sampler_starts_again():
    sampler = NumberedSampler(list(range(3)), dict(type='DefaultSampler', shuffle=False), seed=7)
    assert list(sampler) + list(sampler) == [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1), (5, 2)]


def test_same_image_at_another_position_is_augmented_differently():
    dataset = SeededDataset(dict(type='mmengine.NoisyNumbers'), seed=0)
    first, again, later = (dataset[position, 4]['inputs'] for position in (3, 3, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert len(dataset) == 10
    assert dataset.get_data_info(2)['value'] == 2.0
