"""Precision of a training step."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
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
    wrapper = OptimWrapper(torch.optim.SGD(distiller.parameters(), lr=1.0))
    runner = SimpleNamespace(model=distiller, optim_wrapper=wrapper)
    ChannelsLastHook(on_cpu=False).before_train(runner)
    assert all(value.is_contiguous() for value in distiller.parameters())
    ChannelsLastHook().before_train(runner)
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


@pytest.mark.parametrize(
    ('capability', 'groups', 'expected'),
    [('AVX512', 1, True), ('AVX512', 4, False), ('AVX2', 1, False)],
)
def test_on_a_cpu_channels_last_is_for_avx512_and_dense_convolutions(
    monkeypatch, capability, groups, expected
):
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Conv2d(4, 4, 2, groups=groups))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    ChannelsLastHook(on_cpu=None).before_train(SimpleNamespace(model=model, optim_wrapper=wrapper))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last) is expected


@pytest.mark.parametrize('saved', [torch.contiguous_format, torch.channels_last])
def test_a_run_goes_on_in_another_memory_order(saved):
    """As one by torch's unfused optimiser that never stopped: saved on a GPU, which keeps weights
    in channels-last order, and resumed on a CPU, or the other way round."""
    torch.manual_seed(0)
    start = torch.randn(4, 3, 2, 2)
    gradients = torch.randn(3, 4, 3, 2, 2)
    expected = nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([expected], lr=0.1)
    for gradient in gradients:
        expected.grad = gradient.clone()
        optimizer.step()

    orders = (saved, {torch.channels_last: torch.contiguous_format}.get(saved, torch.channels_last))
    state = None
    weights = start
    for order, steps in zip(orders, (gradients[:2], gradients[2:]), strict=True):
        model = nn.Conv2d(3, 4, 2, bias=False)
        model.weight.data = weights.contiguous(memory_format=order)
        wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.1, fused=True))
        if state is not None:
            wrapper.load_state_dict(state)
        hook = ChannelsLastHook(on_cpu=order is torch.channels_last)
        hook.before_train(SimpleNamespace(model=model, optim_wrapper=wrapper))
        for gradient in steps:
            model.weight.grad = gradient.contiguous(memory_format=order)
            wrapper.optimizer.step()
        state, weights = copy.deepcopy(wrapper.state_dict()), model.weight.detach().clone()
    torch.testing.assert_close(weights, expected.detach())


def test_states_of_several_optimisers_follow_their_parameters():
    parts = nn.ModuleDict(dict(one=nn.Conv2d(3, 4, 2), other=nn.Conv2d(3, 4, 2)))
    wrapper = OptimWrapperDict(
        **{
            name: OptimWrapper(torch.optim.SGD(part.parameters(), lr=0.1, momentum=0.9))
            for name, part in parts.items()
        }
    )
    parts['one'](torch.randn(1, 3, 4, 4)).sum().backward()
    wrapper['one'].optimizer.step()
    ChannelsLastHook().before_train(SimpleNamespace(model=parts, optim_wrapper=wrapper))
    momentum = wrapper['one'].optimizer.state[parts['one'].weight]['momentum_buffer']
    assert momentum.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(momentum, parts['one'].weight.grad)
