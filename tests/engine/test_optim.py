"""Precision of a training step."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mtkd_cd.core.car import CARPartition
from mtkd_cd.engine import BFloat16OptimWrapper, ChannelsLastHook
from mtkd_cd.registry import MODELS, OPTIM_WRAPPERS

FC_EF = dict(
    type='DIEncoderDecoder',
    data_preprocessor=dict(type='DualInputSegDataPreProcessor', mean=[0.0] * 6, std=[1.0] * 6),
    backbone=dict(type='FC_EF', in_channels=6, base_channel=4),
    decode_head=dict(
        type='mmseg.FCNHead',
        in_channels=4,
        channels=4,
        num_convs=0,
        concat_input=False,
        num_classes=2,
    ),
)


@pytest.fixture
def distiller():
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        model = MODELS.build(
            dict(
                type='MultiTeacherDistiller',
                student=FC_EF,
                distill_loss=dict(type='ChangeMapMSELoss', loss_weight=3.0),
            )
        )
        assert len(model.teachers) == 3  # built when first asked for
    return model.train()


def samples(cars):
    label = PixelData(data=torch.zeros(1, 32, 32, dtype=torch.int64))
    return [SegDataSample(gt_sem_seg=label, metainfo=dict(car=car)) for car in cars]


def test_forward_is_bfloat16_and_everything_kept_is_float32():
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 3)
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            type='mtkd_cd.BFloat16OptimWrapper',
            optimizer=torch.optim.AdamW(model.parameters(), lr=0.1),
        )
    )
    assert isinstance(wrapper, BFloat16OptimWrapper)
    image, weight = torch.rand(1, 3, 5, 5), model.weight.detach().clone()
    with wrapper.optim_context(model):
        output = model(image)
    assert output.dtype == torch.bfloat16
    wrapper.backward(output.float().sum())
    # Every output cell has weight 1, so that the gradient is the sum of each window; its sign is
    # AdamW's first step.
    expected = (
        nn.functional.conv2d(image.transpose(0, 1), torch.ones(1, 1, 3, 3))
        .transpose(0, 1)
        .expand_as(weight)
    )
    assert model.weight.grad.dtype == model.weight.dtype == torch.float32
    torch.testing.assert_close(model.weight.grad, expected, rtol=0.02, atol=0.02)
    wrapper.step()
    torch.testing.assert_close(
        model.weight.detach(), weight * (1 - 0.1 * 0.01) - 0.1 * expected.sign(), rtol=0, atol=1e-5
    )
    assert {
        value.dtype for state in wrapper.optimizer.state.values() for value in state.values()
    } == {torch.float32}


def test_teachers_share_the_precision_and_the_distillation_loss_is_float32(distiller):
    wrapper = BFloat16OptimWrapper(torch.optim.SGD(distiller.parameters(), lr=0.1))
    maps = {}
    detectors = dict(student=distiller.student, **distiller.teachers)
    for name, detector in detectors.items():
        detector.decode_head.conv_seg.register_forward_hook(
            lambda module, inputs, output, name=name: maps.update({name: output.detach()})
        )
    with wrapper.optim_context(distiller):
        losses = distiller.loss(torch.rand(3, 6, 32, 32), samples((0.01, 0.1, 0.9)))
    assert set(maps) == {'student', *CARPartition().names}
    assert {change_map.dtype for change_map in maps.values()} == {torch.bfloat16}
    expected = sum(
        (maps['student'][i].double() - maps[name][0].double()).square().mean()
        for i, name in enumerate(CARPartition().names)
    )
    assert losses['loss_distill'].dtype == torch.float32
    assert losses['loss_distill'].item() == pytest.approx(3.0 * expected.item() / 3, rel=1e-5)
    wrapper.update_params(losses['loss_distill'])
    assert all(
        parameter.grad is None
        for teacher in distiller.teachers.values()
        for parameter in teacher.parameters()
    )


def test_channels_last_changes_the_order_in_memory_and_nothing_else(distiller):
    images = torch.rand(2, 6, 32, 32)
    distiller.eval()
    before, state = (
        distiller(images),
        {name: value.clone() for name, value in distiller.state_dict().items()},
    )
    ChannelsLastHook().before_train(SimpleNamespace(model=distiller))
    weights = [
        value
        for detector in (distiller.student, *distiller.teachers.values())
        for value in detector.parameters()
        if value.dim() == 4
    ]
    assert len(weights) > 4 * 10
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in weights)
    assert all(torch.equal(value, distiller.state_dict()[name]) for name, value in state.items())
    torch.testing.assert_close(distiller(images), before, rtol=1e-5, atol=1e-5)
