"""Normalisation and activation in one: the numbers of two layers, with one map less."""

import copy

import pytest
import torch
from torch import nn

from mtkd_cd.models.layers import LeanSequential

_TOLERANCE = dict(rtol=0, atol=1e-5)


def bn_silu():
    return [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 2, 1)]


def prelu_in():
    return [nn.Conv2d(3, 8, 3), nn.PReLU(), nn.InstanceNorm2d(8), nn.Conv2d(8, 2, 1)]


def prelu():
    return [nn.Conv2d(3, 8, 3), nn.PReLU(), nn.Conv2d(8, 2, 1)]


def both(make):
    """Two equal sequences, the usual and the lean one, with weights that are not those of the
    start."""
    torch.manual_seed(0)
    usual = nn.Sequential(*make()).train()
    for parameter in usual.parameters():
        nn.init.normal_(parameter)
    lean = LeanSequential(*copy.deepcopy(list(usual))).train()
    return usual, lean


def pairs(seed=1):
    return torch.randn(3, 3, 9, 11, generator=torch.Generator().manual_seed(seed))


def step(network, inputs, mixed=False):
    """Output and gradients of the input and of all parameters."""
    network.zero_grad()
    inputs = inputs.clone().requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=mixed):
        output = network(inputs)
    output.float().square().sum().backward()
    return [output.detach(), inputs.grad, *(p.grad for p in network.parameters())]


def kept(network, inputs):
    """Bytes that are kept for the gradient, of maps alone."""
    kept = {}

    def note(tensor):
        if tensor.untyped_storage().nbytes() > 1000 and not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = network(inputs)
    del output
    return sum(kept.values())


@pytest.mark.parametrize('make', [bn_silu, prelu_in, prelu])
@pytest.mark.parametrize('order', [torch.contiguous_format, torch.channels_last])
def test_outputs_gradients_and_statistics_are_those_of_two_layers(make, order):
    usual, lean = both(make)
    assert list(usual.state_dict()) == list(lean.state_dict())
    for seed in (1, 2):
        inputs = pairs(seed).to(memory_format=order)
        for ours, theirs in zip(step(lean, inputs), step(usual, inputs), strict=True):
            scale = theirs.abs().max().clamp(min=1)
            torch.testing.assert_close(ours / scale, theirs / scale, **_TOLERANCE)
    for name, tensor in usual.state_dict().items():
        torch.testing.assert_close(lean.state_dict()[name], tensor, msg=name)
    assert torch.equal(lean.eval()(pairs()), usual.eval()(pairs()))


@pytest.mark.parametrize('make', [bn_silu, prelu_in, prelu])
def test_gradients_are_those_of_finite_differences(make):
    _, lean = both(make)
    lean.double()
    inputs = pairs()[:2, :, :5, :4].double().requires_grad_()
    assert torch.autograd.gradcheck(lean, inputs)
    weights = list(lean.parameters())[2:-2]  # of norm or activation

    def of_weights(*weights):
        names = [name for name, _ in lean.named_parameters()][2:-2]
        return torch.func.functional_call(lean, dict(zip(names, weights)), inputs.detach())

    assert torch.autograd.gradcheck(of_weights, [w.detach().requires_grad_() for w in weights])


@pytest.mark.parametrize('make', [bn_silu, prelu_in])
def test_one_map_less_is_kept(make):
    usual, lean = both(make)
    inputs = pairs()
    one_map = 4 * 3 * 8 * 7 * 9  # float32, (3, 8, 7, 9)
    assert kept(usual, inputs) - kept(lean, inputs) == one_map


@pytest.mark.parametrize('make', [bn_silu, prelu_in, prelu])
def test_mixed_precision(make):
    usual, lean = both(make)
    ours, theirs = (step(network, pairs(), mixed=True) for network in (lean, usual))
    assert ours[0].dtype == theirs[0].dtype == torch.bfloat16
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        scale = other.float().abs().max()
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=0.03)


def test_frozen_watched_and_other_layers_are_called_as_usual():
    usual, lean = both(bn_silu)
    for network in (usual, lean):
        network[1].eval()
    assert torch.equal(lean(pairs()), usual(pairs()))
    assert lean[1].num_batches_tracked == 0
    seen = []
    _, lean = both(bn_silu)
    lean[1].register_forward_hook(lambda *_: seen.append('norm'))
    lean(pairs())
    assert seen == ['norm']
    usual, lean = both(lambda: [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=None), nn.SiLU()])
    lean(pairs())
    usual(pairs())
    assert torch.equal(lean[1].running_mean, usual[1].running_mean)


def test_weights_that_are_not_trained_get_no_gradient():
    _, lean = both(bn_silu)
    lean[1].requires_grad_(False)
    inputs = pairs().requires_grad_()
    lean(inputs).sum().backward()
    assert inputs.grad is not None
    assert lean[1].weight.grad is None
