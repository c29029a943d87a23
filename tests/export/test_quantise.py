"""8-bit integers, on a graph that is made by hand."""

import cv2
import numpy as np
import pytest
import torch

from mtkd_cd.core.errors import UserError
from mtkd_cd.export.description import Description
from mtkd_cd.export.exporting import _write_int8, set_metadata
from mtkd_cd.export.parity import normalised
from mtkd_cd.export.quantise import Pairs, loss, quantised_onnx, read_windows
from mtkd_cd.export.runtime import open_exported, open_graph
from mtkd_cd.inference.predictor import Model
from tests.export.conftest import SIZE, toy_graph, toy_probability

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime.quantization')


@pytest.fixture
def data(tmp_path):
    """Five pairs of 40 x 48, the label of each brighter in B by the pair's number."""
    rng = np.random.default_rng(0)
    for index in range(5):
        dates = rng.integers(0, 200, (2, 40, 48, 3), dtype=np.uint8)
        label = np.zeros((40, 48), np.uint8)
        label[10:20, 10 : 15 + index] = 255
        for name, image in (('A', dates[0]), ('B', dates[1]), ('label', label)):
            (tmp_path / 'val' / name).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(tmp_path / 'val' / name / f'{index}.png'), image)
    return tmp_path / 'val'


def test_calibration_reads_the_middle_of_evenly_drawn_pairs(data, card):
    pairs = read_windows(data, card, SIZE, 3)
    assert pairs.images.shape == (3, 6, SIZE, SIZE)
    for found, index in zip(pairs.images, (0, 2, 4)):
        for date, name in enumerate('AB'):
            image = cv2.imread(str(data / name / f'{index}.png'))[4:36, 8:40, ::-1]
            wanted = image.transpose(2, 0, 1)
            np.testing.assert_array_equal(found[3 * date : 3 * date + 3], wanted)
    label = cv2.imread(str(data / 'label' / '4.png'), cv2.IMREAD_GRAYSCALE)[4:36, 8:40]
    np.testing.assert_array_equal(pairs.labels[2], label // 255)
    first, second = pairs.split()
    np.testing.assert_array_equal(second.images[0], pairs.images[1])
    assert len(first) == 2


def test_calibration_pairs_smaller_than_the_graph_are_refused(data, card):
    with pytest.raises(UserError, match='48 x 40 pixels, the graph takes 64 x 64'):
        read_windows(data, card, 64)


@pytest.mark.parametrize('kind', ['normalised', 'raw'])
def test_integers_compute_nearly_the_same_and_say_what_they_are(data, card, kind):
    pairs = read_windows(data, card, SIZE)
    described = Description(card, kind, size=SIZE, int8=True)
    model = onnx.load_model_from_string(toy_graph())
    result = quantised_onnx(model, pairs, described)
    assert [(one.domain, one.version) for one in result.opset_import] == [('', 18)]
    kinds = {node.op_type for node in result.graph.node}
    assert {'QuantizeLinear', 'DequantizeLinear'} <= kinds
    assert result.ir_version == 9
    set_metadata(result, described)
    predictor = open_graph(result.SerializeToString(), 'onnx', 'q.onnx')
    assert predictor.description.int8
    inputs = normalised(pairs.images, card)
    found = predictor.probability(inputs).numpy()
    taken = inputs.numpy() if kind == 'normalised' else pairs.images
    wanted = toy_probability(taken)
    error = np.abs(found - wanted)
    assert 0 < error.mean() < (0.01 if kind == 'normalised' else 0.1)


class _Fixed:
    def __init__(self, maps):
        self.maps, self.next = maps, 0

    def probability(self, pairs):
        self.next += 1
        return torch.from_numpy(self.maps[self.next - 1 : self.next])


def test_loss_counts_flips_and_scores(card):
    labels = np.zeros((2, 4, 4), np.uint8)
    labels[:, :2] = 1
    right = np.where(labels == 1, 0.9, 0.1).astype(np.float32)
    wrong = right.copy()
    wrong[0, 0] = 0.2  # four of eight changed pixels are lost in the first image
    pairs = Pairs(np.zeros((2, 6, 4, 4), np.float32), labels)
    found = loss((_Fixed(right), card), (_Fixed(wrong), card), pairs)
    assert found.flipped == pytest.approx(4 / 32)
    assert found.max_difference == pytest.approx(0.7)
    # First image: changed 4 / 8, unchanged 8 / 12; second: 1.
    assert found.miou == pytest.approx((100, (50 + 100 * 8 / 12 + 200) / 4))


class _Toy:
    def probability(self, pairs):
        return torch.from_numpy(toy_probability(pairs.numpy()).astype(np.float32))


@pytest.mark.parametrize('suffix', ['.onnx', '.xml'])
def test_a_file_of_integers_is_written_with_what_it_loses(data, card, tmp_path, suffix):
    if suffix == '.xml':
        pytest.importorskip('nncf')
    parity = dict(max_difference=0.0, flips=0, pixels=1, batches=[1])
    described = Description(card, size=SIZE, parity=parity)
    source = Model(card, {'': _Toy})
    graph = onnx.load_model_from_string(toy_graph())
    path = tmp_path / f'q{suffix}'
    pairs = read_windows(data, card, SIZE)
    written = _write_int8(source, '', path, described, graph, pairs)
    assert written.loss.pairs == 2
    assert 0 < written.loss.mean_difference < 0.02
    assert written.loss.miou is not None
    opened = open_exported(path, 'onnx' if suffix == '.onnx' else 'openvino')
    found = opened.predictor().description
    assert found.int8
    assert found.facts['int8'] == written.loss.as_dict()
