"""Configs in mmengine's pure-Python style, whose types are classes, work with every tool."""

import json

import cv2
import numpy as np
import pytest
import torch

from mtkd_cd.cli import config, export, migrate
from mtkd_cd.cli.common import run_tool
from mtkd_cd.core.strategy import Strategy
from mtkd_cd.engine.config import load_config, strategy_of
from mtkd_cd.engine.costs import set_amp
from mtkd_cd.engine.image_size import set_image_size
from mtkd_cd.evaluation import load_table
from mtkd_cd.experiments import threshold_search
from mtkd_cd.recipe.derive import derive
from mtkd_cd.registry import MODELS

BASE = """
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.optim import LinearLR, OptimWrapper
from mmengine.runner import TestLoop, ValLoop
from torch.optim import AdamW

from mtkd_cd.data import JL1_CD_Dataset
from mtkd_cd.data.transforms import (
    MultiImgLoadAnnotations,
    MultiImgLoadImageFromFile,
    MultiImgPackSegInputs,
    MultiImgRandomCrop,
)
from mtkd_cd.engine import BestWeightsHook, ReplayableIterLoop, StopwatchHook
from mtkd_cd.evaluation import PerImageChangeMetric

default_scope = 'mtkd_cd'
randomness = dict(seed=3)
env_cfg = dict()
default_hooks = dict()
custom_hooks = [dict(type=BestWeightsHook, metric='mIoU'), dict(type=StopwatchHook)]
log_level = 'ERROR'
load = [dict(type=MultiImgLoadImageFromFile), dict(type=MultiImgLoadAnnotations)]
pack = [dict(type=MultiImgPackSegInputs)]
crop = [dict(type=MultiImgRandomCrop, crop_size=(32, 32))]
data = dict(type=JL1_CD_Dataset, data_root={data!r}, serialize_data=False)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(data, split='train', pipeline=[*load, *crop, *pack]),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(data, split='val', pipeline=[*load, *pack]),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(data, split='test', pipeline=[*load, *pack]),
)
val_evaluator = dict(type=PerImageChangeMetric)
test_evaluator = dict(type=PerImageChangeMetric)
train_cfg = dict(type=ReplayableIterLoop, max_iters=4, val_interval=2)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3))
param_scheduler = [dict(type=LinearLR, start_factor=0.1, by_epoch=False, begin=0, end=4)]
"""
OWN = """
from mmengine.config import read_base

with read_base():
    from .base import *

from mmseg.models.decode_heads import FCNHead
from mmseg.models.losses import CrossEntropyLoss

from mtkd_cd.models.backbones import FC_EF
from mtkd_cd.models.data_preprocessor import DualInputSegDataPreProcessor
from mtkd_cd.models.detectors import DIEncoderDecoder

model = dict(
    type=DIEncoderDecoder,
    data_preprocessor=dict(
        type=DualInputSegDataPreProcessor,
        mean=[127.5] * 6,
        std=[127.5] * 6,
        bgr_to_rgb=True,
        size_divisor=32,
        test_cfg=dict(size_divisor=32),
    ),
    backbone=dict(type=FC_EF, in_channels=6, base_channel=4),
    decode_head=dict(
        type=FCNHead,
        in_channels=4,
        in_index=-1,
        channels=4,
        num_convs=0,
        concat_input=False,
        num_classes=2,
        loss_decode=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
"""
# What a user writes for a specialist: the class as the type of its data.
SPECIALIST = """
from mmengine.config import read_base

with read_base():
    from .own import *

from mtkd_cd.data import CARPartitionDataset

small = dict(type=CARPartitionDataset, range='small')
train_dataloader = dict(
    train_dataloader, dataset=dict(small, dataset=train_dataloader['dataset'])
)
val_dataloader = dict(val_dataloader, dataset=dict(small, dataset=val_dataloader['dataset']))
"""


@pytest.fixture
def own(scenes, tmp_path):
    """A config in a folder of the user's."""
    folder = tmp_path / 'my_configs'
    folder.mkdir()
    (folder / 'base.py').write_text(BASE.replace('{data!r}', repr(str(scenes))))
    (folder / 'specialist.py').write_text(SPECIALIST)
    (folder / 'own.py').write_text(OWN)
    return folder / 'own.py'


def _code(main, argv):
    with pytest.raises(SystemExit) as exit_info:
        run_tool(main, argv)
    return exit_info.value.code or 0


def test_train_and_test(tool, own, tmp_path):
    assert tool('train', own, '--work-dir', tmp_path / 'work', '--device', 'cpu') == (0, '')
    record = json.loads((tmp_path / 'work/run.json').read_text())
    assert record['settings']['model.type'].endswith('.DIEncoderDecoder')
    weights = tmp_path / 'work' / 'best.pth'
    argv = (own, weights, '--work-dir', tmp_path / 'test', '--device', 'cpu')
    assert tool('test', *argv) == (0, '')
    table = load_table(tmp_path / 'test' / 'per_image.json')
    assert len(table.files) == 7
    assert (table.provenance.model, table.provenance.strategy) == ('own', 'origin')
    assert (table.provenance.seed, table.provenance.dataset) == (3, 'data/test')


def test_specialist(tool, own, tmp_path):
    config = own.with_name('specialist.py')
    argv = (config, '--range', 'large', '--work-dir', tmp_path / 'work', '--device', 'cpu')
    assert tool('train', *argv) == (0, '')
    record = json.loads((tmp_path / 'work/run.json').read_text())
    assert record['settings']['train_dataloader.dataset.range'] == 'large'
    cfg = load_config(config)
    assert strategy_of(cfg) == Strategy('partition')


def test_recipe(tool, own, tmp_path):
    argv = ('--work-dir', tmp_path / 'w', '--iters', 4, '--val-interval', 2, '--device', 'cpu')
    assert tool('run_mtkd', own, *argv) == (0, '')
    report = json.loads((tmp_path / 'w/report/own/report.json').read_text())
    assert set(report['metrics']) == {'origin', 'op', 'mtkd'}


@pytest.mark.slow
def test_searches(tool, own, tmp_path, monkeypatch):
    size = ('--work-dir', tmp_path / 'w', '--iters', 4, '--val-interval', 2, '--device', 'cpu')
    monkeypatch.setattr(threshold_search, 'candidate_thresholds', lambda *_: {(0.1,): ('paper',)})
    argv = (own, *size, '--num-ranges', 2, '--score', 'op')
    assert tool('experiments/search_thresholds', *argv) == (0, '')
    found = json.loads((tmp_path / 'w/report/own/thresholds-op.json').read_text())
    assert [trial['thresholds'] for trial in found] == [[0.1]]
    argv = (own, *size, '--thresholds', 0.1, '--trials', 1, '--startup', 1)
    assert tool('experiments/search_lambda', *argv) == (0, '')
    assert 'Best: lambda = ' in (tmp_path / 'w/search/own@0.1.md').read_text()


def test_matrix(tool, own, tmp_path):
    """The settings, which have a base too, and the model."""
    (own.parent / 'usual.py').write_text(
        "device = 'cpu'\nval_interval = 2\nseeds = (0,)\nstrategies = ('origin',)\n"
    )
    settings = own.with_name('experiment.py')
    settings.write_text(
        'from mmengine.config import read_base\n\n'
        'with read_base():\n    from .usual import *\n\n'
        f'work_dir = {str(tmp_path / "m")!r}\n'
        f'models = dict(own=dict(config={str(own)!r}, iters=2))\n'
    )
    argv = ('--settings', settings, '--cluster', 'debug', '--devices')
    assert tool('experiments/run_matrix', *argv) == (0, '')
    cells = json.loads((tmp_path / 'm/matrix.json').read_text())['cells']
    assert [(cell['state'], cell['why']) for cell in cells] == [('done', '')]
    assert (tmp_path / 'm/seed0/origin/own/best.pth').is_file()


def test_predict_and_bundle(tool, own, scenes, tmp_path):
    weights = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=MODELS.build(load_config(own).model).state_dict()), weights)
    pair = [next((scenes / 'test' / date).iterdir()) for date in 'AB']
    argv = ('-m', own, '--weights', weights, '--device', 'cpu')
    assert tool('predict', *pair, *argv, '-o', tmp_path / 'a.png') == (0, '')
    bundle = tmp_path / 'own.mtkd'
    argv = ('create', own, weights, '-o', bundle, '--no-validation', '--device', 'cpu')
    assert tool('bundle', *argv) == (0, '')
    assert tool('predict', *pair, '-m', bundle, '-o', tmp_path / 'b.png') == (0, '')
    maps = [cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED) for name in ('a.png', 'b.png')]
    np.testing.assert_array_equal(*maps)


def test_export(own, tmp_path):
    weights = tmp_path / 'weights.pth'
    detector = MODELS.build(load_config(own).model).eval()
    torch.save(dict(state_dict=detector.state_dict()), weights)
    argv = [str(own), '--weights', str(weights), '-o', str(tmp_path / 'own.pt2'), '--size', '64']
    assert _code(export.main, argv) == 0
    graph = torch.export.load(tmp_path / 'own.pt2').module()
    pair = torch.randn(1, 6, 64, 64)
    logits = detector(pair, mode='tensor')
    torch.testing.assert_close(graph(pair)[0, 0], logits.softmax(1)[0, 1], rtol=0, atol=1e-5)


def test_migrate(own, tmp_path):
    """Classes are written as their paths; the rest stays."""
    new = tmp_path / 'new.py'
    assert _code(migrate.main, [str(own), '-o', str(new)]) == 0
    before, after = load_config(own), load_config(new)
    assert type(MODELS.build(after.model)) is type(MODELS.build(before.model))
    assert after.train_dataloader.dataset.data_root == before.train_dataloader.dataset.data_root


def test_browse_and_complexity(tool, own, tmp_path):
    argv = ('--num', 2, '--out', tmp_path / 'pairs')
    assert tool('analysis/browse_dataset', own, *argv) == (0, '')
    assert (tmp_path / 'pairs/pairs_1.png').is_file()
    assert tool('analysis/get_flops', own, '--shape', 64) == (0, '')


def test_config_is_printed_whole(own, tmp_path):
    out = tmp_path / 'whole.py'
    argv = [str(own), 'mtkd@0.1', '--out', str(out), '--cfg-options', 'log_level=INFO']
    assert _code(config.main, argv) == 0
    cfg = load_config(out)
    assert strategy_of(cfg) == Strategy('mtkd', (0.1,))
    assert cfg.train_cfg.max_iters == 2
    assert cfg.log_level == 'INFO'


def test_adjustments_find_classes(own):
    cfg = load_config(own)
    set_image_size(cfg, 48)
    assert cfg.train_dataloader.dataset.pipeline[3].crop_size == (48, 48)
    set_amp(cfg)
    assert cfg.optim_wrapper.type in ('BFloat16OptimWrapper', 'AmpOptimWrapper')
    student = derive(cfg, Strategy('mtkd'))
    assert strategy_of(student) == Strategy('mtkd')
