"""The module that is exported computes what the predictor does."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict

from mtkd_cd.export.network import PairNetwork, in_band_order
from mtkd_cd.export.parity import compare_predictors, made_up_pairs, normalised
from mtkd_cd.inference.predictor import TorchPredictor
from tests.export.conftest import SIZE


@pytest.mark.parametrize('bands', [('red', 'green', 'blue'), ('blue', 'green', 'red')])
@pytest.mark.parametrize('kind', ['normalised', 'raw'])
def test_the_graph_takes_red_green_blue_whatever_the_model_takes(tiny_detector, card, bands, kind):
    card = dataclasses.replace(card, bands=bands)
    predictor = TorchPredictor(tiny_detector, temperature=2.0)
    network = PairNetwork(predictor, card, kind, 2).eval()
    images = made_up_pairs(card, SIZE, 2).astype(np.float32)  # red, green, blue of A, then of B
    given = torch.from_numpy(images)
    if kind == 'normalised':
        mean, std = (
            torch.tensor(in_band_order(card, numbers)).view(1, -1, 1, 1)
            for numbers in (card.mean, card.std)
        )
        given = (given - mean) / std
    with torch.no_grad():
        maps = network(given)
    # Independently: reorder the images, normalise by the model's numbers, halve the margin.
    order = [0, 1, 2, 3, 4, 5] if bands[0] == 'red' else [2, 1, 0, 5, 4, 3]
    own = (images[:, order] - np.reshape(card.mean, (1, 6, 1, 1))) / np.reshape(
        card.std, (1, 6, 1, 1)
    )
    with torch.no_grad():
        logits = tiny_detector.encode_decode(torch.tensor(own, dtype=torch.float32), [{}]).numpy()
    wanted = 1 / (1 + np.exp((logits[:, 0] - logits[:, 1]) / 2))
    np.testing.assert_allclose(maps[:, 1].numpy(), wanted, atol=1e-5)
    np.testing.assert_allclose(maps.sum(1).numpy(), 1, atol=1e-6)
    assert wanted.min() < 0.4
    assert wanted.max() > 0.6


@pytest.mark.parametrize('mode', ['whole', 'slide'])
def test_temperature_reaches_logits_whose_probability_is_one(
    tiny_detector, card, monkeypatch, mode
):
    """Of a head of one channel, in torch as in the graph: float32 knows no probability between that
    of a logit of 17 and 1."""

    class OneChannel(type(tiny_detector)):
        def encode_decode(self, inputs, metas):
            return 10 * inputs[:, 3:4]

    detector = copy.copy(tiny_detector)
    detector.__class__ = OneChannel
    detector.out_channels = 1
    detector.test_cfg = ConfigDict(mode=mode, crop_size=(SIZE, SIZE), stride=(SIZE, SIZE))
    monkeypatch.setattr(tiny_detector.decode_head, 'threshold', 0.5)
    pairs = torch.randn(2, 6, SIZE, SIZE)
    logits = 10 * pairs[:, 3].double()
    assert logits.max() > 25
    predictor = TorchPredictor(detector, temperature=8.0)
    wanted = (logits / 8).sigmoid()
    torch.testing.assert_close(predictor.probability(pairs).double(), wanted, atol=1e-6, rtol=0)
    resized = predictor.probability_at(pairs, (SIZE, SIZE), [(SIZE, SIZE)] * 2)
    torch.testing.assert_close(torch.stack(resized).double(), wanted, atol=1e-6, rtol=0)
    with torch.no_grad():
        graph = PairNetwork(predictor, card, 'normalised', 1).eval()(pairs)[:, 0]
    torch.testing.assert_close(graph.double(), wanted, atol=1e-6, rtol=0)


def test_a_window_is_predicted_whole_where_a_test_slides(tiny_detector, card, monkeypatch):
    """A file for tiles larger than the windows of the model's tests equals what torch predicts."""
    slides = dict(mode='slide', crop_size=(SIZE, SIZE), stride=(SIZE, SIZE))
    monkeypatch.setattr(tiny_detector, 'test_cfg', ConfigDict(slides))
    predictor = TorchPredictor(tiny_detector)
    pairs = normalised(made_up_pairs(card, 2 * SIZE, 2), card)
    found = predictor.probability(pairs)
    with torch.no_grad():
        network = PairNetwork(predictor, card)(pairs)[:, 0]
        logits = tiny_detector.encode_decode(pairs, [{}])
        corner = tiny_detector.encode_decode(pairs[:, :, :SIZE, :SIZE], [{}])
    wanted = logits.softmax(1)[:, 1].numpy()
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)
    np.testing.assert_allclose(network.numpy(), wanted, atol=1e-5)
    # A test cuts the image into four, each of which sees nothing of the others.
    size = 2 * SIZE, 2 * SIZE
    tested = torch.stack(predictor.probability_at(pairs, size, [size] * 2))[:, :SIZE, :SIZE]
    np.testing.assert_allclose(tested.numpy(), corner.softmax(1)[:, 1].numpy(), atol=1e-5)
    assert abs(tested.numpy() - wanted[:, :SIZE, :SIZE]).max() > 1e-3


def test_made_up_pairs_are_unchanged_in_a_part_only(card):
    a, b = np.split(made_up_pairs(card, 64, 3).astype(int), 2, axis=1)
    assert abs(a - b)[:, :, :32].max() <= 24
    assert abs(a - b)[:, :, 32:].mean() > 50


class _Shifted:
    def __init__(self, shift: float) -> None:
        self.shift = shift

    def probability(self, pairs):
        return pairs[:, 0].sigmoid() + self.shift


def test_parity_counts_differences_and_flips(card):
    images = made_up_pairs(card, SIZE, 3)
    plain = normalised(images, card)[:, 0].sigmoid()
    parity = compare_predictors(_Shifted(0), _Shifted(0.01), images, (card, card), card.threshold)
    assert parity.max_difference == pytest.approx(0.01, abs=1e-6)
    flipped = (plain <= 0.4) & (plain + 0.01 > 0.4)
    assert parity.flips == int(flipped.sum() + flipped[0].sum())  # of the batches of 3 and of 1
    assert parity.flips
    assert parity.pixels == 4 * SIZE * SIZE
    with pytest.raises(Exception, match=r'differs from torch by 1\.0e-02'):
        parity.check('toy')


def test_nan_is_no_parity(card):
    images = made_up_pairs(card, SIZE, 3)
    parity = compare_predictors(_Shifted(0), _Shifted(float('nan')), images, (card, card), 0.5)
    with pytest.raises(Exception, match='differs from torch'):
        parity.check('toy')
