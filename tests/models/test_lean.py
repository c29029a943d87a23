"""Two layers in one: their numbers, with one map less."""

import copy

import pytest
import torch
from torch import nn

from mtkd_cd.models.backbones import FC_EF
from mtkd_cd.models.backbones.tinycd import MBConv, UpMask
from mtkd_cd.models.layers import LeanSequential, gated_conv, norm_relu_conv

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


def assert_equal(ours, theirs):
    """Within rounding of the largest value of each tensor."""
    for one, other in zip(ours, theirs, strict=True):
        scale = other.abs().max().clamp(min=1)
        torch.testing.assert_close(one / scale, other / scale, **_TOLERANCE)


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
        assert_equal(step(lean, inputs), step(usual, inputs))
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


class Up(nn.Module):
    """TinyCD's step upwards, with a mask that it computes itself."""

    def __init__(self):
        super().__init__()
        self.mask = nn.Conv2d(4, 1, 1)
        self.up = UpMask(4, 6)

    def forward(self, x):
        return self.up(x, self.mask(nn.functional.interpolate(x, scale_factor=2)))


def gated(make):
    """A part of TinyCD whose convolution takes a product, drawn and lean: what watches a part sees
    each layer."""
    torch.manual_seed(0)
    drawn = make().train()
    for parameter in drawn.parameters():
        nn.init.normal_(parameter)
    lean = copy.deepcopy(drawn)
    part = drawn.up if isinstance(drawn, Up) else drawn.block
    part.register_forward_hook(lambda *_: None)
    return drawn, lean


def block():
    return MBConv(4, 4, 6, 3, 1, 0.0)


def maps(seed=1):
    return torch.randn(3, 4, 9, 11, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('make', [block, Up])
@pytest.mark.parametrize('order', [torch.contiguous_format, torch.channels_last])
def test_gated_convolution_has_the_numbers_of_its_layers(make, order):
    drawn, lean = gated(make)
    for seed in (1, 2):
        inputs = maps(seed).to(memory_format=order)
        assert_equal(step(lean, inputs), step(drawn, inputs))
    for name, tensor in drawn.state_dict().items():
        torch.testing.assert_close(lean.state_dict()[name], tensor, msg=name)


@pytest.mark.parametrize(('make', 'elements'), [(block, 24 * 9 * 11), (Up, 4 * 18 * 22)])
def test_gated_convolution_keeps_one_map_less(make, elements):
    inputs = maps().requires_grad_()
    drawn, lean = gated(make)
    assert kept(drawn, inputs) - kept(lean, inputs) == 4 * 3 * elements  # float32, three images


@pytest.mark.parametrize('make', [block, Up])
def test_gated_convolution_in_mixed_precision(make):
    drawn, lean = gated(make)
    ours, theirs = (step(network, maps(), mixed=True) for network in (lean, drawn))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        scale = other.float().abs().max()
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=0.03)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('gate', [(2, 4, 1, 1), (2, 1, 5, 6)])
def test_gated_convolution_has_the_gradients_of_finite_differences(gate, bias):
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=bias).double()
    tensors = [torch.randn(2, 4, 5, 6).double(), torch.randn(gate).double(), *conv.parameters()]

    def call(x, gate, *weights):
        del conv.weight
        conv.weight = weights[0]
        if bias:
            del conv.bias
            conv.bias = weights[1]
        return gated_conv(x, gate, conv)

    for wanted in (*range(len(tensors)), None):  # each alone, and all
        given = [
            one.detach().requires_grad_(wanted in (at, None)) for at, one in enumerate(tensors)
        ]
        assert torch.autograd.gradcheck(call, given)


class Early(nn.Module):
    """FC-EF on an image that is both dates, with random channels dropped."""

    def __init__(self, dropout=0.2):
        super().__init__()
        self.net = FC_EF(6, base_channel=4, dropout=dropout)

    def forward(self, x):
        return self.net(x, x.flip(0))[0]


def early(dropout=0.2):
    """The network as it is drawn, since something watches it, and as it trains."""
    torch.manual_seed(0)
    drawn = Early(dropout).train()
    for parameter in drawn.parameters():
        nn.init.normal_(parameter, std=0.5)
    lean = copy.deepcopy(drawn)
    drawn.net.register_forward_hook(lambda *_: None)
    return drawn, lean


def images():
    return torch.randn(3, 3, 17, 24, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize('dropout', [0.0, 0.2, 0.9])
@pytest.mark.parametrize('order', [torch.contiguous_format, torch.channels_last])
def test_norm_relu_conv_has_the_numbers_of_its_layers(dropout, order):
    drawn, lean = early(dropout)
    for seed in (1, 2):
        inputs, found = images().to(memory_format=order), []
        for network in (lean, drawn):
            torch.manual_seed(seed)
            found.append([*step(network, inputs), torch.rand(1)])  # what is drawn next is the same
        assert_equal(*found)
    for name, tensor in drawn.state_dict().items():
        torch.testing.assert_close(lean.state_dict()[name], tensor, msg=name)
    assert torch.equal(lean.eval()(images()), drawn.eval()(images()))


def test_norm_relu_conv_keeps_one_map_less_for_each_layer_between_two():
    drawn, lean = early()
    # Encoder: one in the first stages of two layers, two in the last ones of three. Decoder: all
    # but the bare last convolution. Sides 17 x 24 are halved, and from below doubled.
    encoder = 4 * 17 * 24 + 8 * 8 * 12 + 2 * 16 * 4 * 6 + 2 * 32 * 2 * 3
    decoder = (2 * 32 + 16) * 2 * 3 + (2 * 16 + 8) * 4 * 6 + (8 + 4) * 8 * 12 + 4 * 17 * 24
    assert kept(drawn, images()) - kept(lean, images()) == 4 * 3 * (encoder + decoder)


def test_norm_relu_conv_in_mixed_precision():
    ours, theirs = [], []
    for network, found in zip(early(), (theirs, ours)):
        torch.manual_seed(1)
        found += step(network, images(), mixed=True)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        scale = other.float().abs().max().clamp(min=1e-3)
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=0.1)


@pytest.mark.parametrize(
    'conv',
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, bias=False),
    ],
)
@pytest.mark.parametrize('trained', [slice(None), slice(0, 1), slice(1, 3), slice(3, None)])
def test_norm_relu_conv_has_the_gradients_of_finite_differences(conv, trained):
    part, norm, dropout = nn.Module().train(), nn.BatchNorm2d(4).double(), nn.Dropout2d(0.3)
    conv = copy.deepcopy(conv).double()
    layers = [norm, conv]
    names = [(layer, name) for layer in layers for name in dict(layer.named_parameters())]
    given = [torch.randn(3, 4, 5, 6).double(), *(getattr(*place).detach() for place in names)]
    given = [torch.randn_like(one) for one in given]
    for one in given[trained]:
        one.requires_grad_()

    def call(x, *weights):
        torch.manual_seed(5)
        for (layer, name), weight in zip(names, weights):
            delattr(layer, name)
            setattr(layer, name, weight)
        return norm_relu_conv(part, x, norm, dropout, conv)

    assert torch.autograd.gradcheck(call, given)


class _Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_convolutions_of_another_class_are_called():
    x = torch.randn(2, 4, 5, 6)
    usual, other = nn.Conv2d(4, 6, 3), _Doubled(4, 6, 3)
    other.load_state_dict(usual.state_dict())
    part, norm, dropout = nn.Module().train(), nn.BatchNorm2d(4), nn.Dropout2d(0.0)
    once, twice = (norm_relu_conv(part, x, norm, dropout, conv) for conv in (usual, other))
    torch.testing.assert_close(twice, 2 * once)
    block = MBConv(4, 4, 6, 3, 1, 0.0).train()
    block.block[3][1] = nn.Identity()
    once = block._block(x)
    project = block.block[3][0]
    block.block[3][0] = _Doubled(24, 4, 1, bias=False)
    block.block[3][0].load_state_dict(project.state_dict())
    torch.testing.assert_close(block._block(x), 2 * once)
