"""Routing of validation images while a bundle of a cascade is calibrated."""

from types import SimpleNamespace

import torch

from mtkd_cd.core.car import CARPartition
from mtkd_cd.inference import creation
from mtkd_cd.inference.card import Card
from mtkd_cd.inference.predictor import Model, TorchPredictor
from mtkd_cd.models.mtkd.routing import car_routing


class Detector:
    """Predicts its own name, and the first row of 20 as change."""

    def __init__(self, name):
        self.name = name

    def predict(self, inputs, samples):
        logits = torch.zeros(len(inputs), 2, 20, 20)
        logits[:, 1, 0] = 1
        return [
            SimpleNamespace(name=self.name, seg_logits=SimpleNamespace(data=one)) for one in logits
        ]


class Predictor(TorchPredictor):
    def __init__(self, name):
        self.detector = Detector(name)
        self.convert = None


def test_car_of_exactly_a_threshold_lies_in_the_range_below():
    partition = CARPartition((0.05, 0.2))
    load = {name: lambda name=name: Predictor(name) for name in ('origin', *partition.names)}
    card = Card('toy', mean=(0.0,) * 6, std=(1.0,) * 6, training_size=20)
    model = Model(card, load, car_routing(partition), partition)
    data = dict(inputs=torch.zeros(2, 6, 20, 20), data_samples=[None, None])
    assert [one.name for one in creation._predict(model, data)] == ['small', 'small']
