"""The distiller inside mmengine's runner: its checkpoints, and resuming from them."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from mtkd_cd.core.checkpoint import load_weights, read_checkpoint
from mtkd_cd.models.mtkd.building import build_detector

ITERS, CUT = 6, 3


@DATASETS.register_module()
class RandomPairs(BaseDataset):
    """Six pairs whose pixels are drawn anew each time, as augmentation does; CARs in all three
    ranges."""

    make_samples = None  # the fixture's; a config holds no functions
    cars = (0.0, 0.04, 0.1, 0.2, 0.5, 0.9)

    def load_data_list(self):
        return [dict(car=car) for car in self.cars]

    def __getitem__(self, index):
        inputs = torch.from_numpy(np.random.standard_normal((6, 20, 20)).astype(np.float32))
        return dict(inputs=inputs, data_samples=self.make_samples([self.cars[index]])[0])


@pytest.fixture
def train(toy, tmp_path, monkeypatch):
    """``train(place, ...)`` distils for six iterations and returns the losses of every step."""
    monkeypatch.setattr(RandomPairs, 'make_samples', staticmethod(toy.samples))
    checkpoints = toy.checkpoints('student', 'small', 'medium', 'large')
    preprocessor = dict(
        type='mtkd_cd.DualInputSegDataPreProcessor', size_divisor=4, test_cfg=dict(size_divisor=4)
    )

    def run(place, iters=ITERS, resume=False):
        cfg = Config(
            dict(
                default_scope='mtkd_cd',
                model=dict(
                    type='MultiTeacherDistiller',
                    student=toy.config(data_preprocessor=preprocessor),
                    checkpoints=checkpoints,
                    distill_loss=dict(type='ChangeMapMSELoss', loss_weight=0.5),
                ),
                work_dir=str(tmp_path / place),
                randomness=dict(seed=3),
                train_dataloader=dict(
                    batch_size=3,
                    num_workers=0,
                    sampler=dict(type='InfiniteSampler'),
                    collate_fn=dict(type='pseudo_collate'),
                    dataset=dict(type='mmengine.RandomPairs'),
                ),
                train_cfg=dict(type='ReplayableIterLoop', max_iters=ITERS),
                optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
                param_scheduler=[dict(type='PolyLR', by_epoch=False, power=1.0, end=ITERS)],
                default_hooks=dict(
                    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=CUT)
                ),
                custom_hooks=[dict(type='BestWeightsHook')],
                log_processor=dict(by_epoch=False),
                log_level='ERROR',
                experiment_name=f'{tmp_path / place}-{resume}',
                resume=resume,
                load_from=str(tmp_path / place / f'iter_{CUT}.pth') if resume else None,
            )
        )
        runner = Runner.from_cfg(cfg)
        losses = []
        step = runner.model.train_step

        def recorded(*args, **kwargs):
            if runner.iter == iters:
                raise KeyboardInterrupt  # the run is cut here
            losses.append({key: value.item() for key, value in step(*args, **kwargs).items()})

        runner.model.train_step = recorded
        if iters < ITERS:
            with pytest.raises(KeyboardInterrupt):
                runner.train()
        else:
            runner.train()
        return losses

    return run


def test_resumed_run_continues_with_the_losses_of_an_uninterrupted_one(train, tmp_path):
    whole = train('whole')
    before = train('cut', iters=CUT + 1)
    after = train('cut', resume=True)
    assert len({step['loss_distill'] for step in whole}) == ITERS
    assert before == whole[: CUT + 1]
    assert after == whole[CUT:]
    weights = [
        read_checkpoint(tmp_path / place / 'best.pth')['state_dict'] for place in ('whole', 'cut')
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_checkpoints_hold_the_student_alone_and_load_into_the_origins_config(train, toy, tmp_path):
    train('run')
    origin = build_detector(toy.config())
    keys = set(origin.state_dict())
    for name in ('best.pth', f'iter_{ITERS}.pth'):
        assert set(read_checkpoint(tmp_path / 'run' / name)['state_dict']) == keys
    load_weights(origin, tmp_path / 'run' / 'best.pth')
    assert not torch.equal(
        origin.backbone.conv.weight,
        read_checkpoint(tmp_path / 'student.pth')['state_dict']['backbone.conv.weight'],
    )
    optimiser = read_checkpoint(tmp_path / 'run' / f'iter_{ITERS}.pth')['optimizer']
    assert len(optimiser['state']) == len(list(origin.parameters()))
