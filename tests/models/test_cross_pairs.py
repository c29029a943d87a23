"""Students taught by specialists of another architecture, in the pairs that users want."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mtkd_cd.checkpoint import load_weights, save_checkpoint
from mtkd_cd.registry import MODELS

_CONFIGS = Path(__file__).parents[2] / 'configs' / '_base_' / 'models'
_CARS = dict(small=0.03, medium=0.1, large=0.5)
_STEPS = 8


def _config(name: str) -> ConfigDict:
    config = Config.fromfile(_CONFIGS / f'{name}.py').model
    config.pretrained = None
    return config


def _batch(size: int = 64) -> dict:
    """One pair of each range."""
    samples = []
    for car in _CARS.values():
        label = torch.zeros(1, size, size, dtype=torch.int64)
        label[:, : round(car * size)] = 1
        label[:, -4:] = 255
        sample = SegDataSample(metainfo=dict(car=car, img_shape=(size, size), ori_shape=(size, size)))
        samples.append(sample.set_data(dict(gt_sem_seg=PixelData(data=label))) or sample)
    return dict(inputs=[torch.randint(0, 256, (6, size, size), dtype=torch.uint8) for _ in samples], data_samples=samples)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('teacher', 'student'),
    [
        ('changer_mitb1', 'tinycd'),
        ('changer_s50', 'changer_r18'),
        ('changestar_upernet_r18', 'bit_r18'),
        ('changestar_farseg_r18', 'bit_r18'),
    ],
)
def test_student_comes_closer_to_teachers_of_another_architecture(teacher, student, tmp_path):
    checkpoints = {name: str(tmp_path / f'{name}.pth') for name in ('student', *_CARS)}
    for name, path in checkpoints.items():
        model = MODELS.build(_config(student if name == 'student' else teacher))
        save_checkpoint(dict(state_dict=model.state_dict()), path)
    distiller = MODELS.build(
        dict(
            type='MultiTeacherDistiller',
            student=_config(student),
            teachers={name: _config(teacher) for name in _CARS},
            checkpoints=checkpoints,
            distill_loss=dict(type='ChangeMapMSELoss', loss_weight=10.0),
        )
    )
    distiller.init_weights()
    weights = {name: {key: value.clone() for key, value in model.state_dict().items()} for name, model in distiller.teachers.items()}
    optimizer = OptimWrapper(torch.optim.AdamW(distiller.parameters(), lr=3e-3))
    batch = _batch()
    losses = [distiller.train().train_step(batch, optimizer) for _ in range(_STEPS)]

    assert all(entries['loss'].isfinite() for entries in losses)
    assert 0 < losses[-1]['loss_distill'] < 0.9 * losses[0]['loss_distill']
    for name, model in distiller.teachers.items():
        assert all(torch.equal(value, weights[name][key]) for key, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())

    save_checkpoint(dict(state_dict=distiller.state_dict()), tmp_path / 'best.pth')
    alone = MODELS.build(_config(student)).eval()
    load_weights(alone, tmp_path / 'best.pth')
    inputs = torch.randn(1, 6, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(alone(inputs, mode='tensor'), distiller.eval()(inputs, mode='tensor'))
