"""Configs as Open-CD's users write them: a model file, a common file, and the few lines between."""

import copy
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.registry import init_default_scope

from mtkd_cd.opencd.visualization import CDLocalVisualizer

MODELS = Path(__file__).parents[1] / 'models' / 'test_opencd_configs.py'

# TTP's encoder with two layers.
SMALL_SAM = dict(
    embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64, global_attn_indexes=(1,)
)

RUNTIME = """
default_scope = 'opencd'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='CDLocalVisBackend')]
visualizer = dict(
    type='CDLocalVisualizer', vis_backends=vis_backends, name='visualizer', alpha=1.0
)
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
tta_model = dict(type='mmseg.SegTTAModel')
"""

COMMON = """
_base_ = './default_runtime.py'
data_root = {root!r}
crop_size = ({size}, {size})
train_pipeline = [
    dict(type='MultiImgLoadImageFromFile'),
    dict(type='MultiImgLoadAnnotations'),
    dict(type='MultiImgRandomRotate', prob=0.5, degree=180),
    dict(type='MultiImgRandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='MultiImgRandomFlip', prob=0.5, direction='horizontal'),
    dict(type='MultiImgExchangeTime', prob=0.5),
    dict(type='MultiImgPhotoMetricDistortion'),
    dict(type='MultiImgPackSegInputs'),
]
test_pipeline = [
    dict(type='MultiImgLoadImageFromFile'),
    dict(type='MultiImgResize', scale=({size}, {size}), keep_ratio=True),
    dict(type='MultiImgLoadAnnotations'),
    dict(type='MultiImgPackSegInputs'),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='{sampler}', shuffle=True),
    dataset=dict(
        type='LEVIR_CD_Dataset',
        data_root=data_root,
        data_prefix=dict(
            seg_map_path='train{part}/label',
            img_path_from='train{part}/A',
            img_path_to='train{part}/B',
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='LEVIR_CD_Dataset',
        data_root=data_root,
        data_prefix=dict(seg_map_path='test/label', img_path_from='test/A', img_path_to='test/B'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmseg.IoUMetric', iou_metrics=['mFscore', 'mIoU'])
test_evaluator = val_evaluator
optimizer = dict(type='AdamW', lr=0.001, betas=(0.9, 0.999), weight_decay=0.05)
optim_wrapper = dict(type='OptimWrapper', optimizer=optimizer)
"""

BY_ITERATION = """
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=2),
    dict(type='PolyLR', power=1.0, begin=2, end=4, eta_min=0.0, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2, save_best='mIoU'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='CDVisualizationHook', interval=1, img_shape=({size}, {size}, 3)),
)
"""

BY_EPOCH = """
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-6, begin=0, end=1, convert_to_iter_based=True
    ),
    dict(type='PolyLR', power=1.0, begin=1, end=2, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
log_processor = dict(by_epoch=True)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=True),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=True, interval=1, save_best='mIoU'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='CDVisualizationHook', interval=1, img_shape=({size}, {size}, 3)),
)
"""


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mtkd_cd')


@pytest.fixture
def tool(tool):
    """As everywhere, without the visualiser of the last command: it is one for each process."""

    def run(*argv):
        CDLocalVisualizer._instance_dict.clear()
        return tool(*argv)

    return run


@pytest.fixture(scope='session')
def opencd_models() -> dict[str, dict]:
    """Model configs by name, as Open-CD has them."""
    found = runpy.run_path(str(MODELS))
    models = {**found['BENCHMARK'], **found['SMALL']}
    models['ttp_small'] = copy.deepcopy(models['ttp_vitsam_l'])
    encoder = models['ttp_small']['backbone']['encoder_cfg']
    encoder |= dict(arch=SMALL_SAM, img_size=(64, 64), init_cfg=None)
    return models


@pytest.fixture
def write_config(tmp_path, scenes, opencd_models) -> Callable[..., Path]:
    """``write_config(name)`` writes the files of a config in Open-CD's idiom and gives the last."""

    def write(
        name: str,
        *,
        epochs: bool = False,
        lines: str = '',
        part: str = '',
        size: int = 64,
        root: Path = scenes,
    ) -> Path:
        folder = tmp_path / 'opencd_configs'
        folder.mkdir(exist_ok=True)
        (folder / 'default_runtime.py').write_text(RUNTIME)
        sampler = 'DefaultSampler' if epochs else 'InfiniteSampler'
        common = COMMON.format(root=str(root), size=size, sampler=sampler, part=part)
        schedule = (BY_EPOCH if epochs else BY_ITERATION).format(size=size)
        (folder / 'common.py').write_text(common + schedule)
        (folder / 'model.py').write_text(f'model = {opencd_models[name]!r}\n')
        path = folder / f'{name}_{size}x{size}.py'
        path.write_text(f"_base_ = ['./model.py', './common.py']\n{lines}\n")
        return path

    return write
