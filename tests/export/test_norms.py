"""Instance norms in OpenVINO, against the same in float64."""

import numpy as np
import pytest

from mtkd_cd.export.norms import average_in_two_steps

_RANDOM = np.random.default_rng(0)
_WEIGHTS = _RANDOM.normal(size=(32, 3)).astype(np.float32)


@pytest.fixture
def openvino():
    # Not while tests are collected: tests/experiments/test_matrix.py then finds pytest's streams
    # closed.
    return pytest.importorskip('openvino')


def _model(openvino, axes, side):
    """A 1 x 1 convolution, after which maps lie in blocks of channels, and a norm."""
    ops = openvino.opset8
    images = ops.parameter([-1, 3, side, side], np.float32)
    pads, ones = [0, 0], [1, 1]
    maps = ops.convolution(images, _WEIGHTS[:, :, None, None], ones, pads, pads, ones)
    norm = ops.mvn(maps, ops.constant(axes, np.int64), True, 1e-5, 'inside_sqrt')
    return openvino.Model([norm], [images])


def _error(openvino, model, images, expected):
    compiled = openvino.Core().compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    return np.abs(compiled([images])[0] - expected).max() / np.abs(expected).max()


def test_rounds_less_than_openvinos_own(openvino):
    images = (_RANDOM.exponential(size=(1, 3, 256, 256)) ** 2).astype(np.float32)
    exact = np.einsum('kc,nchw->nkhw', _WEIGHTS.astype(np.float64), images)
    exact -= exact.mean((2, 3), keepdims=True)
    exact /= np.sqrt(exact.var((2, 3), keepdims=True) + 1e-5)
    model = _model(openvino, [2, 3], side=256)
    own = _error(openvino, model, images, exact)
    assert average_in_two_steps(model) == 1
    assert not [node for node in model.get_ops() if node.get_type_name() == 'MVN']
    assert _error(openvino, model, images, exact) < own / 4


def test_leaves_norms_of_other_axes(openvino):
    assert average_in_two_steps(_model(openvino, [1, 2, 3], side=8)) == 0
