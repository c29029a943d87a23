"""Graphs run by onnxruntime and OpenVINO."""

import dataclasses
import hashlib
import importlib.util
import json
import sys

import numpy as np
import pytest
import torch

from mtkd_cd.apis import ChangeInferencer
from mtkd_cd.core.errors import UserError
from mtkd_cd.export.description import Description
from mtkd_cd.export.runtime import open_exported
from tests.export.conftest import SIZE, toy_graph, toy_probability

pytest.importorskip('onnxruntime')
BACKENDS = [
    'onnx',
    pytest.param(
        'openvino',
        marks=pytest.mark.skipif(
            not importlib.util.find_spec('openvino'),
            reason='openvino is not installed',
        ),
    ),
]


@pytest.fixture
def write(tmp_path, card):
    """Write a toy graph with a description; options of both."""

    def file(name='toy.onnx', input='normalised', dynamic='batch', metadata=None, **graph):
        if dynamic == 'none':
            graph['batch'] = 1
        described = Description(card, input, size=SIZE, dynamic=dynamic)
        path = tmp_path / name
        path.write_bytes(toy_graph(metadata=described.metadata() | (metadata or {}), **graph))
        return path

    return file


def _normalised_pairs(card, count=3):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (count, 6, SIZE, SIZE)).astype(np.float32)
    shape = (1, 6, 1, 1)
    return raw, (raw - np.reshape(card.mean, shape)) / np.reshape(card.std, shape)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dynamic', ['batch', 'none'])
def test_backends_compute_the_graph_whatever_its_batch(write, card, backend, dynamic):
    _, pairs = _normalised_pairs(card)
    model = open_exported(write(dynamic=dynamic), backend)
    for count in (1, 3):
        found = model.predictor().probability(torch.tensor(pairs[:count], dtype=torch.float32))
        np.testing.assert_allclose(found.numpy(), toy_probability(pairs[:count]), atol=1e-6)


def test_a_graph_of_raw_values_gets_them_back(write, card):
    raw, pairs = _normalised_pairs(card)
    model = open_exported(write(input='raw'), 'onnx')
    found = model.predictor().probability(torch.tensor(pairs, dtype=torch.float32))
    np.testing.assert_allclose(found.numpy(), toy_probability(raw), atol=1e-4)


@pytest.mark.parametrize('backend', BACKENDS)
def test_rasters_are_predicted_with_it(write, tmp_path, card, backend):
    rasterio = pytest.importorskip('rasterio')
    rng = np.random.default_rng(1)
    dates = rng.integers(0, 256, (2, 3, 40, 50), dtype=np.uint8)
    for name, date in zip('ab', dates):
        with rasterio.open(
            tmp_path / f'{name}.tif',
            'w',
            driver='GTiff',
            width=50,
            height=40,
            count=3,
            dtype='uint8',
            crs='EPSG:32632',
            transform=rasterio.transform.from_origin(5e5, 4.8e6, 0.5, 0.5),
        ) as file:
            file.write(date)
    inferencer = ChangeInferencer(write(), backend=backend)
    inferencer.predict_raster(
        tmp_path / 'a.tif',
        tmp_path / 'b.tif',
        tmp_path / 'o.tif',
        probability=tmp_path / 'p.tif',
        probability_dtype='float32',
    )
    values = np.concatenate(list(dates)).astype(np.float64)
    values = (values - np.reshape(card.mean, (6, 1, 1))) / np.reshape(card.std, (6, 1, 1))
    wanted = toy_probability(values[None])[0]
    with rasterio.open(tmp_path / 'p.tif') as file:
        np.testing.assert_allclose(file.read(1), wanted, atol=1e-5)
    with rasterio.open(tmp_path / 'o.tif') as file:
        np.testing.assert_array_equal(file.read(1), wanted > card.threshold)
        assert str(file.tags()['MTKD_CD_MODEL']).strip('"') == 'toy'


@pytest.mark.parametrize('backend', BACKENDS)
def test_each_image_of_a_cascade_gets_the_graph_of_its_range(write, tmp_path, card, backend):
    gains = dict(origin=1.0, small=0.5, large=2.0)
    parts = {}
    for name, gain in gains.items():
        path = write(f'{name}.onnx', gain=gain)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        parts[name] = dict(file=path.name, sha256={path.name: digest})
    content = dict(
        schema='mtkd-cd exported cascade',
        description=Description(card, size=SIZE).as_dict(),
        ranges=dict(thresholds=[0.5], names=['small', 'large']),
        routing=dict(teachers=['small', 'large'], cuts=[0.5], detectors=['small', 'large']),
        detectors=parts,
    )
    (tmp_path / 'cascade.json').write_text(json.dumps(content))
    rng = np.random.default_rng(2)
    a = rng.integers(100, 130, (SIZE, SIZE, 3), dtype=np.uint8)
    pairs = [(a, a - 60), (a, a + 60), (a, a - 80)]  # predicted CAR 0, 1, 0
    found = ChangeInferencer(tmp_path, backend=backend)(pairs)
    assert [one.detector for one in found] == ['small', 'large', 'small']
    for one, dates in zip(found, pairs):
        values = np.concatenate([date.transpose(2, 0, 1) for date in dates]).astype(np.float64)
        values = (values - np.reshape(card.mean, (6, 1, 1))) / np.reshape(card.std, (6, 1, 1))
        wanted = toy_probability(values[None], gains[one.detector])[0]
        np.testing.assert_allclose(one.probability, wanted, atol=1e-5)


def test_cascade_for_another_backend_is_refused_before_the_first_pair(tmp_path, card):
    names = ('origin', 'small', 'large')
    content = dict(
        schema='mtkd-cd exported cascade',
        description=Description(card, size=SIZE).as_dict(),
        ranges=dict(thresholds=[0.5], names=['small', 'large']),
        routing=dict(teachers=['small', 'large'], cuts=[0.5], detectors=['small', 'large']),
        detectors={name: dict(file=f'{name}.xml', sha256={}) for name in names},
    )
    (tmp_path / 'cascade.json').write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"origin\.xml: backend='onnx' runs \.onnx"):
        ChangeInferencer(tmp_path, backend='onnx')


@pytest.mark.parametrize('backend', BACKENDS)
def test_pairs_that_a_graph_cannot_run_on_are_named(card, tmp_path, backend):
    onnx = pytest.importorskip('onnx')
    model = onnx.load_model_from_string(toy_graph(size='side'))
    conv, sigmoid = model.graph.node
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.zeros((1, 1, SIZE, SIZE), np.float32), 'zeros')
    )
    add = onnx.helper.make_node('Add', ['margin', 'zeros'], ['sum'])
    sigmoid.input[0] = 'sum'
    nodes = [conv, add, sigmoid]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for key, value in Description(card, size=None, dynamic='all').metadata().items():
        model.metadata_props.add(key=key, value=value)
    path = tmp_path / 'toy.onnx'
    path.write_bytes(model.SerializeToString())
    predictor = open_exported(path, backend).predictor()
    with pytest.raises(UserError, match=r'toy: .* 2 pairs of 64 x 48 pixels .*: predict with'):
        predictor.probability(torch.zeros(2, 6, 64, 48))
    # Others are predicted all the same.
    assert predictor.probability(torch.zeros(1, 6, SIZE, SIZE)).shape == (1, SIZE, SIZE)


def test_another_size_names_the_window_that_works(write, card):
    model = open_exported(write(), 'onnx')
    with pytest.raises(UserError, match='takes 32 x 32 pixels, not 64 x 32: predict with --window'):
        model.predictor().probability(torch.zeros(1, 6, 64, 32))


def test_a_foreign_file_runs_once_it_is_told_how_it_is_fed(tmp_path):
    path = tmp_path / 'theirs.onnx'
    path.write_bytes(toy_graph(size='side'))
    with pytest.raises(UserError, match='does not say how it is fed'):
        ChangeInferencer(path, backend='onnx')
    told = dict(mean=[0] * 6, std=[1] * 6, training_size=16)
    inferencer = ChangeInferencer(path, backend='onnx', cfg_options=told)
    assert inferencer.card.training_size == 16
    assert inferencer.card.divisor == 32
    pairs = np.zeros((1, 6, 8, 8), np.float32)
    found = inferencer.model.predictor().probability(torch.from_numpy(pairs))
    np.testing.assert_allclose(found.numpy(), 0.5)


@pytest.mark.parametrize(
    ('graph', 'message'),
    [
        (dict(outputs=2), '1 inputs and 2 outputs'),
        (dict(channels=5), '5 x 32 x 32'),
    ],
)
def test_graphs_that_make_no_change_of_a_pair_are_refused(write, graph, message):
    if graph.get('channels') == 5:
        graph = dict(channels=5)
        import onnx

        model = onnx.load_model_from_string(toy_graph())
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
        model.graph.initializer[0].CopyFrom(
            onnx.numpy_helper.from_array(np.zeros((1, 5, 1, 1), np.float32), 'weight')
        )
        path = write()
        path.write_bytes(model.SerializeToString())
    else:
        path = write(**graph)
    with pytest.raises(UserError, match=message):
        open_exported(path, 'onnx')


def test_files_for_another_backend_damaged_or_missing_are_refused(write, tmp_path):
    path = write()
    with pytest.raises(UserError, match='does not exist'):
        open_exported(tmp_path / 'no.onnx', 'onnx')
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match='cannot be read'):
        open_exported(path, 'onnx')
    (tmp_path / 'm.xml').write_text('<net/>')
    with pytest.raises(UserError, match=r"backend='onnx' runs \.onnx"):
        open_exported(tmp_path / 'm.xml', 'onnx')
    (tmp_path / 'folder').mkdir()
    with pytest.raises(UserError, match=r'folder without cascade\.json'):
        open_exported(tmp_path / 'folder', 'onnx')


def test_a_gpu_is_refused_and_not_ignored(write):
    with pytest.raises(UserError, match='runs on the cpu'):
        ChangeInferencer(write(), device='meta')


def test_a_missing_package_names_its_extra(write, monkeypatch):
    path = write()
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(UserError, match=r"pip install 'mtkd-cd\[export\]'"):
        open_exported(path, 'onnx')


def test_options_change_the_card_of_our_own_files(write):
    model = open_exported(write(), 'onnx', {'threshold': 0.9})
    assert model.card.threshold == 0.9
    assert model.card.sha256 == hashlib.sha256(write().read_bytes()).hexdigest()
    assert dataclasses.replace(model.card, threshold=0.4).training_size == SIZE


@pytest.mark.parametrize('backend', BACKENDS)
def test_another_precision_is_refused(write, backend):
    path = write()
    with pytest.raises(UserError, match=r'bfloat16.*: toy .*as it was exported.*leave precision'):
        ChangeInferencer(path, backend=backend, precision='bfloat16')
    with pytest.raises(UserError, match="precision='half': choose 'float32' or 'bfloat16'"):
        ChangeInferencer(path, backend=backend, precision='half')
