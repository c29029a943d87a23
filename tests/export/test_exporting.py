"""Detectors written to files, and read back by every runtime."""

import copy
import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from mtkd_cd.apis import ChangeInferencer
from mtkd_cd.core.errors import UserError
from mtkd_cd.export.exporting import export_model
from mtkd_cd.export.parity import made_up_pairs, normalised
from mtkd_cd.inference.predictor import Model, TorchPredictor, model_from_detector
from mtkd_cd.models.mtkd.routing import ORIGIN, choose_routing
from tests.export.conftest import SIZE

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')


@pytest.fixture
def model(tiny_detector) -> Model:
    found = model_from_detector(tiny_detector)
    found.card = dataclasses.replace(found.card, threshold=0.3, training_size=SIZE)
    return found


def _pictures(count=3):
    rng = np.random.default_rng(5)
    return [
        [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2)]
        for _ in range(count)
    ]


@pytest.mark.slow
def test_a_program_of_torch_predicts_as_the_model(model, tmp_path):
    (written,) = export_model(model, tmp_path / 'm.pt2')
    assert written.parity.max_difference < 1e-5
    assert written.parity.batches == (1, 3)
    pairs = _pictures()
    wanted = ChangeInferencer(model, device='cpu')(pairs, batch_size=2)
    found = ChangeInferencer(tmp_path / 'm.pt2')(pairs, batch_size=2)
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(one.probability, other.probability, atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {'m.pt2'}


@pytest.mark.slow
def test_a_cascade_becomes_a_folder_that_routes_as_it_does(model, tiny_detector, tmp_path):
    routing = choose_routing('car', None, model.partition)
    others = {name: TorchPredictor(tiny_detector, 1 + i) for i, name in enumerate('sml')}
    names = (ORIGIN, *model.partition.names)
    predictors = dict(zip(names, [TorchPredictor(tiny_detector), *others.values()]))
    cascade = Model(
        model.card,
        {name: lambda one=one: one for name, one in predictors.items()},
        routing,
        model.partition,
        model.cfg,
    )
    folder = tmp_path / 'cascade'
    written = export_model(cascade, folder, format='pt2')
    assert [one.detector for one in written] == list(names)
    pairs = _pictures()
    pairs[0][1] = pairs[0][0]
    wanted = ChangeInferencer(cascade, device='cpu')(pairs)
    opened = ChangeInferencer(folder)
    found = opened(pairs)
    assert [one.detector for one in found] == [one.detector for one in wanted]
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(one.probability, other.probability, atol=1e-5)
    serving = found[0].detector
    (folder / f'{serving}.pt2').write_bytes(b'changed')
    with pytest.raises(UserError, match='another SHA-256'):
        ChangeInferencer(folder)(pairs)
    with pytest.raises(UserError, match='give a folder'):
        export_model(cascade, tmp_path / 'c.onnx')


class _Worried(nn.Module):
    """Asks for a number in the middle of a graph."""

    def forward(self, features):
        return features if features[0].mean().item() > 3 else features * 2


def test_a_part_that_cannot_be_exported_is_named(tiny_detector, tmp_path):
    detector = copy.deepcopy(tiny_detector)
    detector.decode_head.dropout = _Worried()
    model = model_from_detector(detector)
    with pytest.raises(UserError, match=r'decode_head\.dropout \(_Worried\)') as caught:
        export_model(model, tmp_path / 'm.onnx', size=SIZE)
    assert 'cannot be exported' in str(caught.value)
    assert not list(tmp_path.iterdir())


class _Counting(nn.Module):
    """Makes a Python number of the batch."""

    def forward(self, features):
        return features * len(features)


def test_a_batch_that_becomes_a_constant_is_said(tiny_detector, tmp_path):
    detector = copy.deepcopy(tiny_detector)
    detector.decode_head.dropout = _Counting()
    with pytest.raises(UserError, match=r'batch.*constant \(2\).*--dynamic none may do'):
        export_model(model_from_detector(detector), tmp_path / 'm.onnx', size=SIZE)
    assert not list(tmp_path.iterdir())


class _Wrong(TorchPredictor):
    def probability(self, pairs):
        return super().probability(pairs) + 0.01


def test_a_file_that_differs_from_torch_is_not_written(model, tiny_detector, tmp_path):
    wrong = _Wrong(tiny_detector)
    other = Model(model.card, {'': lambda: wrong}, cfg=model.cfg)
    with pytest.raises(UserError, match=r'differs from torch by 1\.0e-02'):
        export_model(other, tmp_path / 'm.pt2')
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_is_compared_on_the_pairs_that_are_given(model, tmp_path):
    for date in 'AB':
        (tmp_path / date).mkdir()
    for number, pair in enumerate(_pictures(2)):
        for date, image in zip('AB', pair):
            cv2.imwrite(str(tmp_path / date / f'{number}.png'), image)
    (written,) = export_model(model, tmp_path / 'm.pt2', pairs=tmp_path)
    # No three at once, as of made-up pairs: there are two.
    assert (written.parity.batches, written.parity.pixels) == ((1,), SIZE**2)
    assert written.parity.max_difference < 1e-5


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('m.onnx', dict(pairs='nowhere'), 'nowhere'),
        ('m.tflite', {}, "unknown extension '.tflite'"),
        ('m', {}, 'a folder is for a cascade'),
        ('m.mtkd', {}, 'give a bundle as the model'),
        ('m.onnx', dict(dynamic='all'), '--dynamic all: with a FC_EF backbone'),
        ('m.onnx', dict(size=40), '--size 40: .* multiples of 32, for instance 32'),
        ('m.onnx', dict(channels=3), 'channels=3'),
    ],
)
def test_what_cannot_be_done_is_said(model, tmp_path, name, options, message):
    with pytest.raises(UserError, match=message):
        export_model(model, tmp_path / name, **options)


def test_an_existing_file_stays(model, tmp_path):
    (tmp_path / 'm.onnx').write_text('mine')
    with pytest.raises(UserError, match='--overwrite'):
        export_model(model, tmp_path / 'm.onnx')
    assert (tmp_path / 'm.onnx').read_text() == 'mine'


@pytest.fixture(scope='module')
def written_onnx(tiny_detector, tmp_path_factory):
    """The tiny detector as ONNX with a free batch, which takes the exporter ten seconds."""
    path = tmp_path_factory.mktemp('onnx') / 'm.onnx'
    model = model_from_detector(tiny_detector)
    export_model(model, path, size=SIZE)
    return path


@pytest.mark.slow
def test_onnx_has_the_dimensions_versions_and_numbers(written_onnx, tiny_detector):
    import onnxruntime

    graph = onnx.load(written_onnx)
    assert graph.ir_version == 9
    assert graph.opset_import[0].version <= 20
    session = onnxruntime.InferenceSession(written_onnx)
    assert session.get_inputs()[0].shape == ['batch', 6, SIZE, SIZE]
    assert session.get_outputs()[0].shape == ['batch', 1, SIZE, SIZE]
    card = model_from_detector(tiny_detector).card
    inputs = normalised(made_up_pairs(card, SIZE, 3), card)
    with torch.no_grad():
        wanted = tiny_detector.encode_decode(inputs, [{}]).softmax(1)[:, 1:]
    for count in (1, 2, 3):
        (found,) = session.run(None, {'pair': inputs[:count].numpy()})
        np.testing.assert_allclose(found, wanted[:count], atol=1e-5)
    described = json.loads(session.get_modelmeta().custom_metadata_map['mtkd_cd'])
    assert described['parity']['max_difference'] < 1e-5


@pytest.mark.slow
def test_openvino_reads_it_and_a_bundle_carries_it(written_onnx, tiny_detector, tiny_cfg, tmp_path):
    pytest.importorskip('openvino')
    from mtkd_cd.export.description import from_metadata
    from mtkd_cd.export.exporting import write_openvino
    from mtkd_cd.inference.bundle import Bundle, Contents, write_bundle

    content = written_onnx.read_bytes()
    props = {one.key: one.value for one in onnx.load(written_onnx).metadata_props}
    write_openvino(content, from_metadata(props, 'm'), tmp_path / 'm.xml')
    model = model_from_detector(tiny_detector)
    model.card = dataclasses.replace(model.card, training_size=SIZE)
    contents = Contents(model.card, tiny_cfg, {'': tiny_detector.state_dict()})
    bundle = Bundle.open(write_bundle(tmp_path / 'b.mtkd', contents))
    with pytest.raises(UserError, match=r'holds no graph.*mtkd-cd export'):
        bundle.build(backend='onnx')
    bundle.with_graph(content, tmp_path / 'c.mtkd')
    pairs = _pictures()
    wanted = ChangeInferencer(model, device='cpu')(pairs)
    for path, backend in (
        (written_onnx, 'onnx'),
        (written_onnx, 'openvino'),
        (tmp_path / 'm.xml', 'openvino'),
        (tmp_path / 'c.mtkd', 'onnx'),
        (tmp_path / 'c.mtkd', 'openvino'),
        (tmp_path / 'c.mtkd', 'torch'),
    ):
        found = ChangeInferencer(path, backend=backend)(pairs)
        for one, other in zip(found, wanted):
            np.testing.assert_allclose(one.probability, other.probability, atol=1e-4)


@pytest.mark.slow
def test_a_graph_of_fixed_dimensions_where_free_ones_were_wanted_is_refused(written_onnx):
    from mtkd_cd.export.graph import check_dimensions

    graph = onnx.load(written_onnx)
    check_dimensions(graph, 'batch', (6, 1), SIZE)
    for dim in (graph.graph.input[0], graph.graph.output[0]):
        dim.type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(UserError, match='pair is 1 x 6 x 32 x 32 instead of batch x 6'):
        check_dimensions(graph, 'batch', (6, 1), SIZE)
