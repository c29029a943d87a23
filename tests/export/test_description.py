"""What exported files say of themselves, to us and to Deepness."""

import dataclasses
import json

import numpy as np
import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.radiometry import Linear
from mtkd_cd.export.description import Description, from_metadata
from tests.export.conftest import MEAN, STD


def test_metadata_give_the_description_back(card):
    described = Description(
        dataclasses.replace(card, radiometry=Linear(high=3000), temperature=1.5, sha256='ab'),
        'raw',
        2,
        32,
        'none',
        'small',
        pipeline=[{'type': 'MultiImgPackSegInputs'}],
        facts={'ranges': {'thresholds': [0.1], 'names': ['a', 'b']}},
        parity={'max_difference': 1e-6},
    )
    assert from_metadata(described.metadata(), 'm.onnx') == described


@pytest.mark.parametrize('kind', ['normalised', 'raw'])
def test_deepness_feeds_the_graph_what_it_takes(card, kind):
    metadata = {
        key: json.loads(text) for key, text in Description(card, kind, size=32).metadata().items()
    }
    values = np.arange(0, 256, 5, dtype=np.uint8)[:, None].repeat(6, 1)
    fed = (values / 255 - metadata['standardization_mean']) / metadata['standardization_std']
    wanted = values if kind == 'raw' else (values - np.array(MEAN)) / STD
    np.testing.assert_allclose(fed, wanted, rtol=1e-6, atol=1e-6)
    assert metadata['model_type'] == 'Segmentor'
    assert metadata['resolution'] == 50
    assert metadata['tile_size'] == metadata['tiles_size'] == 32
    assert metadata['seg_thresh'] == 0.4
    assert metadata['class_names'] == {'0': 'unchanged', '1': 'changed'}


def test_a_foreign_file_asks_for_what_it_does_not_say():
    with pytest.raises(UserError, match='standardization_mean or --cfg-options mean=') as caught:
        from_metadata({}, 'theirs.onnx')
    assert 'standardization_std' in str(caught.value)
    assert 'theirs.onnx' in str(caught.value)
    with pytest.raises(UserError) as caught:
        from_metadata({}, 'theirs.onnx', {'mean': MEAN})
    assert 'standardization_mean' not in str(caught.value)
    assert 'standardization_std' in str(caught.value)


def test_a_foreign_file_is_read_by_the_keys_of_deepness():
    metadata = {
        'standardization_mean': json.dumps([0.5] * 6),
        'standardization_std': json.dumps([0.25] * 6),
        'resolution': '60',
        'seg_thresh': '0.3',
        'tile_size': '128',
    }
    card = from_metadata(metadata, 'x/theirs.onnx', {'std': [2.0] * 6}).card
    assert card.mean == (127.5,) * 6
    assert card.std == (2.0,) * 6
    assert (card.gsd_m, card.threshold, card.training_size) == (0.6, 0.3, 128)
    assert card.name == 'theirs'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(mean=[1.0], std=[1.0] * 6), 'its mean 1 numbers'),
        (dict(mean=[1.0] * 6, std=[1.0] * 6, gain=3), '--cfg-options gain'),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        from_metadata({}, 'theirs.onnx', options)


def test_damaged_or_newer_metadata_are_refused(card):
    good = Description(card).as_dict()
    with pytest.raises(UserError, match='schema version 7'):
        from_metadata({'mtkd_cd': json.dumps(dict(good, schema_version=7))}, 'm.onnx')
    with pytest.raises(UserError, match=r'damaged.*KeyError'):
        from_metadata({'mtkd_cd': json.dumps(dict(good, graph={}))}, 'm.onnx')
    with pytest.raises(UserError, match='no JSON value'):
        from_metadata({'mtkd_cd': '{'}, 'm.onnx')


def test_a_pipeline_that_names_any_module_is_refused(card):
    described = Description(card, pipeline=[{'type': 'os.system'}])
    with pytest.raises(UserError, match=r'os\.system'):
        _ = described.cfg
