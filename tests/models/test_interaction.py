"""Interaction layers on non-square maps, against results written out by hand."""

import pytest
import torch

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.layers import Aggregation_distribution, ChannelExchange, SpatialExchange
from mtkd_cd.registry import MODELS


def _maps() -> tuple[torch.Tensor, torch.Tensor]:
    x1 = torch.arange(2 * 5 * 3 * 7.0).view(2, 5, 3, 7)
    return x1, -1 - x1


@pytest.mark.parametrize(
    ('p', 'swapped'),
    [
        (1 / 2, (0, 2, 4)),
        (1 / 3, (0, 3)),
        (0.3, (0, 3)),
        (0.7, (0, 1, 2, 3, 4)),
        (1, (0, 1, 2, 3, 4)),
    ],
)
def test_channel_exchange_swaps_every_nth_channel(p, swapped):
    x1, x2 = _maps()
    out1, out2 = ChannelExchange(p)(x1, x2)
    for channel in range(5):
        a, b = (x2, x1) if channel in swapped else (x1, x2)
        assert torch.equal(out1[:, channel], a[:, channel])
        assert torch.equal(out2[:, channel], b[:, channel])


@pytest.mark.parametrize(('p', 'swapped'), [(1 / 2, (0, 2, 4, 6)), (1 / 4, (0, 4))])
def test_spatial_exchange_swaps_columns_not_rows(p, swapped):
    x1, x2 = _maps()
    out1, out2 = SpatialExchange(p)(x1, x2)
    for column in range(7):
        a, b = (x2, x1) if column in swapped else (x1, x2)
        assert torch.equal(out1[..., column], a[..., column])
        assert torch.equal(out2[..., column], b[..., column])


def test_gradients_follow_the_exchange():
    x1, x2 = (x.requires_grad_() for x in _maps())
    ChannelExchange()(x1, x2)[0].sum().backward()
    assert torch.equal(x1.grad[0, :, 0, 0], torch.tensor([0.0, 1, 0, 1, 0]))
    assert torch.equal(x2.grad[0, :, 0, 0], torch.tensor([1.0, 0, 1, 0, 1]))


def test_aggregation_distribution_gates_either_date_by_the_mean_of_both():
    layer = Aggregation_distribution(16).eval()
    assert {key: tuple(value.shape) for key, value in layer.named_parameters()} == {
        'fc_reduce.weight': (8, 16, 1, 1),
        'bn.weight': (8,),
        'bn.bias': (8,),
        'fc_select.weight': (32, 8, 1, 1),
    }
    x1, x2 = torch.randn(2, 16, 3, 7), torch.randn(2, 16, 3, 7)
    hidden = (x1 + x2).mean((2, 3)) @ layer.fc_reduce.weight.flatten(1).T / (1 + 1e-5) ** 0.5
    gates = (hidden.relu() @ layer.fc_select.weight.flatten(1).T).sigmoid()[:, :, None, None]
    out1, out2 = layer(x1, x2)
    torch.testing.assert_close(out1, x1 * gates[:, :16])
    torch.testing.assert_close(out2, x2 * gates[:, 16:])


def test_two_identity_takes_anything_and_does_nothing():
    x1, x2 = _maps()
    out = MODELS.build(dict(type='TwoIdentity', p=0.5))(x1, x2)
    assert out[0] is x1
    assert out[1] is x2


@pytest.mark.parametrize('layer', [ChannelExchange, SpatialExchange])
@pytest.mark.parametrize('p', [0, -0.5, 1.5])
def test_share_outside_zero_and_one_is_refused(layer, p):
    with pytest.raises(UserError, match=rf'{layer.__name__}.*{p}'):
        layer(p)


def test_aggregation_distribution_has_two_paths():
    with pytest.raises(UserError, match='num_paths must be 2, for two dates, found 3'):
        MODELS.build(
            dict(type='Aggregation_distribution', channels=16, num_paths=3, attn_channels=8)
        )
