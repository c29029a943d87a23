"""A stacked pair through an exported file as QGIS Deepness feeds it, against our own prediction."""

import json

import numpy as np
import pytest

from mtkd_cd.apis import ChangeInferencer
from mtkd_cd.export.description import Description
from mtkd_cd.inference.stack import stack_pair
from tests.export.conftest import SIZE, toy_graph

rasterio = pytest.importorskip('rasterio')
onnxruntime = pytest.importorskip('onnxruntime')


@pytest.mark.parametrize('kind', ['normalised', 'raw'])
def test_the_stack_and_the_metadata_give_what_predict_gives(card, tmp_path, kind):
    rng = np.random.default_rng(0)
    profile = dict(
        driver='GTiff',
        width=SIZE,
        height=SIZE,
        count=3,
        dtype='uint8',
        crs='EPSG:32632',
        transform=rasterio.transform.from_origin(5e5, 4.8e6, 0.5, 0.5),
    )
    files = [tmp_path / f'{name}.tif' for name in 'ab']
    for path in files:
        with rasterio.open(path, 'w', **profile) as file:
            file.write(rng.integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8))
    model = tmp_path / 'm.onnx'
    model.write_bytes(toy_graph(metadata=Description(card, kind, size=SIZE).metadata()))

    with rasterio.open(stack_pair(*files, tmp_path / 'ab.tif')) as file:
        tile = file.read().transpose(1, 2, 0)[None]  # Deepness: (N, H, W, C)
    session = onnxruntime.InferenceSession(model)
    metadata = {
        key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()
    }
    assert session.get_inputs()[0].shape[-2:] == [metadata['tile_size']] * 2
    fed = np.float32(tile / 255)
    fed = (fed - metadata['standardization_mean']) / metadata['standardization_std']
    inputs = fed.transpose(0, 3, 1, 2).astype(np.float32)
    (found,) = session.run(None, {session.get_inputs()[0].name: inputs})

    ChangeInferencer(model, backend='onnx').predict_raster(
        *files, tmp_path / 'o.tif', probability=tmp_path / 'p.tif', probability_dtype='float32'
    )
    with rasterio.open(tmp_path / 'p.tif') as file:
        wanted = file.read(1)
    np.testing.assert_allclose(found[0, 0], wanted, atol=1e-5)
    assert wanted.min() < metadata['seg_thresh'] < wanted.max()
