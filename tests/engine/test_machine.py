"""Configs fitted to the machine that they run on."""

from pathlib import Path

import pytest
import torch

from mtkd_cd.core.errors import UserError
from mtkd_cd.engine import machine
from mtkd_cd.engine.config import load_config
from mtkd_cd.engine.costs import set_amp
from mtkd_cd.engine.machine import set_machine

CONFIGS = Path(__file__).parents[2] / 'configs'


def load(stage, options=None):
    return load_config(CONFIGS / stage / 'fc_ef.py', options)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_what_needs_a_gpu_says_so():
    with pytest.raises(UserError, match='--device cpu'):
        set_machine(load('origin'), device='cuda')


def test_mixed_precision_on_the_cpu_is_bfloat16_and_only_when_asked_for():
    for model, parts in (
        ('fc_ef', {}),
        ('ban_vitl14_mitb2', dict(constructor='TrainableOptimWrapperConstructor')),
    ):
        cfg = load_config(CONFIGS / 'origin' / f'{model}.py')
        set_machine(cfg, device='cpu')
        assert cfg.optim_wrapper.type == 'OptimWrapper'
        set_amp(cfg)
        assert cfg.optim_wrapper.type == 'BFloat16OptimWrapper'
        assert not {'loss_scale', 'dtype'} & set(cfg.optim_wrapper)
        assert cfg.custom_hooks[-1] == dict(type='ChannelsLastHook')
        assert {key: cfg.optim_wrapper[key] for key in parts} == parts


def test_mixed_precision_on_a_gpu_scales_the_loss(monkeypatch):
    monkeypatch.setattr('mmengine.device.utils.DEVICE', 'cuda')
    cfg = load('origin')
    set_amp(cfg)
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.loss_scale) == ('AmpOptimWrapper', 'dynamic')


def test_launcher_without_torchrun_says_so():
    with pytest.raises(UserError, match='torchrun'):
        set_machine(load('origin'), launcher='pytorch')


def test_config_without_an_environment_runs_in_several_processes(monkeypatch):
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    cfg.pop('env_cfg')  # which mmengine has defaults for
    started = []
    monkeypatch.setattr(torch.distributed, 'is_torchelastic_launched', lambda: True)
    monkeypatch.setattr(torch.distributed, 'init_process_group', started.append)
    monkeypatch.setattr(machine, 'set_multi_processing', lambda **kwargs: started.append(kwargs))
    set_machine(cfg, device='cpu', launcher='pytorch')
    assert started == [dict(distributed=True), 'gloo']


@pytest.mark.parametrize(('given', 'kept'), [({}, 'torch'), ({'sync_bn': None}, None)])
def test_batch_norms_are_synchronised_among_gpus_unless_the_config_says_otherwise(
    monkeypatch, given, kept
):
    cfg = load('origin', given)
    monkeypatch.setattr(torch.distributed, 'is_torchelastic_launched', lambda: True)
    monkeypatch.setattr(machine.mmengine.device.utils, 'get_device', lambda: 'cuda')
    for name in ('set_multi_processing', 'init_dist'):
        monkeypatch.setattr(machine, name, lambda *args, **kwargs: None)
    set_machine(cfg, launcher='pytorch')
    assert cfg.sync_bn == kept
