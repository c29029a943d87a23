from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import MANIFEST
from mtkd_cd.drawing import ChangeVisualizationHook, error_map

NAMES = ('town/0.png', 'wood/0.png', 'im.v1.png', 'im.v2.png', 'x.png')
FOLDERS = {'A', 'B', 'label', 'prediction', 'error_map', 'panels'}


class PairDataset(BaseDataset):
    """Pairs of 6 x 8 images on disk; labels and predictions come along in the data sample."""

    def __init__(self, root, names=NAMES, labelled=True, scale=1):
        self.root, self.names, self.labelled, self.scale = root, names, labelled, scale
        super().__init__(test_mode=True)

    def load_data_list(self):
        return [
            dict(img_path=[f'{self.root}/A/{name}', f'{self.root}/B/{name}']) for name in self.names
        ]

    def prepare_data(self, idx):
        info = self.get_data_info(idx)
        sample = SegDataSample(metainfo=dict(img_path=info['img_path']))
        label, prediction = _masks(idx)
        if self.labelled:
            sample.gt_sem_seg = PixelData(
                data=torch.from_numpy(np.kron(label, np.ones((self.scale,) * 2, np.uint8)))[None]
            )
        return dict(inputs=torch.from_numpy(prediction)[None], data_samples=sample)


class Oracle(BaseModel):
    def forward(self, inputs, data_samples, mode):
        for prediction, sample in zip(inputs, data_samples):
            sample.pred_sem_seg = PixelData(data=prediction.long())
        return data_samples


def _masks(index):
    label, prediction = np.random.default_rng(index).integers(0, 2, (2, 6, 8), np.uint8)
    label[0, 0] = 255
    return label, prediction


def _image(index, date):
    return np.random.default_rng([index, date]).integers(0, 256, (6, 8, 3), np.uint8)


@pytest.fixture
def root(tmp_path):
    for index, name in enumerate(NAMES):
        for number, date in enumerate('AB'):
            path = tmp_path / 'data' / date / name
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), _image(index, number)[..., ::-1])
    return tmp_path / 'data'


def _run(dataset, tmp_path, batch_size=2, **kwargs):
    """Test with the hook as mmengine's test loop does; returns the folder with the pictures."""
    out_dir = tmp_path / 'pictures'
    hook = ChangeVisualizationHook(out_dir, **kwargs)
    hook.before_test_epoch(
        SimpleNamespace(test_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset)))
    )
    items = [dataset[index] for index in range(len(dataset))]
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        outputs = Oracle()(
            [item['inputs'] for item in batch], [item['data_samples'] for item in batch], 'predict'
        )
        hook.after_test_iter(None, start // batch_size, None, outputs)
    return out_dir


def _read(path):
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return picture if picture.ndim == 2 else picture[..., ::-1]


def _written(folder):
    files = [path for path in folder.rglob('*') if path.is_file() and path.name != MANIFEST]
    return {str(path.relative_to(folder)) for path in files}


def test_the_test_loop_writes_all_pictures_of_each_image(root, tmp_path):
    dataset = PairDataset(root)
    Runner(
        model=Oracle(),
        work_dir=str(tmp_path / 'work'),
        test_dataloader=dict(
            dataset=dataset,
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            num_workers=0,
        ),
        test_evaluator=dict(type='mtkd_cd.PerImageChangeMetric'),
        test_cfg={},
        custom_hooks=[
            dict(type='mtkd_cd.ChangeVisualizationHook', out_dir=str(tmp_path / 'pictures'))
        ],
    ).test()
    out_dir = tmp_path / 'pictures'
    assert _written(out_dir) == {f'{folder}/{name}' for folder in FOLDERS for name in NAMES}
    for index, name in enumerate(NAMES):
        label, prediction = _masks(index)
        assert (_read(out_dir / 'A' / name) == _image(index, 0)).all()
        assert (_read(out_dir / 'B' / name) == _image(index, 1)).all()
        assert (_read(out_dir / 'prediction' / name) == 255 * prediction).all()
        assert (
            _read(out_dir / 'label' / name) == np.choose(np.minimum(label, 2), [0, 255, 127])
        ).all()
        assert (_read(out_dir / 'error_map' / name) == error_map(prediction, label)).all()


def test_the_panel_shows_the_five_pictures(root, tmp_path):
    out_dir = _run(PairDataset(root), tmp_path)
    panel = _read(out_dir / 'panels' / NAMES[0])
    zoomed = (
        _read(out_dir / 'error_map' / NAMES[0]).repeat(32, 0).repeat(32, 1)
    )  # 8 -> 256 pixels wide
    assert any((panel[y : y + 192, -263:-7] == zoomed).all() for y in range(panel.shape[0] - 192))
    assert panel.shape[1] > 5 * 256


def test_pictures_have_the_labels_size(root, tmp_path):
    out_dir = _run(PairDataset(root, scale=3), tmp_path)
    assert {_read(out_dir / folder / 'x.png').shape[:2] for folder in FOLDERS - {'panels'}} == {
        (18, 24)
    }
    assert (
        _read(out_dir / 'prediction' / 'x.png') == 255 * np.kron(_masks(4)[1], np.ones((3, 3)))
    ).all()


def test_images_without_labels_get_no_error_map(root, tmp_path):
    out_dir = _run(PairDataset(root, labelled=False), tmp_path)
    # A ledger lies beside them.
    folders = {path.name for path in out_dir.iterdir() if path.is_dir()}
    assert folders == {'A', 'B', 'prediction', 'panels'}


def test_every_nth_image_up_to_a_number_is_drawn(root, tmp_path):
    out_dir = _run(PairDataset(root), tmp_path, interval=2, max_images=2)
    assert _written(out_dir / 'panels') == {NAMES[0], NAMES[2]}


def test_a_second_test_starts_counting_anew(root, tmp_path):
    hook = ChangeVisualizationHook(tmp_path / 'pictures', max_images=1)
    dataset = PairDataset(root)
    runner = SimpleNamespace(test_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset)))
    item = dataset[0]
    outputs = Oracle()([item['inputs']], [item['data_samples']], 'predict')
    for _ in range(2):
        (tmp_path / 'pictures' / 'panels' / NAMES[0]).unlink(missing_ok=True)
        hook.before_test_epoch(runner)
        hook.after_test_iter(runner, 0, None, outputs)
        assert _written(tmp_path / 'pictures' / 'panels') == {NAMES[0]}


def test_each_process_draws_its_own_images_and_none_that_the_sampler_repeats(
    root, tmp_path, monkeypatch
):
    drawn = []
    dataset = PairDataset(root)
    for rank in range(2):
        monkeypatch.setattr('mtkd_cd.drawing.hook.get_dist_info', lambda rank=rank: (rank, 2))
        share = PairDataset(root, names=[NAMES[index % 5] for index in range(rank, 6, 2)])
        hook = ChangeVisualizationHook(tmp_path / str(rank))
        hook.before_test_epoch(
            SimpleNamespace(test_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset)))
        )
        for index in range(3):
            item = share[index]
            hook.after_test_iter(
                None, index, None, Oracle()([item['inputs']], [item['data_samples']], 'predict')
            )
        drawn.append(_written(tmp_path / str(rank) / 'panels'))
    assert drawn == [{NAMES[0], NAMES[2], NAMES[4]}, {NAMES[1], NAMES[3]}]


def test_images_of_another_format_become_png_files(tmp_path):
    for date in 'AB':
        (tmp_path / 'data' / date).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'data' / date / 'a.b.jpg'), np.zeros((6, 8, 3), np.uint8))
    out_dir = _run(PairDataset(tmp_path / 'data', names=['a.b.jpg']), tmp_path)
    assert _written(out_dir / 'A') == {'a.b.png'}
    assert (out_dir / 'A' / 'a.b.png').read_bytes().startswith(b'\x89PNG')


def test_the_caption_tells_name_cars_scores_and_the_cascades_range(root, tmp_path, monkeypatch):
    captions = []
    monkeypatch.setattr(
        'mtkd_cd.drawing.hook.compose_panel',
        lambda tiles, caption: captions.append(caption) or np.zeros((1, 1), np.uint8),
    )
    dataset = PairDataset(root, names=NAMES[:1])
    label = np.array([[1, 1, 0, 0, 0, 0, 0, 255]], np.uint8)
    sample = dataset[0]['data_samples']
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(label)[None])
    sample.pred_sem_seg = PixelData(data=torch.tensor([[[1, 0, 0, 0, 0, 0, 0, 1]]]))
    sample.set_metainfo(dict(coarse_car=0.25, range='large'))
    hook = ChangeVisualizationHook(Path(tmp_path))
    hook.before_test_epoch(
        SimpleNamespace(test_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset)))
    )
    hook.after_test_iter(None, 0, None, [sample])
    for part in (
        '0.png\n',
        'CAR 28.57%',
        'predicted CAR 14.29%',
        'IoU of change 50.0',
        'mIoU 66.7',
        'range large (coarse CAR 25.00%)',
    ):
        assert part in captions[0]


def test_an_unreadable_image_is_named(root, tmp_path):
    (root / 'B' / 'x.png').write_bytes(b'no image')
    with pytest.raises(UserError, match=r'B/x\.png'):
        _run(PairDataset(root), tmp_path)


@pytest.mark.parametrize('kwargs', [dict(interval=0), dict(max_images=-1)])
def test_bad_arguments_are_refused(kwargs):
    with pytest.raises(UserError, match='draw every n-th image'):
        ChangeVisualizationHook('pictures', **kwargs)
