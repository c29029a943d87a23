"""Levels that are convolved before they are resized, against the order of the paper."""

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.runner.activation_checkpointing import wrap_forward
from mmseg.models.utils import resize

from mtkd_cd.models.layers import fuse_levels

_SIZES = ((12, 8), (6, 4), (3, 2))


def _fusion(**kwargs):
    torch.manual_seed(0)
    kwargs = dict(norm_cfg=dict(type='BN')) | kwargs
    return ConvModule(4 * len(_SIZES), 5, 1, **kwargs).double()


def _maps():
    torch.manual_seed(1)
    maps = [torch.randn(3, 4, *size, dtype=torch.float64) for size in _SIZES]
    return [level.requires_grad_() for level in maps]


def _joined(fusion, maps, **resizing):
    return fusion(torch.cat([resize(level, _SIZES[0], **resizing) for level in maps], dim=1))


@pytest.mark.parametrize('kwargs', [{}, dict(norm_cfg=None, bias=True), dict(act_cfg=None)])
@pytest.mark.parametrize(
    'resizing',
    [dict(mode='bilinear', align_corners=False), dict(mode='bilinear', align_corners=True),
     dict(mode='nearest', align_corners=None)],
)  # fmt: skip
def test_training_gives_the_same_numbers_and_gradients(kwargs, resizing):
    found = []
    for fuse in (
        lambda fusion, maps: fuse_levels(fusion, maps, _SIZES[0], **resizing),
        lambda fusion, maps: _joined(fusion, maps, **resizing),
    ):
        fusion, maps = _fusion(**kwargs).train(), _maps()
        fused = fuse(fusion, maps)
        fused.square().sum().backward()
        state = [value for value in fusion.state_dict().values() if value.is_floating_point()]
        gradients = [one.grad for one in (*maps, *fusion.parameters())]
        found.append([fused, *state, *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@pytest.fixture
def calls(monkeypatch):
    """How often a convolution itself was asked to fuse the maps."""
    asked = []
    convolve = torch.nn.Conv2d.forward
    monkeypatch.setattr(
        torch.nn.Conv2d, 'forward', lambda self, x: asked.append(1) or convolve(self, x)
    )

    def count(fusion, maps):
        asked.clear()
        fuse_levels(fusion, maps, _SIZES[0], mode='bilinear', align_corners=False)
        return len(asked)

    return count


def test_only_training_and_inference_mode_change_the_order(calls):
    fusion, maps = _fusion(), [level.detach() for level in _maps()]
    assert calls(fusion.train(), maps) == 0
    fusion.eval()
    with torch.no_grad():  # where FLOPs are counted
        assert calls(fusion, maps) == 1
    with torch.inference_mode():
        assert calls(fusion, maps) == 0


@pytest.mark.parametrize('part', ['fusion', 'conv'])
@pytest.mark.parametrize(
    'watch',
    [
        lambda module: module.register_forward_hook(lambda *_: None),
        lambda module: module.register_forward_pre_hook(lambda *_: None),
        lambda module: module.register_full_backward_hook(lambda *_: None),
        lambda module: module.register_full_backward_pre_hook(lambda *_: None),
        lambda module: setattr(module, 'forward', wrap_forward(module.forward)),
    ],
)
def test_a_watched_convolution_runs_as_it_is(calls, part, watch):
    fusion = _fusion().train()
    watch(fusion if part == 'fusion' else fusion.conv)
    assert calls(fusion, _maps()) == 1


def test_a_larger_convolution_runs_as_it_is(calls):
    assert calls(ConvModule(12, 5, 3, padding=1).double().train(), _maps()) == 1


def test_compiles_to_one_graph_in_training_and_prediction():
    fusion, maps = _fusion(), [level.detach() for level in _maps()]

    def fuse(maps):
        return fuse_levels(fusion, maps, _SIZES[0], mode='bilinear', align_corners=False)

    compiled = torch.compile(fuse, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(maps), fuse(maps))
    fusion.eval()
    with torch.inference_mode():
        torch.testing.assert_close(compiled(maps), fuse(maps))
    torch._dynamo.reset()
