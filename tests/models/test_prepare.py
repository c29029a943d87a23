"""A prepared detector gives the detector's numbers, and leaves the detector as it is."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from mmcv.cnn.bricks.conv2d_adaptive_padding import Conv2dAdaptivePadding
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtkd_cd.core.errors import UserError
from mtkd_cd.inference.predictor import predict_samples
from mtkd_cd.models.layers import AnyOrderInstanceNorm
from mtkd_cd.models.prepare import Prepared, fold_batch_norms, prepare

_NAMES = sorted(
    path.stem for path in (Path(__file__).parents[2] / 'configs' / '_base_' / 'models').glob('*.py')
)
# Batch norms that stay: those that read something else than a convolution, or not alone, and those
# of layers that prediction does not run.
_NOT_FOLDED = dict(cgnet_vgg16=3, hanet=4, ifn_vgg16=21, lightcdnet_s=7, snunet_c16=15)
_LARGE = ('cgnet_vgg16', 'hanet', 'ifn_vgg16')
_FAST = ('bit_r18', 'changer_mitb0', 'fc_siam_diff', 'lightcdnet_s', 'stanet_r18')


def _maps(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    with torch.no_grad():
        maps = model(inputs, mode='tensor')
    return [maps] if isinstance(maps, Tensor) else list(maps)


def _randomise_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)


def _difference(maps: list[Tensor], others: list[Tensor]) -> float:
    """The largest, in units of the map's largest value."""
    pairs = list(zip(maps, others, strict=True))
    return max(float((one - other).abs().max() / one.abs().max()) for one, other in pairs)


@pytest.mark.parametrize(
    'name',
    [pytest.param(n, marks=pytest.mark.slow if n in _LARGE else ()) for n in _NAMES],
)
def test_prepared_detector_gives_the_same_numbers(name, build_model):
    model = build_model(name, shallow=True).eval()
    inputs = torch.randn(1, 6, 64, 64)
    single, prepared = _maps(model, inputs), _maps(prepare(model), inputs)

    # In float64 no rounding hides a wrong fold.
    model, inputs = model.double(), inputs.double()
    exact = _maps(model, inputs)
    # TinyCD's instance norms and Changer's exchange make more of rounding than the others.
    rounding = _difference(exact, single)
    assert _difference(exact, prepared) <= max(1e-5, 3 * rounding)
    _randomise_norms(model)
    prepared_model = prepare(model)
    norms = sum(isinstance(module, _BatchNorm) for module in prepared_model.modules())
    assert norms == _NOT_FOLDED.get(name, 0)
    assert _difference(_maps(model, inputs), _maps(prepared_model, inputs)) <= 1e-10


class TestPrepare:
    def test_leaves_detector_as_it_is(self, build_model):
        model = build_model('bit_r18').train()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        prepare(model, precision='bfloat16')
        assert model.training
        assert all(parameter.requires_grad for parameter in model.parameters())
        after = model.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[key], before[key]) for key in before)

    def test_shares_the_weights_that_it_need_not_change(self, build_model):
        model = build_model('changer_mitb0')
        prepared = prepare(model)
        name = 'backbone.layers.0.1.0.attn.attn.in_proj_weight'
        assert prepared.get_parameter(name) is model.get_parameter(name)

    @pytest.mark.parametrize('order', [torch.contiguous_format, torch.channels_last])
    def test_instance_norms_keep_the_order_of_maps(self, order):
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = nn.InstanceNorm2d(6, eps=0.1)
                self.with_weights = nn.InstanceNorm2d(6, affine=True)

            def forward(self, images, mode):
                return self.norm(images)

        network = Network().eval()
        prepared = prepare(network)
        inputs = (5 + torch.randn(2, 6, 16, 24)).to(memory_format=order)
        normed = prepared(inputs, mode='tensor')
        torch.testing.assert_close(normed, network(inputs, mode='tensor'), atol=1e-6, rtol=0)
        assert normed.is_contiguous(memory_format=order)
        assert type(prepared.with_weights) is nn.InstanceNorm2d

    @pytest.mark.parametrize('order', [torch.contiguous_format, torch.channels_last])
    def test_norms_and_gelus_of_bfloat16_maps_keep_numbers_and_order(self, order):
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = nn.InstanceNorm2d(6, eps=0.1)
                self.act = nn.GELU()
                self.conv = nn.Conv2d(6, 6, 1)  # whose device is the network's

            def forward(self, images, mode):
                normed = self.norm(images)
                return normed, self.act(normed), self.act(images.flatten(2))

        network = Network().eval()
        inputs = (5 + torch.randn(3, 6, 16, 24)).bfloat16().to(memory_format=order)
        maps = prepare(network, precision='bfloat16')(inputs, mode='tensor')
        for found, exact in zip(maps, network(inputs.double(), mode='tensor'), strict=True):
            torch.testing.assert_close(found.double(), exact, atol=0.02, rtol=0.02)
        assert all(one.is_contiguous(memory_format=order) for one in maps[:2])

    def test_networks_may_keep_what_they_make_for_the_size_of_their_first_images(self):
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(6, 2, 1)
                self.norm = nn.BatchNorm2d(2)
                self.ramp = None
                self.register_buffer('mask', None)

            def forward(self, images, mode):
                if self.ramp is None:
                    self.ramp = torch.linspace(0, 1, images.shape[-1])
                    self.mask = self.ramp > 0.5
                return (self.norm(self.conv(images)) + self.ramp) * self.mask

        network = Network().eval()
        prepared = prepare(network)
        assert not any(type(module) is nn.BatchNorm2d for module in prepared.modules())
        images = torch.randn(1, 6, 16, 24)
        torch.testing.assert_close(
            prepared(images, mode='tensor'), network(images, mode='tensor'), atol=1e-6, rtol=0
        )

    def test_instance_norms_of_large_bfloat16_maps_tell_pixels_that_differ(self):
        maps = torch.full((1, 8, 512, 512), 7.125, dtype=torch.bfloat16)
        maps[:, :, 0] = 7.5
        maps = maps.to(memory_format=torch.channels_last)
        exact = nn.InstanceNorm2d(8)(maps.double())  # from -0.04 to 23
        torch.testing.assert_close(AnyOrderInstanceNorm()(maps).double(), exact, atol=0.1, rtol=0)

    def test_instance_norm_of_one_bfloat16_pixel_is_zero(self):
        assert not AnyOrderInstanceNorm()(torch.ones(2, 3, 1, 1, dtype=torch.bfloat16)).any()

    def test_bfloat16_attention_does_not_cast_its_weights_in_each_call(self, build_model):
        prepared = prepare(build_model('changer_mitb0'), precision='bfloat16')
        projections = {
            parameter.dtype for name, parameter in prepared.named_parameters() if 'in_proj' in name
        }
        assert projections == {torch.bfloat16}

    def test_a_part_may_keep_its_order_of_weights(self, build_model):
        prepared = prepare(build_model('lightcdnet_s'))
        last = {
            name.split('.')[0]: module.weight.is_contiguous(memory_format=torch.channels_last)
            for name, module in prepared.named_modules()
            if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1) and module.groups == 1
        }
        assert last['backbone'] is False
        assert last['neck'] is True

    def test_predicts_as_the_detector(self, build_model, make_pairs):
        model = build_model('fc_ef').eval()
        inputs, _ = make_pairs(2, 32)
        predictions = [network.predict(inputs) for network in (model, prepare(model))]
        for one, other in zip(*predictions, strict=True):
            torch.testing.assert_close(
                one.seg_logits.data, other.seg_logits.data, atol=1e-5, rtol=1e-5
            )

    def test_a_cloned_result_takes_part_in_a_gradient(self, build_model):
        prepared = prepare(build_model('fc_ef'))
        (change_map,) = _maps(prepared, torch.randn(1, 6, 32, 32))
        assert change_map.is_inference()
        scale = torch.ones(1, requires_grad=True)
        (scale * change_map.clone()).sum().backward()
        assert float(scale.grad) == pytest.approx(float(change_map.sum()), rel=1e-4)

    def test_bfloat16_comes_close_and_returns_float32(self, build_model):
        model = build_model('changer_mitb0').eval()
        inputs = torch.randn(1, 6, 64, 64)
        (expected,), (found,) = (
            _maps(network, inputs) for network in (model, prepare(model, precision='bfloat16'))
        )
        assert found.dtype == torch.float32
        assert 1e-6 < _difference([expected], [found]) < 0.1
        assert torch.corrcoef(torch.stack((expected.flatten(), found.flatten())))[0, 1] > 0.99

    @pytest.mark.parametrize(
        'name',
        [pytest.param(name, marks=() if name in _FAST else pytest.mark.slow) for name in _NAMES],
    )
    def test_bfloat16_is_no_further_off_than_autocast(
        self, name, build_model, make_pairs, convolved
    ):
        """Autocast on the detector as it is rounds elsewhere, and as much."""
        model = build_model(name, shallow=True).eval()
        inputs, _ = make_pairs(1, 64)
        prepared = prepare(model, precision='bfloat16')
        exact = _maps(model, inputs)
        with torch.autocast('cpu', torch.bfloat16):
            rounded = [one.float() for one in _maps(model, inputs)]
        convolved.clear()
        found = _maps(prepared, inputs)
        assert convolved == {torch.bfloat16}
        rounding = _difference(exact, rounded)
        assert 1e-4 < _difference(exact, found) < 2 * rounding
        assert _difference(rounded, found) < 2 * rounding
        for whole in (False, True):
            for keep_logits in (False, True):
                (sample,) = predict_samples(prepared, inputs, whole=whole, keep_logits=keep_logits)
                assert sample.seg_logits.data.dtype == torch.float32

    def test_refuses_an_unknown_precision(self, build_model):
        with pytest.raises(UserError, match=r"'float16'.*'bfloat16'"):
            prepare(build_model('fc_ef'), precision='float16')


class TestPrepared:
    def test_other_weights_modules_and_buffers_are_seen(self, build_model):
        model = build_model('fc_ef').eval()
        prepared = Prepared(model)
        found = [prepared.detector]
        assert prepared.detector is found[0]
        with torch.no_grad():
            next(model.parameters()).mul_(2)
        found.append(prepared.detector)
        norm = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
        norm.running_var = norm.running_var.clone()
        found.append(prepared.detector)
        parent = next(m for m in model.modules() if norm in m.children())
        name = next(name for name, child in parent.named_children() if child is norm)
        setattr(parent, name, torch.nn.BatchNorm2d(norm.num_features).eval())
        found.append(prepared.detector)
        assert len({id(one) for one in found}) == 4
        assert prepared.detector is found[-1]

    def test_follows_other_weights_and_keeps_the_copy_otherwise(self, build_model):
        model, other = build_model('fc_ef').eval(), build_model('fc_ef').eval()
        inputs = torch.randn(1, 6, 32, 32)
        prepared = Prepared(model)
        first = prepared.detector
        assert prepared.detector is first
        model.load_state_dict(other.state_dict())
        (expected,), (found,) = _maps(other, inputs), _maps(prepared.detector, inputs)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    def test_a_deep_copy_prepares_the_copied_detector(self, build_model):
        model = build_model('fc_ef').eval()
        prepared = Prepared(model)
        prepared.detector  # noqa: B018  (makes the copy)
        copied, copied_model = copy.deepcopy((prepared, model))
        with torch.no_grad():
            copied_model.backbone.conv11.weight.zero_()
        weights = [one.detector.backbone.conv11.weight for one in (prepared, copied)]
        assert weights[0].any()
        assert not weights[1].any()


class _Net(nn.Module):
    """Called like a detector; ``run`` is its forward pass."""

    def __init__(self, conv: nn.Module, run) -> None:
        super().__init__()
        self.conv, self.norm, self.run = conv, nn.BatchNorm2d(4), run
        _randomise_norms(self)

    def forward(self, inputs: Tensor, data_samples=None, mode: str = 'tensor') -> Tensor:
        return self.run(self, inputs)


def _plain(net: _Net, x: Tensor) -> Tensor:
    return net.norm(net.conv(x))


def _with_shortcut(net: _Net, x: Tensor) -> Tensor:
    out = net.conv(x)
    return net.norm(out) + out


def _norm_of_two(net: _Net, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) + net.norm(x[:, :4])


def _weights_read_elsewhere(net: _Net, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) * net.conv.weight.sum()


def _double(weight: Tensor, module: nn.Module, args: tuple) -> None:
    module.weight.data.copy_(2 * weight)


def _hooked(conv: nn.Module) -> nn.Module:
    """As torch's old weight norm: each call makes the weights anew."""
    weight = conv.weight.detach().clone()
    conv.register_forward_pre_hook(partial(_double, weight))
    return conv


@pytest.mark.parametrize(
    ('conv', 'run', 'folded'),
    [
        (nn.Conv2d(6, 4, 3, padding=1), _plain, 1),
        (nn.Conv2d(6, 4, 3, padding=1, groups=2, bias=False), _plain, 1),
        (nn.ConvTranspose2d(6, 4, 3, padding=1), _plain, 1),
        (nn.ConvTranspose2d(6, 4, 3, padding=1, groups=2), _plain, 1),
        (nn.Conv2d(6, 4, 3, padding=1), _with_shortcut, 0),
        (nn.Conv2d(6, 4, 3, padding=1), _norm_of_two, 0),
        (nn.Conv2d(6, 4, 3, padding=1), _weights_read_elsewhere, 0),
        (Conv2dAdaptivePadding(6, 4, 3), _plain, 0),
        (_hooked(nn.Conv2d(6, 4, 3, padding=1)), _plain, 0),
    ],
    ids=[
        'plain',
        'grouped',
        'transposed',
        'transposed_grouped',
        'shortcut',
        'shared',
        'read_weight',
        'subclass',
        'hooked',
    ],
)
def test_folds_what_a_norm_alone_reads(conv, run, folded):
    net = _Net(conv, run).eval()
    inputs = torch.randn(2, 6, 8, 8)
    expected = net(inputs)
    assert fold_batch_norms(net) == folded
    torch.testing.assert_close(net(inputs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ('least', 'seen', 'folded'), [(64, [64], 1), (65, [64, 128], 1), (129, [64, 128], 0)]
)
def test_network_that_cannot_take_small_images_is_traced_on_larger_ones(least, seen, folded):
    class Deep(_Net):
        def forward(self, inputs: Tensor, data_samples=None, mode: str = 'tensor') -> Tensor:
            sides.append(inputs.shape[-1])
            assert inputs.shape[-1] >= least, 'too small'
            return super().forward(inputs, data_samples, mode)

    sides: list[int] = []
    net = Deep(nn.Conv2d(6, 4, 3, padding=1), _plain).eval()
    assert fold_batch_norms(net) == folded
    assert sides == seen
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in net.modules())


@pytest.mark.slow
def test_compiled_detectors_of_one_architecture_share_what_is_compiled(build_model, monkeypatch):
    graphs = []

    def uncompiled(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend=uncompiled))
    models = [build_model('fc_ef').eval() for _ in range(3)]
    for parameter in models[1].parameters():
        parameter.data.mul_(0.9)
    compiled = [prepare(model, compiled=True) for model in models]
    for pairs in (2, 3):
        inputs = torch.randn(pairs, 6, 32, 32)
        for model, teacher in zip(models, compiled, strict=True):
            assert _difference(_maps(model, inputs), _maps(teacher, inputs)) <= 1e-5
    assert len(graphs) == 2  # features and head
    torch._dynamo.reset()
