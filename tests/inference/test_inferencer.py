"""Pairs of images through the inferencer: the same maps as a test of the config gives."""

import json
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from PIL import Image

from mtkd_cd.apis import ChangeInferencer, inference_model, init_model
from mtkd_cd.core.checkpoint import read_weights, save_checkpoint
from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.config import load_config
from mtkd_cd.evaluation import load_table
from mtkd_cd.inference.predictor import (
    change_probability,
    model_from_config,
    model_from_detector,
)
from mtkd_cd.models.prepare import prepare
from mtkd_cd.registry import TRANSFORMS
from tests.inference.conftest import Constant

CONFIGS = Path(__file__).parents[2] / 'configs'
NAMES = sorted(path.stem for path in (CONFIGS / 'origin').glob('*.py'))
SLOW = (
    'ban_vitl14_mitb2',
    'cgnet_vgg16',
    'changer_s50',
    'changestar_farseg_r18',
    'changestar_upernet_r18',
    'hanet',
    'ifn_vgg16',
    'ttp_vitsam_l',
)
HEIGHT, WIDTH = 64, 96
# Few and narrow layers for the models of hundreds of millions of parameters.
SHALLOW = dict(
    ban_vitl14_mitb2=dict(
        encoder_resolution=dict(size=(42, 56)),
        image_encoder=dict(
            img_size=(42, 56), embed_dims=32, num_layers=4, num_heads=4, out_indices=(1, 2, 3)
        ),
        decode_head=dict(
            ban_cfg=dict(
                clip_channels=32,
                side_enc_cfg=dict(init_cfg=None, embed_dims=8, num_layers=[1, 1, 1, 1]),
            ),
            ban_dec_cfg=dict(in_channels=[8, 16, 40, 64]),
        ),
    ),
    ttp_vitsam_l=dict(
        backbone=dict(
            encoder_cfg=dict(
                arch=dict(
                    _delete_=True,
                    embed_dims=32,
                    num_layers=3,
                    num_heads=4,
                    feedforward_channels=64,
                    global_attn_indexes=(2,),
                ),
                img_size=(64, 96),
                window_size=3,
            )
        ),
        decode_head=dict(out_size=(16, 16)),
    ),
)
TINY = {
    'model.backbone.base_channel': 4,
    'model.decode_head.in_channels': 4,
    'model.decode_head.channels': 4,
}


def config_of(name: str, folder: str = 'origin') -> Config:
    cfg = load_config(CONFIGS / folder / f'{name}.py')
    cfg.merge_from_dict(dict(model=SHALLOW.get(name, {})))
    if 'pretrained' in cfg.model:
        cfg.model.pretrained = None
    return cfg


@pytest.fixture
def pairs(tmp_path) -> list[list[str]]:
    """Three pairs of PNG files with labels."""
    rng = np.random.default_rng(0)
    for folder in ('A', 'B', 'label'):
        (tmp_path / folder).mkdir()
    found = []
    for index in range(3):
        a, b = (
            cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), (0, 0), 2)
            for _ in 'ab'
        )
        label = np.zeros((HEIGHT, WIDTH), np.uint8)
        label[: 20 * index + 5, 10:40] = 255
        for folder, array in (('A', a), ('B', b), ('label', label)):
            cv2.imwrite(str(tmp_path / folder / f'{index}.png'), array)
        found.append([str(tmp_path / date / f'{index}.png') for date in 'AB'])
    return found


def as_tested(model, cfg: Config, pairs) -> list:
    """The samples that a test of the config gives: its pipeline, one pair at a time."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mtkd_cd')):
        steps = [TRANSFORMS.build(step) for step in cfg.test_dataloader.dataset.pipeline]
    samples = []
    for a, b in pairs:
        label = a.replace('/A/', '/label/')
        results = dict(
            img_path=[a, b],
            seg_map_path=label,
            format_seg_map='to_binary',
            reduce_zero_label=False,
            label_map=None,
            seg_fields=[],
        )
        for step in steps:
            results = step(results)
        with torch.no_grad():
            samples += model.test_step(pseudo_collate([results]))
    return samples


def maps_of(samples) -> list[np.ndarray]:
    return [sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8) for sample in samples]


def balanced(model, cfg, pairs) -> None:
    """Move a two-class head's bias so that either class is predicted somewhere."""
    (sample, *_) = as_tested(model, cfg, pairs)
    logits = sample.seg_logits.data
    if len(logits) == 2 and hasattr(model.decode_head, 'conv_seg'):
        bias = getattr(model.decode_head.conv_seg, 'bias', None)
        if bias is not None:
            bias.data[1] -= (logits[1] - logits[0]).median()


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in NAMES]
)
def test_change_map_equals_that_of_a_test_pixel_for_pixel(name, pairs):
    torch.manual_seed(0)
    cfg = config_of(name)
    model = init_model(cfg, device='cpu')
    balanced(model, cfg, pairs)
    # A test of the tools predicts with the detector prepared, and so does the inferencer.
    expected = maps_of(as_tested(prepare(model), cfg, pairs))
    inferencer = ChangeInferencer(model, device='cpu')
    results = inferencer(pairs, batch_size=1)
    together = inferencer(pairs)
    for result, other, wanted in zip(results, together, expected):
        assert np.abs(result.probability - other.probability).max() <= 1e-5
        assert (result.change == wanted).all()
        assert result.change.dtype == np.uint8
        assert result.probability.dtype == np.float32
        assert result.probability.shape == (HEIGHT, WIDTH)
        assert result.valid.all()
        assert result.car == wanted.mean()
    (unprepared,) = as_tested(model, cfg, pairs[:1])
    assert (maps_of([inference_model(model, pairs[0])])[0] == maps_of([unprepared])[0]).all()


def test_bfloat16_probabilities_are_those_of_autocast(pairs, convolved):
    cfg = config_of('changer_mitb0')
    torch.manual_seed(0)
    model = init_model(cfg, device='cpu')
    balanced(model, cfg, pairs)
    with torch.autocast('cpu', torch.bfloat16):
        samples = as_tested(model, cfg, pairs)
    wanted = [change_probability(one.seg_logits.data[None].float())[0].numpy() for one in samples]
    exact = ChangeInferencer(model, device='cpu')(pairs)
    inferencer = ChangeInferencer(model, device='cpu', precision='bfloat16')
    inferencer(pairs)
    convolved.clear()
    results = inferencer(pairs)
    assert convolved == {torch.bfloat16}
    tested = inference_model(prepare(model, precision='bfloat16'), pairs[0])
    assert (maps_of([tested])[0] == inferencer(pairs, batch_size=1)[0].change).all()
    for result, other, expected in zip(results, exact, wanted, strict=True):
        assert result.probability.dtype == np.float32
        rounding = np.abs(expected - other.probability).max()
        assert 0 < np.abs(result.probability - other.probability).max() < 2 * rounding < 0.1
        assert np.abs(result.probability - expected).max() < 2 * rounding
        assert (result.report['precision'], other.report['precision']) == ('bfloat16', 'float32')


def test_precision_of_each_inferencer_is_its_own(pairs, tmp_path):
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py', TINY)
    model = model_from_detector(init_model(cfg, device='cpu'))
    before = ChangeInferencer(model, device='cpu')(pairs)
    low = ChangeInferencer(model, device='cpu', precision='bfloat16')(pairs)
    again = ChangeInferencer(model, device='cpu')(pairs)
    for one, other, rounded in zip(before, again, low, strict=True):
        assert (one.probability == other.probability).all()
        assert (one.probability != rounded.probability).any()


def test_there_are_21():
    assert len(NAMES) == 21


@pytest.mark.parametrize('scale', [(48, 48), (128, 192)])
def test_resized_images_too(pairs, scale):
    torch.manual_seed(1)
    cfg = config_of('fc_siam_diff')
    cfg.test_dataloader.dataset.pipeline.insert(
        1, dict(type='MultiImgResize', scale=scale, keep_ratio=True)
    )
    model = init_model(cfg, device='cpu')
    balanced(model, cfg, pairs)
    expected = maps_of(as_tested(prepare(model), cfg, pairs))
    assert 0 < expected[0].mean() < 1
    for result, wanted in zip(ChangeInferencer(model, device='cpu')(pairs, batch_size=1), expected):
        assert (result.change == wanted).all()


def test_scores_equal_those_of_the_tool(pairs, tmp_path, tool):
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py', TINY)
    torch.manual_seed(3)
    model = init_model(cfg, device='cpu')
    # The tool reads the config on its own: the bias travels in the checkpoint.
    balanced(model, cfg, pairs)
    save_checkpoint(dict(state_dict=model.state_dict()), tmp_path / 'w.pth')
    root = tmp_path / 'data' / 'test'
    root.mkdir(parents=True)
    for folder in ('A', 'B', 'label'):
        (tmp_path / folder).rename(root / folder)
    pairs = [[str(root / date / Path(a).name) for date in 'AB'] for a, _ in pairs]
    code, error = tool(
        'test',
        CONFIGS / 'origin' / 'fc_ef.py',
        tmp_path / 'w.pth',
        '--work-dir',
        tmp_path / 'work',
        '--data-root',
        tmp_path / 'data',
        '--device',
        'cpu',
        '--cfg-options',
        *(f'{key}={value}' for key, value in TINY.items()),
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        'log_level=ERROR',
    )
    assert code == 0, error
    table = load_table(tmp_path / 'work' / 'per_image.json')
    inferencer = ChangeInferencer(
        CONFIGS / 'origin' / 'fc_ef.py', tmp_path / 'w.pth', device='cpu', cfg_options=TINY
    )
    assert len(table.counts) == 3
    for (a, _), result in zip(pairs, inferencer(pairs, batch_size=1)):
        label = cv2.imread(a.replace('/A/', '/label/'), 0) > 0
        change = result.change > 0
        counts = [
            (change & label).sum(),
            (change & ~label).sum(),
            (~change & label).sum(),
            (~change & ~label).sum(),
        ]
        (index,) = [i for i, file in enumerate(table.files) if Path(file).name == Path(a).name]
        assert sorted(table.counts[index]) == sorted(counts)


def test_arrays_are_rgb_unless_said_otherwise(pairs):
    model = init_model(load_config(CONFIGS / 'origin' / 'fc_ef.py', TINY), device='cpu')
    inferencer = ChangeInferencer(model, device='cpu')
    (wanted,) = inferencer(pairs[:1])
    bgr = [cv2.imread(path) for path in pairs[0]]
    rgb = [np.ascontiguousarray(image[:, :, ::-1]) for image in bgr]
    (from_bgr,) = inferencer([bgr], channel_order='bgr')
    (from_rgb,) = inferencer([rgb])
    (swapped,) = inferencer([bgr])
    assert (from_bgr.probability == wanted.probability).all()
    assert (from_rgb.probability == wanted.probability).all()
    assert (swapped.probability != wanted.probability).any()


def test_pairs_of_unequal_sizes_and_a_folder_for_the_maps(pairs, tmp_path):
    small = [cv2.imread(path)[:33, :50] for path in pairs[0]]
    model = init_model(load_config(CONFIGS / 'origin' / 'fc_ef.py', TINY), device='cpu')
    results = ChangeInferencer(model, device='cpu')(
        [pairs[0], small, pairs[1]], out_dir=tmp_path / 'maps', channel_order='bgr'
    )
    assert [result.change.shape for result in results] == [(64, 96), (33, 50), (64, 96)]
    for name, result in zip(('0', '00001', '1'), results):
        written = cv2.imread(str(tmp_path / 'maps' / f'{name}.png'), cv2.IMREAD_UNCHANGED)
        assert (written == result.change * 255).all()


def test_maps_go_neither_over_images_nor_over_the_files_of_others(pairs, tmp_path):
    model = init_model(load_config(CONFIGS / 'origin' / 'fc_ef.py', TINY), device='cpu')
    inferencer = ChangeInferencer(model, device='cpu')
    inferencer(pairs[:1], out_dir=tmp_path / 'maps')
    inferencer(pairs[:2], out_dir=tmp_path / 'maps')  # its own are written over
    before = {path: path.read_bytes() for path in tmp_path.rglob('*.png')}
    for place in (tmp_path / 'A', tmp_path / 'B' / 'below'):
        with pytest.raises(UserError, match='where the data are read from'):
            inferencer(pairs, out_dir=place)
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / '1.png').write_bytes(b'mine')
    with pytest.raises(UserError, match=r'1\.png is there already, and was not made by this tool'):
        inferencer(pairs, out_dir=tmp_path / 'mine')
    assert [path.name for path in (tmp_path / 'mine').iterdir()] == ['1.png']
    a, b = pairs[0]
    with pytest.raises(UserError, match=r'would both give .*0\.png'):
        inferencer([[a, b], [b, a]], out_dir=tmp_path / 'two')
    (tmp_path / 'mine' / '1.png').unlink()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob('*.png')}


class TestCascade:
    @pytest.fixture
    def cascade(self, tmp_path) -> Config:
        """A cascade whose detectors differ, so that it matters who serves."""
        cfg = load_config(CONFIGS / 'op' / 'fc_ef.py')
        cfg.merge_from_dict(
            {
                'model.origin.backbone.base_channel': 4,
                'model.origin.decode_head.in_channels': 4,
                'model.origin.decode_head.channels': 4,
            }
        )
        origin = load_config(CONFIGS / 'origin' / 'fc_ef.py', TINY)
        cfg.model.checkpoints = {}
        for seed, name in enumerate(('origin', 'small', 'medium', 'large')):
            torch.manual_seed(seed)
            model = init_model(origin, device='cpu')
            path = tmp_path / f'{name}.pth'
            save_checkpoint(dict(state_dict=model.state_dict()), path)
            cfg.model.checkpoints[name] = str(path)
        return cfg

    def shift_origin(self, cfg, amount):
        path = cfg.model.checkpoints['origin']
        weights = read_weights(path)
        weights['decode_head.conv_seg.bias'][1] += amount
        save_checkpoint(dict(state_dict=weights), path)

    def test_equals_the_cascade_of_a_test(self, cascade, pairs):
        whole = init_model(cascade, device='cpu')
        samples = as_tested(whole, cascade, pairs)
        for model in (cascade, whole):
            results = ChangeInferencer(model, device='cpu')(pairs, batch_size=1)
            for result, sample in zip(results, samples):
                assert (result.change == maps_of([sample])[0]).all()
                assert result.detector == sample.detector

    @pytest.mark.parametrize(('amount', 'detector'), [(-1e3, 'small'), (1e3, 'large')])
    def test_only_needed_detectors_are_loaded(self, cascade, pairs, amount, detector):
        self.shift_origin(cascade, amount)
        model = model_from_config(cascade, device='cpu')
        results = ChangeInferencer(model, device='cpu')(pairs)
        assert [result.detector for result in results] == [detector] * 3
        assert set(model.loaded) == {'origin', detector}

    def test_every_detector_computes_in_the_precision(self, cascade, pairs, convolved):
        whole = init_model(cascade, device='cpu')
        exact = ChangeInferencer(cascade, device='cpu')(pairs)
        for model in (cascade, whole):
            inferencer = ChangeInferencer(model, device='cpu', precision='bfloat16')
            results = inferencer(pairs)
            assert {result.detector for result in results} - {'origin'}
            convolved.clear()
            inferencer(pairs)
            assert convolved == {torch.bfloat16}
            for result, wanted in zip(results, exact, strict=True):
                assert result.detector == wanted.detector
                assert 0 < np.abs(result.probability - wanted.probability).max() < 0.02

    def test_raster_in_one_window_equals_the_cascade(
        self, cascade, scene, write_raster, tmp_path, read
    ):
        a, b = scene(96, 128)
        result = ChangeInferencer(cascade, device='cpu').predict_raster(
            write_raster('a.tif', a),
            write_raster('b.tif', b),
            tmp_path / 'o.tif',
            probability=tmp_path / 'p.tif',
            probability_dtype='float32',
            detector_band=True,
        )
        whole = init_model(cascade, device='cpu')
        bgr = np.concatenate([a[::-1], b[::-1]])
        with torch.no_grad():
            (sample,) = whole.test_step(
                dict(inputs=[torch.from_numpy(bgr.copy())], data_samples=None)
            )
        assert (read(tmp_path / 'o.tif') == maps_of([sample])[0]).all()
        expected = change_probability(sample.seg_logits.data[None])[0].numpy()
        assert (read(tmp_path / 'p.tif') == expected).all()
        assert result.detectors == (sample.detector,)
        import rasterio

        with rasterio.open(tmp_path / 'o.tif') as file:
            names = json.loads(file.tags()['MTKD_CD_DETECTORS'])
            assert set(np.unique(file.read(2))) == {names.index(sample.detector)}

    def test_picture_has_no_band_for_the_detectors(self, cascade, scene, write_raster, tmp_path):
        first, second = (write_raster(f'{i}.tif', date) for i, date in enumerate(scene(96, 128)))
        with pytest.raises(UserError, match=r'--detector-band: .*o\.png holds one band'):
            ChangeInferencer(cascade, device='cpu').predict_raster(
                first, second, tmp_path / 'o.png', detector_band=True
            )
        assert not (tmp_path / 'o.png').exists()

    def test_windows_are_served_by_the_range_of_their_own_car(
        self, scene, write_raster, tmp_path, read
    ):
        import rasterio

        from mtkd_cd.core.car import CARPartition
        from mtkd_cd.inference.predictor import Model
        from mtkd_cd.models.mtkd.routing import car_routing
        from tests.inference.conftest import Constant, Difference, model_of

        values = dict(small=0.6, medium=0.7, large=0.8)
        base = model_of(Difference(), threshold=0.5)
        partition = CARPartition()
        model = Model(
            base.card,
            {
                'origin': Difference,
                **{name: (lambda value=value: Constant(value)) for name, value in values.items()},
            },
            car_routing(partition),
            partition,
        )
        a = np.full((3, 64, 192), 100, np.uint8)
        b = a.copy()
        b[:, :10, 64:128] = 255  # 15.6 % of the second window
        b[:, :, 128:] = 255
        files = write_raster('a.tif', a), write_raster('b.tif', b)
        inferencer = ChangeInferencer(model, device='cpu')
        result = inferencer.predict_raster(
            *files,
            tmp_path / 'o.tif',
            probability=tmp_path / 'p.tif',
            overlap=0,
            detector_band=True,
        )
        stored = read(tmp_path / 'p.tif')
        assert [np.unique(stored[:, i : i + 64]).tolist() for i in (0, 64, 128)] == [
            [150],
            [175],
            [200],
        ]
        with rasterio.open(tmp_path / 'o.tif') as file:
            assert [np.unique(file.read(2)[:, i]).tolist() for i in (0, 64, 128)] == [[1], [2], [3]]
        assert result.detectors == ('small', 'medium', 'large')
        # All of it together: 38.5 % changed.
        result = inferencer.predict_raster(
            *files, tmp_path / 'r.tif', probability=tmp_path / 'q.tif', overlap=0, route='raster'
        )
        assert np.unique(read(tmp_path / 'q.tif')).tolist() == [200]
        assert result.detectors == ('large',)
        with pytest.warns(UserWarning, match='window=32.*thresholds hold for windows of 64'):
            inferencer.predict_raster(*files, tmp_path / 's.tif', window=32)

    def test_missing_checkpoint_is_named_with_its_command(self, pairs):
        with pytest.raises(UserError, match=r'origin/fc_ef/best\.pth.*tools/train\.py|mtkd-cd'):
            ChangeInferencer(CONFIGS / 'op' / 'fc_ef.py', device='cpu')


def test_distillers_config_gives_its_student(pairs, tmp_path):
    origin = init_model(load_config(CONFIGS / 'origin' / 'fc_ef.py', TINY), device='cpu')
    save_checkpoint(dict(state_dict=origin.state_dict()), tmp_path / 'best.pth')
    cfg = load_config(CONFIGS / 'mtkd' / 'fc_ef.py')
    for key, value in TINY.items():
        cfg.merge_from_dict({key.replace('model.', 'model.student.'): value})
    (wanted,) = ChangeInferencer(origin, device='cpu')(pairs[:1])
    (found,) = ChangeInferencer(cfg, tmp_path / 'best.pth', device='cpu')(pairs[:1])
    assert (found.probability == wanted.probability).all()


def test_student_of_a_foreign_scope(pairs, tmp_path, monkeypatch):
    package = tmp_path / 'package'
    package.mkdir()
    (package / 'foreigncd.py').write_text(
        textwrap.dedent("""
        from mmengine.registry import MODELS as ROOT, Registry
        from mmseg.models import EncoderDecoder
        from torch import nn
        MODELS = Registry('model', parent=ROOT, scope='foreigncd', locations=['foreigncd'])

        @MODELS.register_module()
        class ForeignDetector(EncoderDecoder):
            pass

        @MODELS.register_module()
        class OneLayer(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(6, 8, 3, 2, 1)

            def forward(self, x):
                return (self.conv(x),)
        """)
    )
    config = tmp_path / 'student.py'
    config.write_text(
        textwrap.dedent("""
        default_scope = 'foreigncd'
        custom_imports = dict(imports=['foreigncd', 'mtkd_cd'])
        model = dict(
            type='ForeignDetector',
            data_preprocessor=dict(type='mtkd_cd.DualInputSegDataPreProcessor',
                                   mean=[100.0] * 6, std=[50.0] * 6, bgr_to_rgb=False),
            backbone=dict(type='OneLayer'),
            decode_head=dict(type='mmseg.FCNHead', in_channels=8, channels=8, num_classes=2,
                             num_convs=1, concat_input=False,
                             loss_decode=dict(type='mmseg.CrossEntropyLoss')),
            train_cfg=dict(), test_cfg=dict(mode='whole'))
        test_pipeline = [
            dict(type='mtkd_cd.MultiImgLoadImageFromFile'),
            dict(type='mtkd_cd.MultiImgLoadAnnotations'),
            dict(type='mtkd_cd.MultiImgPackSegInputs')]
        test_dataloader = dict(dataset=dict(type='mtkd_cd.CDDataset', pipeline=test_pipeline))
        """)
    )
    monkeypatch.syspath_prepend(package)
    try:
        model = init_model(config, device='cpu')
        save_checkpoint(dict(state_dict=model.state_dict()), tmp_path / 'w.pth')
        expected = maps_of(as_tested(model, model.cfg, pairs))
        results = ChangeInferencer(config, tmp_path / 'w.pth', device='cpu')(pairs)
        for result, wanted in zip(results, expected):
            assert (result.change == wanted).all()
    finally:
        sys.modules.pop('foreigncd', None)


def test_probability_is_above_one_half_exactly_where_argmax_is_change():
    margins = torch.tensor([1e-9, -1e-9, 0.0, 1e-30, 3.0, -3.0])
    logits = torch.stack([torch.zeros(6), margins])[None, :, None]
    found = change_probability(logits)[0, 0]
    assert (found > 0.5).tolist() == [True, False, False, True, True, False]
    np.testing.assert_allclose(found, torch.sigmoid(margins), atol=1e-6)


def test_temperature_flattens():
    logits = torch.tensor([[0.0], [2.0]])[None, :, :, None]
    assert change_probability(logits, 2.0).item() == pytest.approx(torch.tensor(1.0).sigmoid())
    stored = torch.tensor(2.0).sigmoid().view(1, 1, 1, 1)  # as mmseg gives it
    assert change_probability(stored, 2.0).item() == pytest.approx(torch.tensor(1.0).sigmoid())


class TestRefusals:
    def test_checkpoint_in_the_place_of_a_model(self, tmp_path):
        with pytest.raises(UserError, match='is a checkpoint: give its config'):
            ChangeInferencer(tmp_path / 'best.pth')

    def test_unknown_backend_and_device(self):
        with pytest.raises(UserError, match="backend='tensorrt': 'torch', 'onnx' or 'openvino'"):
            ChangeInferencer('x.py', backend='tensorrt')
        with pytest.raises(UserError, match="device='gpu': auto, cpu, cuda"):
            ChangeInferencer('x.py', device='gpu')

    def test_one_pair_instead_of_a_list(self, pairs):
        model = init_model(load_config(CONFIGS / 'origin' / 'fc_ef.py', TINY), device='cpu')
        with pytest.raises(UserError, match=r'list of pairs: \[\[a, b\]\]'):
            ChangeInferencer(model, device='cpu')(pairs[0])


def test_what_is_no_image_is_named(inferencer_of):
    inferencer = inferencer_of(Constant(0.7))
    array = np.zeros((8, 8, 3), np.uint8)
    for pair, text in (
        ([Image.fromarray(array)] * 2, r'numpy.asarray\(image\) .* found Image and Image'),
        ([torch.zeros(8, 8, 3)] * 2, 'found Tensor and Tensor'),
        (['a.png', array], 'found str and ndarray'),
        ([None, array], 'found NoneType and ndarray'),
        ('a.png', 'found str for a pair'),
        ({'a.png', 'b.png'}, 'found set for a pair'),  # which is date A?
        ({'a': array, 'b': array}, 'found dict for a pair'),
    ):
        with pytest.raises(UserError, match=text):
            inferencer([pair])
    with pytest.raises(UserError, match='pairs is a list of pairs'):
        inferencer([array, array])
    assert len(inferencer(zip([array, array], [array, array]))) == 2


@pytest.mark.parametrize('kind', ['masked array', 'GeoTIFF'])
def test_pixels_without_data_are_not_known(inferencer_of, tmp_path, kind):
    rasterio = pytest.importorskip('rasterio')
    array = np.full((20, 30, 3), 90, np.uint8)
    array[4:9, 10:20, 1] = 7  # one band says that there are no data
    if kind == 'masked array':
        pair = [np.ma.masked_equal(array, 7), array]
    else:
        pair = [tmp_path / 'a.tif', tmp_path / 'b.tif']
        for path, nodata in zip(pair, (7, None)):
            profile = dict(width=30, height=20, count=3, dtype='uint8', photometric='rgb')
            with rasterio.open(path, 'w', driver='GTiff', nodata=nodata, **profile) as file:
                file.write(array.transpose(2, 0, 1))
    (result,) = inferencer_of(Constant(0.7))([pair])
    known = np.ones((20, 30), bool)
    known[4:9, 10:20] = False
    np.testing.assert_array_equal(result.valid, known)
    np.testing.assert_array_equal(result.change, known)
    np.testing.assert_array_equal(np.isnan(result.probability), ~known)
    assert result.car == 1  # of what is known
