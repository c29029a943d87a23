"""What OpenMMLab's packages import later than they would by themselves, and that it is there when
it is used."""

import os
import subprocess
import sys

import pytest

NOT_YET = (
    'sympy',
    'torch.distributed.fsdp',
    'torch.distributed.optim',
    'scipy.interpolate',
    'scipy.ndimage',
    'scipy.optimize',
    'ftfy',
)
CODE = f"""
import sys
import mtkd_cd
import mmcv.cnn
from mtkd_cd.core.openmmlab import quiet_imports
with quiet_imports():
    import mmengine.runner
    import mmseg.datasets.transforms
    import mmseg.models
print('early:', *(name for name in {NOT_YET} if name in sys.modules))

import torch
from mmengine.model import MMFullyShardedDataParallel, is_model_wrapper
from mmengine.optim import ZeroRedundancyOptimizer
from mmengine.registry import MODEL_WRAPPERS, OPTIMIZERS, STRATEGIES, DefaultScope
layer = torch.nn.Linear(2, 3)
print('wrapper:', is_model_wrapper(layer), 'torch.distributed.fsdp' in sys.modules)

torch.distributed.init_process_group(
    'gloo', store=torch.distributed.HashStore(), rank=0, world_size=1
)
DefaultScope.get_instance('test', scope_name='mtkd_cd')
settings = dict(type='ZeroRedundancyOptimizer', optimizer_type='SGD', lr=0.5)
optimizer = OPTIMIZERS.build(dict(settings, params=layer.parameters()))
before = layer.bias.detach().clone()
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
from torch.distributed.optim import ZeroRedundancyOptimizer as torchs
print('optimiser:', isinstance(optimizer, torchs), isinstance(optimizer, ZeroRedundancyOptimizer),
      [round(step, 4) for step in (before - layer.bias).tolist()])
torch.distributed.destroy_process_group()

class Own(MMFullyShardedDataParallel):
    answer = 42

from torch.distributed.fsdp import FullyShardedDataParallel
print('sharded:', issubclass(Own, FullyShardedDataParallel), issubclass(Own,
      MMFullyShardedDataParallel), Own.answer, Own.__name__,
      issubclass(MODEL_WRAPPERS.get('MMFullyShardedDataParallel'), FullyShardedDataParallel))
from mmengine._strategy.fsdp import FSDP
print('beside it:', FSDP is FullyShardedDataParallel)
print('strategy:', STRATEGIES.get('FSDPStrategy')._wrap_model.__qualname__)

from mmseg.models.assigners.hungarian_assigner import linear_sum_assignment
print('assigned:', linear_sum_assignment([[4, 1], [2, 8]])[1].tolist())
"""
FOUND = [
    'early:',
    'wrapper: False False',
    'optimiser: True True [0.5, 0.5, 0.5]',
    'sharded: True True 42 Own True',
    'beside it: True',
    'strategy: FSDPStrategy._wrap_model',
    'assigned: [1, 0]',
]


def run(code: str) -> list[str]:
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert 'Fail to import' not in done.stderr
    return [line.strip() for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_what_few_use_is_imported_when_it_is_used():
    assert run(CODE) == FOUND


def test_users_module_that_imports_a_data_set_of_ours_prints_nothing():
    """``mtkd-cd config`` prints the config of a file that imports such a module."""
    assert run('from mtkd_cd.data import CDDataset') == []
