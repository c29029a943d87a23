"""When forward passes become graphs, and when not. What graphs compute: tests/gpu."""

import copy
import pickle

import pytest
import torch

from mtkd_cd.models import graphs
from mtkd_cd.models.graphs import Graphs
from mtkd_cd.models.prepare import prepare


@pytest.fixture
def captured(monkeypatch):
    """The shapes that were captured; each graph answers with its number."""
    shapes = []

    def capture(call, inputs):
        if inputs.dtype == torch.int32:
            raise RuntimeError('operation not permitted\nwhen a stream is capturing')
        shapes.append(tuple(inputs.shape))
        number = len(shapes)
        return lambda inputs: number

    monkeypatch.setattr(graphs, 'capture', capture)
    return shapes


def _double(inputs):
    return 2 * inputs


def test_a_shape_gets_a_graph_once_it_came_three_times(captured):
    replayed = Graphs(_double)
    once, often = torch.ones(1), torch.ones(2, 2)
    assert [torch.is_tensor(replayed(often)) for _ in range(3)] == [True] * 3
    assert replayed(once).item() == 2
    assert [replayed(often) for _ in range(2)] == [1, 1]
    assert captured == [(2, 2)]


def test_memory_order_type_and_autocast_have_graphs_of_their_own(captured):
    replayed = Graphs(_double)
    images = torch.ones(2, 3, 4, 4)
    kinds = (images, images.contiguous(memory_format=torch.channels_last), images.double())
    for inputs in kinds:
        for _ in range(4):
            replayed(inputs)
    with torch.autocast('cpu', torch.bfloat16):
        for _ in range(4):
            replayed(images)
    assert [replayed(inputs) for inputs in kinds] == [1, 2, 3]
    with torch.autocast('cpu', torch.bfloat16):
        assert replayed(images) == 4


def test_what_cannot_be_captured_stays_as_it_is(captured, monkeypatch):
    said = []
    monkeypatch.setattr(graphs, 'print_log', lambda text, logger: said.append(text))
    replayed = Graphs(_double)
    numbers = torch.tensor([3], dtype=torch.int32)
    assert [replayed(numbers).item() for _ in range(8)] == [6] * 8
    assert [text.splitlines() for text in said] == [[said[0]]]
    assert 'operation not permitted' in said[0]


def test_there_are_not_more_graphs_than_are_allowed(captured, monkeypatch):
    monkeypatch.setattr(graphs, '_MOST', 2)
    replayed = Graphs(_double)
    for size in (1, 2, 3):
        answers = [replayed(torch.ones(size)) for _ in range(6)]
    assert captured == [(1,), (2,)]
    assert all(torch.is_tensor(answer) for answer in answers)


@pytest.mark.parametrize('again', [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_begins_without_graphs(captured, again):
    replayed = Graphs(_double)
    for _ in range(4):
        replayed(torch.ones(2))
    assert torch.is_tensor(again(replayed)(torch.ones(2)))


def test_only_a_gpu_gets_graphs(build_model):
    detector = build_model('fc_ef').eval()
    images = torch.randn(1, 6, 32, 32)
    prepared = prepare(detector, graphs=True)
    assert type(prepared.forward) is type(prepare(detector).forward)
    assert torch.equal(prepared(images, mode='tensor'), prepare(detector)(images, mode='tensor'))
