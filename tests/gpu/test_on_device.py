"""Models, distiller, metric and training on the accelerator, where there is one, against the CPU.

Without one the same code runs on the CPU, in the slow tests, so that it is known to run.
"""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

import mtkd_cd  # noqa: F401  (registers)
from mtkd_cd.engine.optim import BFloat16OptimWrapper
from mtkd_cd.models.prepare import prepare
from mtkd_cd.registry import METRICS, MODELS

_REPO = Path(__file__).parents[2]
_MODELS = _REPO / 'configs' / '_base_' / 'models'
_LARGE = ('ban_vitl14_mitb2', 'ttp_vitsam_l')
_NAMES = sorted(path.stem for path in _MODELS.glob('*.py') if path.stem not in _LARGE)
# Kinds of network, where one of a kind is enough.
_FEW = ('bit_r18', 'changer_mitb0', 'tinycd')
_NAMES.sort(key=lambda name: name not in _FEW)  # first, where time is short
_SIDE = 64

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
pytestmark = pytest.mark.slow if DEVICE == 'cpu' else []


@pytest.fixture(autouse=True)
def _our_scope_and_exact_products():
    torch.manual_seed(0)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        yield
    torch.backends.cudnn.allow_tf32 = before


def _config(name: str) -> ConfigDict:
    config = Config.fromfile(_MODELS / f'{name}.py')
    config.merge_from_dict(dict(model=dict(data_preprocessor=None, pretrained=None)))
    return config.model


def _batch(device: str, pairs: int = 4) -> tuple[Tensor, list[SegDataSample]]:
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.standard_normal((pairs, 6, _SIDE, _SIDE), dtype=np.float32))
    samples = []
    for car in np.resize((0.02, 0.1, 0.5), pairs):
        label = torch.from_numpy((rng.random((1, _SIDE, _SIDE)) < car).astype(np.int64))
        label[:, -4:] = 255
        sample = SegDataSample(gt_sem_seg=PixelData(data=label.to(device)))
        shape = (_SIDE, _SIDE)
        sample.set_metainfo(dict(car=car, ori_shape=shape, img_shape=shape, pad_shape=shape))
        samples.append(sample)
    return inputs.to(device), samples


def _first(maps: Tensor | list) -> Tensor:
    return maps if isinstance(maps, Tensor) else maps[-1]


def _without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if (
            isinstance(module, nn.modules.dropout._DropoutNd)
            or 'drop' in type(module).__name__.lower()
        ):
            module.eval()
            module.train = lambda mode=True: None
    return model


@pytest.mark.parametrize('name', _FEW)
def test_distiller_takes_the_same_step(name):
    student = _config(name)
    student.decode_head.dropout_ratio = 0
    distiller = MODELS.build(
        dict(
            type='MultiTeacherDistiller',
            student=student,
            distill_loss=dict(type='ChangeMapMSELoss', loss_weight=0.1),
        )
    )
    distiller.init_weights()
    on_device = copy.deepcopy(distiller).to(DEVICE)
    results = []
    for model, device in ((distiller, 'cpu'), (on_device, DEVICE)):
        model = _without_dropout(model).train()
        losses = model.loss(*_batch(device))
        total, _ = model.parse_losses(losses)
        total.backward()
        gradient = torch.cat(
            [p.grad.flatten().cpu() for p in model.parameters() if p.requires_grad]
        )
        results.append((float(losses['loss_distill'].detach()), float(total.detach()), gradient))
    (distilled, total, gradient), (other_distilled, other_total, other_gradient) = results
    assert distilled > 0
    assert other_distilled == pytest.approx(distilled, rel=1e-3)
    assert other_total == pytest.approx(total, rel=1e-3)
    assert torch.nn.functional.cosine_similarity(gradient, other_gradient, dim=0) > 0.99


@pytest.mark.parametrize('channels_last', [False, True], ids=['as_built', 'channels_last'])
@pytest.mark.parametrize('name', _FEW)
def test_mixed_precision_trains(name, channels_last):
    model = MODELS.build(_config(name)).to(DEVICE).train()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    wrapper = (
        AmpOptimWrapper(loss_scale='dynamic', optimizer=optimizer)
        if DEVICE == 'cuda'
        else BFloat16OptimWrapper(optimizer)
    )
    inputs, samples = _batch(DEVICE)
    losses = []
    for _ in range(6):
        with wrapper.optim_context(model):
            losses.append(model.parse_losses(model(inputs, samples, mode='loss'))[0])
        wrapper.update_params(losses[-1])
    values = [float(loss.detach()) for loss in losses]
    assert np.isfinite(values).all()
    assert min(values[3:]) < values[0]


@pytest.mark.parametrize('name', _FEW)
def test_replayed_change_maps_are_those_of_the_layers(name):
    """Graphs of several shapes, of other inputs than they were captured with, in any order."""
    detector = MODELS.build(_config(name)).to(DEVICE).eval()
    plain, replayed = prepare(detector), prepare(detector, graphs=True)
    low = torch.float16 if DEVICE == 'cuda' else torch.bfloat16
    for enabled in (False, True):
        with torch.autocast(DEVICE, low, enabled=enabled):
            for pairs in (1, 2, 1, 2, 1, 2, 1, 2, 2, 1):
                images = torch.randn(pairs, 6, _SIDE, _SIDE, device=DEVICE)
                expected = _first(plain(images, mode='tensor'))
                maps = _first(replayed(images, mode='tensor'))
                replayed(images.flip(-1), mode='tensor')  # leaves what was given before
                largest = float(expected.abs().max())
                torch.testing.assert_close(
                    maps, expected, rtol=0, atol=(1e-2 if enabled else 1e-5) * largest
                )
    if DEVICE == 'cuda':
        assert len(replayed.forward._change_maps._graphs) == 4


def test_metric_counts_on_the_device(tmp_path):
    rows = []
    for device in ('cpu', DEVICE):
        metric = METRICS.build(dict(type='PerImageChangeMetric'))
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            label, prediction = torch.randint(0, 2, (2, 1, 32, 32), generator=generator)
            metric.process(
                None,
                [
                    dict(
                        img_path=[f'{seed}.png'] * 2,
                        gt_sem_seg=dict(data=label.to(device)),
                        pred_sem_seg=dict(data=prediction.to(device)),
                    )
                ],
            )
        rows.append(metric.evaluate(5))
    assert rows[0] == pytest.approx(rows[1])


def test_a_training_step_with_synchronised_batch_norm():
    torch.distributed.init_process_group(
        'nccl' if DEVICE == 'cuda' else 'gloo', store=torch.distributed.HashStore(), rank=0,
        world_size=1,
    )  # fmt: skip
    try:
        model = MODELS.build(_config('changer_r18'))
        if DEVICE == 'cuda':  # torch's layer refuses the CPU
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model = model.to(DEVICE).train()
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
        inputs, samples = _batch(DEVICE)
        logged = model.train_step(dict(inputs=inputs, data_samples=samples), wrapper)
        assert logged['loss'].isfinite()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize('name', _NAMES)
def test_model_computes_on_the_device_what_it_does_on_the_cpu(name):
    model = MODELS.build(_config(name)).eval()
    inputs, _ = _batch('cpu', pairs=2)
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        exact = _first(double(inputs.double(), mode='tensor'))
        single = _first(model(inputs, mode='tensor'))
        found = _first(model.to(DEVICE)(inputs.to(DEVICE), mode='tensor')).cpu()
        prepared = _first(prepare(model)(inputs.to(DEVICE), mode='tensor')).cpu()
    largest = exact.abs().max()
    rounding = float((single - exact).abs().max() / largest)
    for maps in (found, prepared):
        assert float((maps - exact).abs().max() / largest) <= max(1e-4, 5 * rounding)


# Trains in float32 and in mixed precision and tests, in one process: to start one can take a minute
_LAUNCHED = """
import sys
from pathlib import Path

import torch

from mtkd_cd.cli import test, train

data, out = sys.argv[1:]
common = ['--data-root', data, '--num-workers', '0', '--launcher', 'pytorch']
options = ['train_cfg.max_iters=4', 'train_cfg.val_interval=4', 'train_dataloader.batch_size=4']
config = 'configs/origin/fc_siam_diff.py'
for kind, more in (('float32', []), ('amp', ['--amp'])):
    work_dir = f'{out}/{kind}'
    train.main([config, *common, '--work-dir', work_dir, '--image-size', '64', *more,
                '--cfg-options', *options])
    test.main([config, f'{work_dir}/best.pth', *common, '--work-dir', f'{out}/test_{kind}'])
    Path(work_dir, 'done').touch()
torch.distributed.destroy_process_group()
"""


def test_one_launched_process_trains_and_tests(scenes, tmp_path):
    script = tmp_path / 'launched.py'
    script.write_text(_LAUNCHED)
    # What a machine without a package registry was given comes after the repository.
    paths = [str(_REPO), *filter(None, [os.environ.get('PYTHONPATH')])]
    run = subprocess.run(
        [
            *(sys.executable, '-m', 'torch.distributed.run', '--standalone'),
            *('--nproc_per_node', '1', str(script), str(scenes), str(tmp_path)),
        ],
        cwd=_REPO,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    for kind in ('float32', 'amp'):
        assert (tmp_path / kind / 'best.pth').is_file()
        assert (tmp_path / kind / 'done').is_file()
