"""A detector of a few weights, and graphs made by hand: what needs no exporter."""

import numpy as np
import pytest
import torch

from mtkd_cd.inference.card import Card
from mtkd_cd.inference.predictor import init_model

onnx = pytest.importorskip('onnx')

MEAN, STD = (120.0, 110.0, 100.0, 90.0, 80.0, 70.0), (50.0, 45.0, 40.0, 35.0, 30.0, 25.0)
SIZE = 32


@pytest.fixture(scope='module')
def tiny_cfg():
    """fc_ef with few channels, on images of 32 x 32."""
    from mtkd_cd.apis import get_config

    cfg = get_config('fc_ef')
    cfg.merge_from_dict(
        {
            'model.backbone.base_channel': 4,
            'model.decode_head.in_channels': 4,
            'model.decode_head.channels': 4,
            'image_size': SIZE,
        }
    )
    return cfg


@pytest.fixture(scope='module')
def tiny_detector(tiny_cfg):
    """Its batch norms have seen something, and its logits are far from 0 on both sides."""
    torch.manual_seed(0)
    detector = init_model(tiny_cfg, device='cpu')
    rng = np.random.default_rng(0)
    detector.train()
    with torch.no_grad():
        for _ in range(4):
            detector(torch.tensor(rng.normal(size=(4, 6, SIZE, SIZE)), dtype=torch.float32))
        detector.decode_head.conv_seg.weight.mul_(20)
        logits = detector.eval().encode_decode(torch.randn(2, 6, SIZE, SIZE), [{}])
        detector.decode_head.conv_seg.bias -= logits.mean((0, 2, 3))
    return detector


@pytest.fixture
def card():
    return Card('toy', MEAN, STD, training_size=SIZE, threshold=0.4, gsd_m=0.5)


def toy_graph(batch='batch', size=SIZE, channels=6, metadata=None, outputs=1, gain=1.0) -> bytes:
    """ONNX: sigmoid of ``gain`` times the mean of date B less that of date A."""
    helper, kinds = onnx.helper, onnx.TensorProto
    half = channels // 2
    signs = np.repeat([-gain / half, gain / half], half).astype(np.float32)
    signs = signs.reshape(1, channels, 1, 1)
    nodes = [
        helper.make_node('Conv', ['pair', 'weight'], ['margin']),
        helper.make_node('Sigmoid', ['margin'], ['probability']),
    ]
    if outputs == 2:
        nodes.append(helper.make_node('Identity', ['margin'], ['second']))
    shape = [batch, 1, size, size]
    graph = helper.make_graph(
        nodes,
        'toy',
        [helper.make_tensor_value_info('pair', kinds.FLOAT, [batch, channels, size, size])],
        [
            helper.make_tensor_value_info(name, kinds.FLOAT, shape)
            for name in ('probability', 'second')[:outputs]
        ],
        [onnx.numpy_helper.from_array(signs, 'weight')],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return model.SerializeToString()


def toy_probability(pairs: np.ndarray, gain: float = 1.0) -> np.ndarray:
    """What :func:`toy_graph` computes, by numpy."""
    a, b = np.split(pairs.astype(np.float64), 2, axis=1)
    return 1 / (1 + np.exp(gain * (a.mean(1) - b.mean(1))))
