"""Models of many bands and 16-bit values predict what their tests see: the bands and the rule of
the training, in pairs, rasters, arrays and bundles."""

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

from mtkd_cd import apis
from mtkd_cd.core.errors import UserError
from mtkd_cd.data.radiometry import Identity, Linear
from mtkd_cd.export.quantise import read_windows
from mtkd_cd.inference import predictor
from mtkd_cd.inference.bundle import create_bundle, verify_bundle
from mtkd_cd.registry import DATASETS
from tests.conftest import TINY
from tests.inference.conftest import Constant, Difference

rasterio = pytest.importorskip('rasterio')

SIDE, BANDS = 32, (3, 2, 1, 5)
VALUES = {key: eval(value) for key, value in (entry.split('=') for entry in TINY)}


@pytest.fixture
def root(tmp_path):
    """Pairs of five 16-bit bands; in the last column of date A nothing is known."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2), ('test', 1)):
        for index in range(count):
            dates = {
                date: rng.integers(1, 3000, (5, SIDE, SIDE)).astype(np.uint16) for date in 'AB'
            }
            dates['A'][:, :, -1] = 0
            label = np.zeros((1, SIDE, SIDE), np.uint8)
            label[:, 4:12, 4 : 8 + 4 * index] = 255
            for name, array in (*dates.items(), ('label', label)):
                path = tmp_path / 'data' / split / name / f'{index}.tif'
                path.parent.mkdir(parents=True, exist_ok=True)
                nodata = dict(nodata=0) if name == 'A' else {}
                profile = dict(count=len(array), height=SIDE, width=SIDE, dtype=array.dtype)
                place = dict(crs='EPSG:32633', transform=rasterio.Affine(10, 0, 0, 0, -10, 0))
                with rasterio.open(path, 'w', driver='GTiff', **profile, **place, **nodata) as file:
                    file.write(array)
    return tmp_path / 'data'


@pytest.fixture
def trained(root, tmp_path):
    """``trained(rule)``: (config, file of weights)."""

    def make(rule: str, bands: tuple[int, ...] = BANDS):
        options = dict(data_root=root, dataset_type='CDDataset', crop_size=SIDE, num_workers=0)
        options |= dict(bands=','.join(map(str, bands)), radiometry=rule, cfg_options=VALUES)
        cfg = apis.get_config('fc_ef', **options)
        torch.manual_seed(0)
        weights = tmp_path / 'weights.pth'
        torch.save(dict(state_dict=apis.init_model(cfg, device='cpu').state_dict()), weights)
        return cfg, weights

    return make


def pair_of(root) -> tuple[str, str]:
    return str(root / 'test/A/0.tif'), str(root / 'test/B/0.tif')


def by_hand(root, cfg, weights, levels, bands=BANDS) -> np.ndarray:
    """(H, W) probability: the bands by number, ``levels`` of their values, the detector itself."""
    detector = apis.init_model(cfg, weights, device='cpu')
    mean = detector.data_preprocessor.mean.view(1, -1, 1, 1)
    std = detector.data_preprocessor.std.view(1, -1, 1, 1)
    dates = []
    for path in pair_of(root):
        with rasterio.open(path) as file:
            dates.append(levels(file.read(bands).astype(np.float64)))
    inputs = (torch.from_numpy(np.concatenate(dates)).float()[None] - mean) / std
    inputs[..., -1] = 0  # the mean where nothing is known
    with torch.no_grad():
        return detector(inputs, mode='tensor').softmax(1)[0, 1].numpy()


def linear(values: np.ndarray) -> np.ndarray:
    return np.clip(values / 3000 * 255, 0, 255)


def test_pairs_rasters_arrays_and_bundles_are_read_as_in_the_training(root, trained, tmp_path):
    cfg, weights = trained('linear(low=0, high=3000)')
    wanted = by_hand(root, cfg, weights, linear)
    bundle = tmp_path / 'many.mtkd'
    create_bundle(cfg, weights, bundle, validation=False)
    verify_bundle(bundle)
    for model in (apis.ChangeInferencer(cfg, weights), apis.ChangeInferencer(bundle)):
        assert model.card.radiometry == Linear(low=0, high=3000)
        (found,) = model([pair_of(root)])
        assert not found.valid[:, -1].any()
        assert found.valid[:, :-1].all()
        np.testing.assert_allclose(found.probability[:, :-1], wanted[:, :-1], atol=1e-5)
        place = tmp_path / 'p.tif'
        result = model.predict_raster(
            *pair_of(root),
            tmp_path / 'c.tif',
            probability=place,
            probability_dtype='float32',
            overwrite=True,
        )
        with rasterio.open(place) as file:
            np.testing.assert_allclose(file.read(1)[:, :-1], wanted[:, :-1], atol=1e-5)
        assert any('bands 3,2,1,5 of the files are read' in n for n in result.report['warnings'])
        arrays = []
        for path in pair_of(root):
            with rasterio.open(path) as file:
                arrays.append(file.read(BANDS, masked=True).transpose(1, 2, 0))
        (found,) = model([arrays])
        np.testing.assert_allclose(found.probability[:, :-1], wanted[:, :-1], atol=1e-5)
    exported = tmp_path / 'many.onnx'
    pytest.importorskip('onnxruntime')
    apis.export_model(bundle, exported)
    model = apis.ChangeInferencer(exported, backend='onnx')
    assert model.card.bands == ('band 3', 'band 2', 'band 1', 'band 5')
    (found,) = model([pair_of(root)])
    np.testing.assert_allclose(found.probability[:, :-1], wanted[:, :-1], atol=1e-5)
    sample = apis.inference_model(apis.init_model(cfg, weights, device='cpu'), pair_of(root))
    found = sample.seg_logits.data.softmax(0)[1].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_pairs_are_read_as_by_a_test_of_several_data_sets(root, trained, tmp_path):
    cfg, weights = trained('linear(low=0, high=3000)')
    steps = cfg.test_dataloader.dataset.pipeline
    steps.insert(1, dict(type='MultiImgResize', scale=(16, 16)))
    wanted = apis.ChangeInferencer(cfg, weights)([pair_of(root)])[0].probability
    one = cfg.test_dataloader.dataset.to_dict()
    cfg.test_dataloader.dataset = dict(
        type='RepeatDataset', times=1, dataset=dict(type='ConcatDataset', datasets=[one, one])
    )
    bundle = tmp_path / 'several.mtkd'
    create_bundle(cfg, weights, bundle, validation=False)
    for model in (apis.ChangeInferencer(cfg, weights), apis.ChangeInferencer(bundle)):
        (found,) = model([pair_of(root)])
        np.testing.assert_array_equal(found.probability, wanted)
    other = dict(one, data_root='elsewhere', radiometry='linear(low=0, high=4000)')
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[one, other])
    with pytest.warns(UserWarning, match='radiometry differs: pairs are read as in the first'):
        (found,) = apis.ChangeInferencer(cfg, weights)([pair_of(root)])
    np.testing.assert_array_equal(found.probability, wanted)


def test_percentiles_of_several_data_sets_are_those_of_the_pair(root, trained):
    cfg, _ = trained('percentile(2, 98)')
    one = cfg.test_dataloader.dataset.to_dict()
    sets = [one, dict(one, data_root='elsewhere')]
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=sets)
    with pytest.warns(UserWarning, match='reads 2 data sets, which have percentiles of their own'):
        assert not predictor.radiometry_of(cfg).fitted


def test_calibration_reads_the_bands_of_the_training(root, inferencer_of):
    card = inferencer_of(
        Constant(0.5),
        bands=tuple(f'band {number}' for number in BANDS),
        mean=(0.0,) * 8,
        std=(1.0,) * 8,
        radiometry=Linear(low=0, high=3000),
    ).card
    windows = read_windows(root / 'val', card, SIDE)
    for date, name in enumerate('AB'):
        with rasterio.open(root / 'val' / name / '0.tif') as file:
            wanted = linear(file.read(BANDS))
        found = windows.images[0, 4 * date : 4 * date + 4]
        np.testing.assert_allclose(found[..., :-1], wanted[..., :-1], rtol=1e-6)


def test_bundle_keeps_the_percentiles_of_the_training_split(root, trained, tmp_path):
    cfg, weights = trained('percentile(2, 98)')
    bundle = create_bundle(cfg, weights, tmp_path / 'p.mtkd', validation=False)
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        data = DATASETS.build(dict(cfg.train_dataloader.dataset))
    data.full_init()
    assert bundle.card.radiometry.bounds == data.radiometry.bounds
    low, high = (np.array(bound)[:, None, None] for bound in zip(*data.radiometry.bounds))
    wanted = by_hand(root, cfg, weights, lambda v: np.clip((v - low) / (high - low) * 255, 0, 255))
    (found,) = apis.ChangeInferencer(tmp_path / 'p.mtkd')([pair_of(root)])
    np.testing.assert_allclose(found.probability[:, :-1], wanted[:, :-1], atol=1e-5)
    (again,) = apis.ChangeInferencer(cfg, weights)([pair_of(root)])
    np.testing.assert_array_equal(again.probability, found.probability)
    # Without the bundle and the data they are those of the pair, once for both dates.
    (root / 'train').rename(root / 'elsewhere')
    predictor._percentiles.clear()
    with pytest.warns(UserWarning, match='percentiles of the training are not known here'):
        model = apis.ChangeInferencer(cfg, weights)
    (own,) = model([pair_of(root)])
    assert np.nanmax(np.abs(own.probability - found.probability)) > 1e-5


def test_files_in_red_green_and_blue_are_read_by_their_colours(
    root, trained, tmp_path, write_raster
):
    cfg, weights = trained('linear(low=0, high=255)', (3, 2, 1))
    a, b = np.random.default_rng(1).integers(0, 256, (2, 3, SIDE, SIDE), dtype=np.uint8)
    plain = write_raster('a.tif', a, photometric='RGB'), write_raster('b.tif', b, photometric='RGB')
    model = apis.ChangeInferencer(cfg, weights)
    report = model.predict_raster(*plain, tmp_path / 'o.tif', dry_run=True).report
    assert not any('bands' in note for note in report['warnings'])
    bare = [
        write_raster(f'{path.stem}2.tif', one, photometric='MINISBLACK')
        for path, one in zip(plain, (a, b))
    ]
    report = model.predict_raster(*bare, tmp_path / 'o.tif', dry_run=True).report
    assert any('bands 3,2,1 of the files' in note for note in report['warnings'])


def test_opaque_arrays_lose_their_opacity_and_other_types_need_a_rule(inferencer_of):
    a, b = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    opaque = np.full((8, 8, 1), 255, np.uint8)
    model = inferencer_of(Difference())
    (wanted,) = model([[a, b]])
    (found,) = model([[np.dstack([a, opaque]), np.dstack([b, opaque])]])
    np.testing.assert_array_equal(found.probability, wanted.probability)
    assert isinstance(model.card.radiometry, Identity)
    with pytest.raises(UserError, match='uint16 of shape'):
        model([[a.astype(np.uint16), b.astype(np.uint16)]])
    ruled = inferencer_of(Constant(0.7), radiometry=Linear(low=0, high=3000))
    assert ruled([[a.astype(np.uint16), b.astype(np.uint16)]])[0].car == 1
