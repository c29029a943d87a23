"""Students taught by specialists of another architecture, in the pairs that users want."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mtkd_cd.core.checkpoint import load_weights, save_checkpoint
from mtkd_cd.registry import MODELS

_CARS = dict(small=0.03, medium=0.1, large=0.5)
_STEPS = 8


def _batch(size: int = 64) -> dict:
    """One pair of each range."""
    samples = []
    for car in _CARS.values():
        label = torch.zeros(1, size, size, dtype=torch.int64)
        label[:, : round(car * size)] = 1
        label[:, -4:] = 255
        sample = SegDataSample(
            metainfo=dict(car=car, img_shape=(size, size), ori_shape=(size, size))
        )
        samples.append(sample.set_data(dict(gt_sem_seg=PixelData(data=label))) or sample)
    return dict(
        inputs=[torch.randint(0, 256, (6, size, size), dtype=torch.uint8) for _ in samples],
        data_samples=samples,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ('teacher', 'student'),
    [
        ('changer_mitb1', 'tinycd'),
        ('ttp_vitsam_l', 'tinycd'),
        ('changer_s50', 'changer_r18'),
        ('changestar_upernet_r18', 'bit_r18'),
        ('changestar_farseg_r18', 'bit_r18'),
    ],
)
def test_student_comes_closer_to_teachers_of_another_architecture(
    teacher, student, model_config, tmp_path
):
    checkpoints = {name: str(tmp_path / f'{name}.pth') for name in ('student', *_CARS)}
    preprocessor = dict(type='DualInputSegDataPreProcessor', mean=[127.5] * 6, std=[60.0] * 6)
    student_config = model_config(student, data_preprocessor=preprocessor)
    teacher_config = model_config(teacher, shallow=True)
    for name, path in checkpoints.items():
        model = MODELS.build(student_config if name == 'student' else teacher_config)
        save_checkpoint(dict(state_dict=model.state_dict()), path)
    distiller = MODELS.build(
        dict(
            type='MultiTeacherDistiller',
            student=student_config,
            teachers=dict.fromkeys(_CARS, teacher_config),
            checkpoints=checkpoints,
            distill_loss=dict(type='ChangeMapMSELoss', loss_weight=10.0),
        )
    )
    distiller.init_weights()
    weights = {
        name: {key: value.clone() for key, value in model.state_dict().items()}
        for name, model in distiller.teachers.items()
    }
    optimizer = OptimWrapper(torch.optim.AdamW(distiller.parameters(), lr=3e-3))
    batch = _batch()
    losses = [distiller.train().train_step(batch, optimizer) for _ in range(_STEPS)]

    assert all(entries['loss'].isfinite() for entries in losses)
    assert 0 < losses[-1]['loss_distill'] < 0.9 * losses[0]['loss_distill']
    for name, model in distiller.teachers.items():
        assert all(
            torch.equal(value, weights[name][key]) for key, value in model.state_dict().items()
        )
        assert all(parameter.grad is None for parameter in model.parameters())

    save_checkpoint(dict(state_dict=distiller.state_dict()), tmp_path / 'best.pth')
    alone = MODELS.build(student_config).eval()
    load_weights(alone, tmp_path / 'best.pth')
    inputs = torch.randn(1, 6, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            alone(inputs, mode='tensor'), distiller.eval()(inputs, mode='tensor')
        )
