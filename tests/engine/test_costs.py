"""What lowers the cost of training changes nothing else."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

import mtkd_cd  # noqa: F401  (registers)
from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.config import load_config, nodes
from mtkd_cd.engine.costs import set_costs
from mtkd_cd.engine.hooks import ActivationCheckpointingHook, CompileHook
from mtkd_cd.engine.hooks.checkpointing import checkpointed_layers
from mtkd_cd.registry import MODELS


@pytest.fixture(scope='module')
def detector():
    config = Config.fromfile('configs/_base_/models/changeformer_mitb0.py').model
    config.update(pretrained=None, data_preprocessor=None)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        return MODELS.build(config).train()


def _runner(model):
    return SimpleNamespace(model=model, logger=MMLogger.get_instance('costs'))


def _step(model):
    """Change map and gradients, dropout included."""
    torch.manual_seed(1)
    model.zero_grad()
    maps = model(torch.randn(2, 6, 32, 32), mode='tensor')
    maps.square().mean().backward()
    return maps.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_checkpointed_layers_give_the_same_gradients(detector):
    plain_maps, plain = _step(detector)
    hook = ActivationCheckpointingHook()
    hook.before_train(_runner(detector))
    assert len(hook._layers) == 8  # of MiT-b0
    calls = []
    counted = hook._layers[0].attn.register_forward_hook(lambda *_: calls.append(1))
    maps, gradients = _step(detector)
    counted.remove()
    per_pass = len(calls)
    hook.after_train(_runner(detector))
    calls.clear()
    counted = hook._layers[0].attn.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(_step(detector)[0], plain_maps, rtol=0, atol=0)
    counted.remove()
    assert per_pass == 2 * len(calls)
    torch.testing.assert_close(maps, plain_maps, rtol=0, atol=0)
    torch.testing.assert_close(gradients, plain, rtol=1e-5, atol=1e-7)


def test_a_layer_with_batch_norm_is_not_computed_twice():
    class ToyEncoderLayer(torch.nn.Sequential):
        pass

    kept = ToyEncoderLayer(torch.nn.Linear(2, 2))
    model = torch.nn.Sequential(kept, ToyEncoderLayer(torch.nn.BatchNorm2d(2)))
    assert checkpointed_layers(model) == [kept]
    with pytest.raises(UserError, match='no transformer layers'):
        ActivationCheckpointingHook().before_train(_runner(torch.nn.Linear(2, 2)))


@pytest.mark.slow
def test_compiled_parts_give_the_same(detector):
    plain_maps, plain = _step(detector)
    hook = CompileHook(backend='eager')
    names = list(detector.state_dict())
    hook.before_train(_runner(detector))
    maps, gradients = _step(detector)
    assert list(detector.state_dict()) == names
    hook.after_train(_runner(detector))
    torch.testing.assert_close(maps, plain_maps)
    torch.testing.assert_close(gradients, plain)
    assert 'extract_feat' not in detector.__dict__


def test_costs_are_put_where_they_belong():
    cfg = load_config('configs/mtkd/fc_ef.py')
    cfg.student_train_dataloader = copy.deepcopy(cfg.train_dataloader)
    set_costs(cfg, compile=True, cache='disk', accumulate=4, checkpoint_activations=True)
    assert cfg.optim_wrapper.accumulative_counts == 4
    hooks = [hook['type'] for hook in cfg.custom_hooks]
    assert hooks[-2:] == ['CompileHook', 'ActivationCheckpointingHook']
    assert cfg.model.teacher_options == dict(compiled=True)
    loaders = (('train', 'disk'), ('student_train', 'disk'), ('val', 'disk'), ('test', None))
    for loader, wanted in loaders:
        found = [
            node.get('cache')
            for node in nodes(cfg[f'{loader}_dataloader'])
            if 'Load' in str(node.get('type'))
        ]
        assert found == [wanted, wanted]


def test_a_run_with_a_cache_learns_the_same(tool, train_argv, tmp_path):
    weights = []
    for name, more in (('plain', []), ('cached', ['--cache', 'ram'])):
        work_dir = tmp_path / name
        code, output = tool('train', *train_argv('origin', '--work-dir', work_dir, *more))
        assert code == 0, output
        weights.append(torch.load(work_dir / 'best.pth')['state_dict'])
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_accumulated_gradients_are_those_of_the_large_batch():
    from mmengine.optim import OptimWrapper

    torch.manual_seed(0)
    start = torch.nn.Linear(4, 1)
    data = torch.randn(8, 4)
    results = []
    for steps in (1, 4):
        cfg = Config(dict(optim_wrapper={}))
        set_costs(cfg, accumulate=steps)
        model = torch.nn.Linear(4, 1)
        model.load_state_dict(start.state_dict())
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), **cfg.optim_wrapper)
        wrapper.initialize_count_status(model, 0, steps)
        for batch in data.chunk(steps):
            with wrapper.optim_context(model):
                loss = model(batch).square().mean()
            wrapper.update_params(loss)
        results.append(model.weight.detach())
    torch.testing.assert_close(*results)
    assert not torch.equal(results[0], start.weight)


def test_precision_of_teachers_is_put_into_their_options():
    cfg = load_config('configs/mtkd/fc_ef.py')
    cfg.model.teacher_options = dict(compiled=True)
    set_costs(cfg, teacher_precision='float32')
    assert cfg.model.teacher_options == dict(compiled=True)  # as it is without a word
    set_costs(cfg, teacher_precision='bfloat16')
    assert cfg.model.teacher_options == dict(compiled=True, precision='bfloat16')
    set_costs(cfg)
    assert cfg.model.teacher_options.precision == 'bfloat16'
    set_costs(cfg, teacher_precision='float32')
    assert cfg.model.teacher_options.precision == 'float32'


def test_precision_of_teachers_needs_teachers(tool, train_argv, tmp_path):
    code, error = tool('train', *train_argv('origin', '--teacher-precision', 'bfloat16'))
    assert code == 2
    assert 'fc_ef.py has no teachers, its model is DIEncoderDecoder' in error
    assert 'configs/mtkd/' in error
    assert not (tmp_path / 'work').exists()
    cfg = load_config('configs/origin/fc_ef.py')
    set_costs(cfg, teacher_precision='float32')
    with pytest.raises(UserError, match="'half': choose 'float32' or 'bfloat16'"):
        set_costs(cfg, teacher_precision='half')
