"""Data sets of GeoTIFFs through the shipped configs: more bands, 16 bits, pixels without data."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

from mtkd_cd.core.checkpoint import load_weights, save_checkpoint
from mtkd_cd.core.errors import UserError
from mtkd_cd.data.images import fill_of, normalization_of
from mtkd_cd.drawing.photo import read_photo
from mtkd_cd.engine.config import LOADERS, load_config
from mtkd_cd.engine.hooks.starting_weights import StartingWeightsHook
from mtkd_cd.engine.inputs import set_bands
from mtkd_cd.inference.predictor import build_plain
from mtkd_cd.models.pretrained import widened, widening
from mtkd_cd.registry import DATASETS

rasterio = pytest.importorskip('rasterio')


@pytest.fixture
def geotiffs(tmp_path):
    """Training and test pairs of five 16-bit bands, 32 x 32, with a column without data."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 6), ('val', 2), ('test', 2)):
        for index in range(count):
            changed = np.zeros((32, 32), bool)
            changed[4:12, 4 : 8 + 4 * (index % 3)] = True
            for date in 'AB':
                bands = rng.integers(300, 1200, (5, 32, 32)).astype(np.uint16)
                if date == 'B':
                    bands[:, changed] += 1500
                bands[:, :, -1] = 0
                write(tmp_path / split / date / f'{index}.tif', bands, nodata=0)
            label = changed.astype(np.uint8)[None] * 255
            write(tmp_path / split / 'label' / f'{index}.tif', label)
    return tmp_path


def write(path, bands, **profile):
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        count=len(bands),
        height=32,
        width=32,
        dtype=bands.dtype,
        crs='EPSG:32633',
        transform=rasterio.transform.from_origin(0, 0, 10, 10),
        **profile,
    ) as file:
        file.write(bands)


def test_percentiles_are_those_of_the_training_split_in_every_split(geotiffs):
    rules = [
        DATASETS.build(
            dict(
                type='CDDataset',
                data_root=str(geotiffs),
                split=split,
                bands=(3, 2, 1),
                radiometry='percentile(2, 98)',
            )
        ).get_data_info(0)['radiometry']
        for split in ('train', 'val', 'test')
    ]
    found = []
    for date in 'AB':
        stored = []
        for path in sorted((geotiffs / 'train' / date).glob('*.tif')):
            with rasterio.open(path) as file:
                stored.append(file.read((3, 2, 1))[:, :, :-1].reshape(3, -1))
        found.append(np.percentile(np.concatenate(stored, 1), (2, 98), axis=1))
    expected = np.stack([np.minimum(*found)[0], np.maximum(*found)[1]], 1)
    for rule in rules:
        np.testing.assert_allclose(rule.bounds, expected)


def test_percentiles_need_to_know_the_training_pairs(geotiffs):
    prefix = dict(img_path_from='test/A', img_path_to='test/B', seg_map_path='test/label')
    with pytest.raises(UserError, match=r'set split instead.*linear\(low=0, high=3000\)'):
        DATASETS.build(
            dict(
                type='CDDataset',
                data_root=str(geotiffs),
                data_prefix=prefix,
                bands=(1, 2, 3),
                radiometry='percentile',
            )
        )


def test_missing_rule_is_found_before_training_with_one_advice_that_helps(geotiffs):
    build = dict(type='CDDataset', data_root=str(geotiffs), split='train', bands=(1, 2, 3, 4, 5))
    with pytest.raises(UserError, match=r'uint16.*radiometry=.linear\(low=0, high=') as caught:
        DATASETS.build(build)
    advised = str(caught.value).split("radiometry='")[1].split("'")[0]
    assert len(DATASETS.build({**build, 'radiometry': advised})) == 6


@pytest.mark.parametrize('model', ['fc_ef', 'fc_siam_diff'])
def test_five_bands_train_and_test_through_the_tools(geotiffs, tmp_path, tool, model):
    data = ['--data-root', geotiffs, '--dataset-type', 'CDDataset', '--bands', '3,2,1,4,5']
    data += ['--radiometry', 'linear(low=0, high=3000)', '--crop-size', 32]
    loaders = [
        f'{loader}.{key}'
        for loader in LOADERS
        for key in ('num_workers=0', 'dataset.serialize_data=False')
    ]
    config = f'configs/origin/{model}.py'
    work = tmp_path / 'work'
    options = [*loaders, 'train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'log_level=ERROR']
    options += ['train_dataloader.batch_size=2', 'default_hooks.checkpoint.interval=2']
    code, said = tool('train', config, '--work-dir', work, *data, '--cfg-options', *options)
    assert code == 0, said
    weights = torch.load(work / 'best.pth', weights_only=True)['state_dict']
    first = next(value for value in weights.values() if value.ndim == 4)
    assert first.shape[1] == (10 if model == 'fc_ef' else 5)
    tested = tool(
        'test',
        config,
        work / 'best.pth',
        '--work-dir',
        tmp_path / 'test',
        *data,
        '--cfg-options',
        *loaders,
        'log_level=ERROR',
    )
    assert tested[0] == 0, tested[1]


def test_first_convolution_keeps_the_response_to_equal_bands():
    weight = torch.randn(4, 3, 3, 3)
    wide = widened(weight, (4, 7, 3, 3))
    assert wide.shape == (4, 7, 3, 3)
    torch.testing.assert_close(wide.sum(1), weight.sum(1))
    torch.testing.assert_close(wide[:, :3], weight * 3 / 7)
    pair = torch.randn(4, 6, 3, 3)
    torch.testing.assert_close(
        widened(pair, (4, 14, 3, 3)),
        torch.cat([widened(half, (4, 7, 3, 3)) for half in (pair[:, :3], pair[:, 3:])], 1),
    )
    for shape in ((5, 7, 3, 3), (4, 7, 1, 1), (4, 3, 3, 3), (4, 2, 3, 3), (4,)):
        assert widened(weight, shape) is weight


@pytest.fixture
def widened_model(tmp_path):
    """``widened_model(name)``: a model of three bands, and one of six that starts from it."""

    def make(name):
        torch.manual_seed(0)
        cfg = load_config(f'configs/origin/{name}.py')
        if 'pretrained' in cfg.model.backbone:
            cfg.model.backbone.pretrained = None
        three = build_plain(cfg, cfg.model).eval()
        save_checkpoint(dict(state_dict=three.state_dict()), tmp_path / 'three.pth')
        set_bands(cfg, [3, 2, 1, 4, 5, 6])
        six = build_plain(cfg, cfg.model).eval()
        runner = SimpleNamespace(model=six, logger=MMLogger.get_current_instance())
        StartingWeightsHook(str(tmp_path / 'three.pth')).before_train(runner)
        return three, six

    return make


@pytest.mark.parametrize('name', ['fc_ef', 'changer_mitb0'])
def test_weights_of_three_bands_start_a_model_of_six(widened_model, name):
    three, six = widened_model(name)
    # A first convolution sums over the bands: equal bands give what they gave.
    gray = torch.randn(1, 2, 1, 64, 64)
    with torch.no_grad():
        few = three(gray.expand(-1, -1, 3, -1, -1).flatten(1, 2), mode='tensor')
        many = six(gray.expand(-1, -1, 6, -1, -1).flatten(1, 2), mode='tensor')
    torch.testing.assert_close(many, few, rtol=1e-3, atol=1e-3 * float(few.abs().max()))


def test_filters_of_single_bands_get_the_mean_for_further_ones(widened_model):
    three, six = (dict(model.named_parameters()) for model in widened_model('tinycd'))
    for key in ('weight', 'bias'):
        few, many = (m[f'backbone._first_mix._mixing._convmix.0.{key}'] for m in (three, six))
        assert torch.equal(many[:3], few)
        torch.testing.assert_close(many[3:], few.mean(0, keepdim=True).expand_as(many[3:]))
    changed = [key for key in three if three[key].shape == six[key].shape]
    assert all(torch.equal(three[key], six[key]) for key in changed)


def test_weights_of_other_models_or_of_more_bands_start_none(tmp_path):
    cfg = load_config('configs/origin/fc_ef.py')
    three = build_plain(cfg, cfg.model)
    set_bands(cfg, [3, 2, 1, 4, 5])
    five = build_plain(cfg, cfg.model)
    save_checkpoint(dict(state_dict=five.state_dict()), tmp_path / 'five.pth')
    with pytest.raises(UserError, match=r'keys of another shape: backbone\.conv11'):
        load_weights(three, tmp_path / 'five.pth', adapt=widening(three))
    state = three.state_dict()
    head = 'decode_head.conv_seg.weight'
    state[head] = torch.zeros(3, *state[head].shape[1:])
    save_checkpoint(dict(state_dict=state), tmp_path / 'classes.pth')
    with pytest.raises(UserError, match=head):
        load_weights(five, tmp_path / 'classes.pth', adapt=widening(five))


def test_fill_is_what_the_normalisation_makes_zero():
    for channels in (1, 3, 5):
        mean, std = normalization_of(channels)
        assert len(mean) == len(std) == channels
        ordered = mean[::-1] if channels == 3 else mean
        np.testing.assert_allclose(fill_of(channels), ordered, rtol=1e-6)


def test_backbone_of_three_bands_says_so():
    cfg = load_config('configs/origin/ban_vitl14_mitb2.py')
    with pytest.raises(UserError, match='takes three bands, found 5'):
        set_bands(cfg, (1, 2, 3, 4, 5))


def test_normalisation_that_fits_the_bands_stays():
    cfg = load_config('configs/origin/ban_vitl14_mitb2.py')  # CLIP's, not ImageNet's
    before = cfg.model.data_preprocessor.to_dict()
    set_bands(cfg, (3, 2, 1))
    assert cfg.model.data_preprocessor.to_dict() == before


def test_pictures_of_16_bits_and_many_bands_are_drawn(geotiffs):
    path = sorted((geotiffs / 'test/B').iterdir())[1]
    photo = read_photo(path, (32, 32))
    assert photo.shape == (32, 32, 3)
    assert photo.dtype == np.uint8
    with rasterio.open(path) as file:
        red = file.read(1)[:, :-1]
    low, high = np.percentile(red, (2, 98))
    expected = np.clip((red - low) / (high - low) * 255, 0, 255)
    np.testing.assert_allclose(photo[:, :-1, 0], expected, atol=1)
