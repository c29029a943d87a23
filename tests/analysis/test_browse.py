"""browse_dataset: the pairs are those of the training run, and their ranges the distiller's."""

import importlib.util
import itertools
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmseg.structures import SegDataSample
from PIL import Image

from mtkd_cd.analysis import browse
from mtkd_cd.analysis.browse import (
    TrainingPair,
    pair_row,
    pairs_summary,
    partition_of,
    training_pairs,
)
from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.config import load_config
from mtkd_cd.engine.image_size import set_image_size
from mtkd_cd.engine.inputs import set_data

ROOT = Path(__file__).parents[2]
SIZE = 32
CHANGED = (0, 20, 40, 100, 150, 300, 500, 900)  # of 1024: three small, two medium, three large


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for number, changed in enumerate(CHANGED):
        label = (255 * (np.arange(SIZE * SIZE) < changed)).reshape(SIZE, SIZE).astype(np.uint8)
        pictures = [*rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8), label]
        for split, (folder, picture) in itertools.product(
            ('train', 'val', 'test'), zip(('A', 'B', 'label'), pictures)
        ):
            path = tmp_path / 'data' / split / folder / f'{number}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), picture)
    return tmp_path / 'data'


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location(
        'browse_tool', ROOT / 'tools/analysis/browse_dataset.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def _config(data, name='mtkd/fc_ef', options=None):
    cfg = load_config(ROOT / 'configs' / f'{name}.py', options)
    set_data(cfg, data)
    set_image_size(cfg, SIZE)
    return cfg


class Recorder(BaseModel):
    """Keeps what it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.seen += list(zip(inputs, data_samples))
        return dict(loss=self.weight.sum())


def test_the_pairs_are_the_first_that_training_sees(data, tmp_path):
    cfg = _config(data)
    model = Recorder()
    loader = dict(cfg.train_dataloader, batch_size=3, num_workers=0, persistent_workers=False)
    Runner(
        model=model,
        work_dir=str(tmp_path / 'work'),
        train_dataloader=loader,
        train_cfg=dict(type='mtkd_cd.ReplayableIterLoop', max_iters=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=None),
        randomness=dict(cfg.randomness),
        default_scope='mtkd_cd',
        experiment_name='browse',
    ).train()
    pairs = list(training_pairs(cfg, 6))
    assert len(pairs) == len(model.seen) == 6
    for pair, (inputs, sample) in zip(pairs, model.seen):
        assert pair.name == Path(sample.img_path[1]).name
        assert np.array_equal(pair.date_a, inputs[:3].flip(0).permute(1, 2, 0).numpy())
        assert np.array_equal(pair.date_b, inputs[3:].flip(0).permute(1, 2, 0).numpy())
        assert np.array_equal(pair.label, sample.gt_sem_seg.data[0].numpy())
    assert any((pair.label == 255).any() for pair in pairs)  # rotated


def test_another_seed_gives_other_pairs(data):
    first, second = (
        [pair.date_a for pair in training_pairs(_config(data), 4, seed)] for seed in (0, 1)
    )
    assert any(not np.array_equal(a, b) for a, b in zip(first, second))


def test_ranges_are_those_of_the_stored_label_and_of_open_cds_rule(data):
    differ = 0
    for pair in training_pairs(_config(data), 24):
        stored = CHANGED[int(Path(pair.name).stem)] / SIZE**2
        assert pair.stored_car == pytest.approx(stored)
        assert pair.range == ('small' if stored <= 0.05 else 'medium' if stored <= 0.2 else 'large')
        all_nonzero = (pair.label > 0).mean()
        assert pair.opencd_range == (
            'small' if all_nonzero < 0.05 else 'medium' if all_nonzero < 0.2 else 'large'
        )
        valid = pair.label != 255
        assert pair.car == pytest.approx((pair.label == 1).sum() / valid.sum())
        differ += pair.range != pair.opencd_range
    assert differ


def test_ranges_follow_the_distillers_settings(data):
    for pair in training_pairs(
        _config(data, options={'model.car_source': 'augmented', 'model.thresholds': (0.1,)}), 8
    ):
        assert pair.range == ('small' if pair.car <= 0.1 else 'large')
    for pair in training_pairs(_config(data, options={'model.compat': 'opencd'}), 8):
        assert pair.range == pair.opencd_range


@pytest.mark.parametrize('stage', ['origin', 'partition', 'op', 'mtkd'])
def test_tool_draws_configs_of_every_strategy(data, tool, tmp_path, capsys, stage):
    options = [
        '--data-root',
        str(data),
        '--image-size',
        str(SIZE),
        '--out',
        str(tmp_path / 'out'),
        '--num',
        '5',
        '--rows',
        '3',
    ]
    tool(
        [
            str(ROOT / f'configs/{stage}/fc_ef.py'),
            *options,
            *(['--partition', 'large'] if stage == 'partition' else []),
        ]
    )
    counts = re.search(
        r'5 pairs: small (\d), medium (\d), large (\d); Open-CD', capsys.readouterr().out
    ).groups()
    assert sum(map(int, counts)) == 5
    if stage == 'partition':
        assert counts == ('0', '0', '5')
    heights = [Image.open(tmp_path / f'out/pairs_{number}.png').height for number in (1, 2)]
    assert heights[0] > heights[1]
    assert len(list((tmp_path / 'out').glob('*.png'))) == 2


def test_a_row_says_the_ranges_and_draws_ignored_pixels_gray():
    image, label = np.zeros((2, 3, 3), np.uint8), np.array([[0, 1, 255], [0, 0, 1]])
    row = pair_row(TrainingPair('a.png', image, image, label, 0.1, 0.4, 'medium', 'large'))
    assert (
        row.caption == "a.png\nteacher's range: medium    stored CAR 10.00%, augmented 40.00%    "
        "Open-CD's rule: large"
    )
    assert row.tiles['label'].tolist() == [[0, 255, 127], [0, 0, 255]]
    row = pair_row(TrainingPair('a.png', image, image, label, None, 0.4, 'large', 'large'))
    assert row.caption == "a.png\nteacher's range: large    no stored CAR, augmented 40.00%"
    assert list(
        pair_row(TrainingPair('a.png', image, image, None, None, None, None, None)).tiles
    ) == ['A', 'B']


def test_pairs_whose_labels_training_does_not_see_have_no_range(data):
    cfg = _config(data)
    cfg.train_dataloader.dataset = dict(
        type='UnlabelledDataset', dataset=cfg.train_dataloader.dataset
    )
    pairs = list(training_pairs(cfg, 3))
    assert [(pair.label, pair.range, pair.opencd_range) for pair in pairs] == [(None,) * 3] * 3
    assert pairs_summary(pairs, CARPartition()) == (
        "3 pairs: small 0, medium 0, large 0, without a label 3; Open-CD's rule would choose "
        'another teacher for 0'
    )


def test_the_partition_is_the_models_or_the_datas_or_the_evaluators(data):
    assert partition_of(_config(data, options={'model.thresholds': (0.3,)})) == CARPartition((0.3,))
    assert partition_of(
        _config(data, 'partition/fc_ef', {'train_dataloader.dataset.thresholds': (0.1, 0.4)})
    ) == CARPartition((0.1, 0.4))
    assert partition_of(
        _config(data, 'origin/fc_ef', {'test_evaluator.thresholds': (0.5,)})
    ) == CARPartition((0.5,))
    assert partition_of(_config(data, 'origin/fc_ef')) == CARPartition((0.05, 0.2))


def test_a_config_without_training_data_is_refused(tool, tmp_path):
    config = tmp_path / 'bare.py'
    config.write_text("model = dict(type='X')\n")
    with pytest.raises(UserError, match=r'bare\.py has no train_dataloader'):
        tool([str(config)])


def test_unreadable_images_and_wrong_partitions_are_user_errors(data, tool, tmp_path):
    options = ['--data-root', str(data), '--out', str(tmp_path / 'out'), '--image-size', str(SIZE)]
    with pytest.raises(UserError, match='trains on no CAR range'):
        tool([str(ROOT / 'configs/origin/fc_ef.py'), *options, '--partition', 'small'])
    for path in (data / 'train/B').iterdir():
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r'train/B/\d\.png: has lost its end'):
        tool([str(ROOT / 'configs/origin/fc_ef.py'), *options])


def test_pairs_of_other_channels_are_refused(data):
    cfg = _config(data)
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='MultiImgLoadAnnotations'),
        dict(type='MultiImgPackSegInputs'),
    ]
    cfg.train_dataloader.dataset.pipeline[:0] = [
        dict(type='MultiImgLoadImageFromFile', color_type='grayscale')
    ]
    with pytest.raises(
        UserError, match=r'inputs is \(2, 32, 32\); a pair of RGB images has six channels'
    ):
        next(training_pairs(cfg, 1))


def test_of_many_bands_the_first_three_are_drawn():
    inputs = torch.arange(8.0).view(8, 1, 1).expand(8, 4, 4)
    sample = dict(inputs=inputs, data_samples=SegDataSample(metainfo=dict(img_path=['a', 'b'])))
    pair = browse._training_pair(sample, CARPartition(), {})
    assert pair.date_a[0, 0].tolist() == [0, 1, 2]
    assert pair.date_b[0, 0].tolist() == [4, 5, 6]
