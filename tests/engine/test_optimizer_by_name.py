"""Optimiser states meet their own parameters, in whatever order a file has them."""

import copy

import pytest
import torch
from torch import nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.hooks.optimizer_by_name import in_order_of


class Net(nn.Module):
    """Three layers whose order of registration is an argument."""

    def __init__(self, order: str) -> None:
        super().__init__()
        parts = dict(a=nn.Linear(3, 3), b=nn.Linear(3, 3), n=nn.BatchNorm1d(3))
        for name in order:
            self.add_module(name, parts[name])

    def forward(self, x):
        return self.n(self.b(self.a(x).relu()))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(5, 3, generator=generator)).square().mean().backward()
        optimizer.step()


def adam(net: nn.Module, grouped: bool) -> torch.optim.Optimizer:
    rates = dict(a=0.1, b=0.01, n=0.001)
    groups = [dict(params=[p], lr=rates[name[0]]) for name, p in net.named_parameters()]
    return torch.optim.Adam(groups if grouped else net.parameters(), lr=0.02)


def names(net: nn.Module) -> list[str]:
    return [name for name, _ in net.named_parameters()]


@pytest.mark.parametrize('grouped', [False, True], ids=['one group', 'a group each'])
def test_resumed_in_another_order_a_run_goes_on_as_before(grouped):
    torch.manual_seed(0)
    theirs = Net('ban')
    ours = Net('nab')
    their_optimizer = adam(theirs, grouped)
    train(theirs, their_optimizer, 3, seed=1)
    saved, state = copy.deepcopy(theirs.state_dict()), copy.deepcopy(their_optimizer.state_dict())
    train(theirs, their_optimizer, 3, seed=2)

    ours.load_state_dict(saved)
    optimizer = adam(ours, grouped)
    parameters = dict(ours.named_parameters())
    optimizer.load_state_dict(in_order_of(names(ours), state, list(saved), parameters))
    train(ours, optimizer, 3, seed=2)
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key


def test_state_in_our_order_stays_itself():
    net = Net('abn')
    optimizer = adam(net, False)
    train(net, optimizer, 1, seed=0)
    state = optimizer.state_dict()
    parameters = dict(net.named_parameters())
    assert in_order_of(names(net), state, list(net.state_dict()), parameters) is state


def test_optimiser_of_the_trainable_parameters_is_matched():
    net = Net('abn')
    net.a.requires_grad_(False)
    trainable = [name for name, p in net.named_parameters() if p.requires_grad]
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad])
    train(net, optimizer, 1, seed=0)
    state = optimizer.state_dict()
    parameters = dict(net.named_parameters())
    assert in_order_of(trainable, state, list(net.state_dict()), parameters) is state


def test_other_number_of_parameters_is_refused_with_the_way_out():
    net = Net('abn')
    state = torch.optim.Adam(net.a.parameters()).state_dict()
    with pytest.raises(UserError, match=r'of 2 parameters, the optimiser has 6.*load_from'):
        in_order_of(names(net), state, list(net.state_dict()), dict(net.named_parameters()))


def test_state_of_another_shape_is_refused():
    net = Net('abn')
    optimizer = adam(net, False)
    train(net, optimizer, 1, seed=0)
    state = copy.deepcopy(optimizer.state_dict())
    state['state'][0]['exp_avg'] = torch.zeros(7)
    with pytest.raises(UserError, match=r'exp_avg of a\.weight has the shape \(7,\)'):
        in_order_of(names(net), state, list(net.state_dict()), dict(net.named_parameters()))


def test_several_groups_of_several_in_another_order_are_refused():
    theirs, ours = Net('ban'), Net('abn')
    groups = [
        dict(params=theirs.b.parameters()),
        dict(params=[*theirs.a.parameters(), *theirs.n.parameters()]),
    ]
    state = torch.optim.Adam(groups).state_dict()
    with pytest.raises(UserError, match='2 groups of parameters in another order'):
        in_order_of(names(ours), state, list(theirs.state_dict()), dict(ours.named_parameters()))
