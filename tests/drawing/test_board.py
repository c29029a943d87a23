"""ChangeBoardHook and the trackers, read back from what they wrote."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from mtkd_cd.core.errors import UserError
from mtkd_cd.drawing import ChangeBoardHook, TrackingVisualizer
from mtkd_cd.engine.config import load_config

ROOT = Path(__file__).parents[2]
NAMES = tuple(f'{folder}/{number}.png' for folder in ('town', 'wood') for number in range(3))
SIZE = 20
# Changed pixels of 400, so that three images are small, two medium and one large.
CHANGED = (4, 40, 200, 8, 12, 60)


class PairDataset(BaseDataset):
    def __init__(self, root):
        self.root = root
        super().__init__()

    def load_data_list(self):
        return [dict(img_path=[f'{self.root}/A/{name}', f'{self.root}/B/{name}']) for name in NAMES]

    def prepare_data(self, idx):
        label = (torch.arange(SIZE * SIZE) < CHANGED[idx]).view(1, SIZE, SIZE).long()
        sample = SegDataSample(metainfo=self.get_data_info(idx))
        sample.gt_sem_seg = PixelData(data=label)
        return dict(inputs=torch.zeros(6, SIZE, SIZE), data_samples=sample)


class Learner(BaseModel):
    """Predicts no change before iteration 2, and all that changed from then on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.steps = 0

    def forward(self, inputs, data_samples, mode):
        if mode == 'loss':
            self.steps += 1
            return dict(loss=self.weight.sum())
        for sample in data_samples:
            sample.pred_sem_seg = PixelData(data=sample.gt_sem_seg.data * int(self.steps > 2))
        return data_samples


_count = itertools.count()


def _train(tmp_path, visualizer, board=None):
    """Four iterations with a validation after the second and the fourth; returns the folder of the
    visualiser's files."""
    rng = np.random.default_rng(0)
    for name, date in itertools.product(NAMES, 'AB'):
        path = tmp_path / 'data' / date / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8))
    dataset = PairDataset(tmp_path / 'data')
    loader = dict(dataset=dataset, batch_size=2, num_workers=0)
    runner = Runner(
        model=Learner(),
        work_dir=str(tmp_path / 'work'),
        train_dataloader=dict(loader, sampler=dict(type='InfiniteSampler', shuffle=True)),
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=dict(type='mtkd_cd.PerImageChangeMetric'),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2),
        val_cfg={},
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
            checkpoint=None,
            board=dict(type='mtkd_cd.ChangeBoardHook', **(board or {})),
        ),
        log_processor=dict(by_epoch=False),
        visualizer=visualizer,
        experiment_name=f'board{next(_count)}',
    )
    runner.train()
    return Path(runner.log_dir) / 'vis_data'


def _events(folder):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    events = accumulator.EventAccumulator(str(folder), size_guidance={'images': 0, 'scalars': 0})
    events.Reload()
    return events


def test_tensorboard_gets_the_same_images_and_the_scores_of_each_range_at_each_validation(tmp_path):
    events = _events(_train(tmp_path, dict(type='mtkd_cd.TrackingVisualizer'), dict(max_images=3)))
    tags = events.Tags()
    assert sorted(tags['images']) == ['val_town_0', 'val_town_2', 'val_wood_1']
    for tag in tags['images']:
        first, second = events.Images(tag)
        assert (first.step, second.step) == (2, 4)
        assert (
            first.encoded_image_string != second.encoded_image_string
        )  # the prediction has changed in between
    for tag, before in {'mIoU_small': 49.0, 'mIoU_medium': 43.75, 'mIoU_large': 25.0}.items():
        # No change predicted: IoU 0 of change; of no change the share of unchanged pixels, 98, 87.5
        # and 50 % in the mean.
        assert [(event.step, event.value) for event in events.Scalars(tag)] == [
            (2, pytest.approx(before)),
            (4, pytest.approx(100)),
        ]
    assert {'mIoU', 'pooled_mIoU', 'IoU_changed', 'loss', 'lr'} <= set(tags['scalars'])
    assert [event.step for event in events.Scalars('loss')] == [1, 2, 3, 4]


def test_mmengines_own_visualiser_gets_the_panels_too(tmp_path):
    folder = _train(tmp_path, None, dict(indices=[5, 0]))
    files = sorted(path.name for path in (folder / 'vis_image').iterdir())
    assert files == ['val_town_0_2.png', 'val_town_0_4.png', 'val_wood_2_2.png', 'val_wood_2_4.png']
    with Image.open(folder / 'vis_image' / files[0]) as panel:
        assert panel.width > 5 * 256


@pytest.mark.parametrize(
    ('arguments', 'shown'),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (dict(max_images=4), [0, 3, 6, 9]),
        (dict(max_images=0), []),
        (dict(interval=4), [0, 4, 8]),
        (dict(interval=2, max_images=2), [0, 2]),
        (dict(indices=[7, 2]), [2, 7]),
        (dict(indices=3), [3]),
    ],
)
def test_images_are_chosen_by_index_by_interval_or_evenly(arguments, shown):
    hook = ChangeBoardHook(**{'max_images': 10, **arguments})
    dataset = SimpleNamespace(__len__=lambda: 10)
    hook.before_val_epoch(
        SimpleNamespace(
            val_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=[dataset] * 10))
        )
    )
    assert [index for index in range(10) if hook._wants(index)] == shown


def test_an_index_beyond_the_validation_set_is_refused():
    hook = ChangeBoardHook(indices=[0, 10])
    with pytest.raises(
        UserError, match=r'indices=\[0, 10\]: the validation set has 10 images, 0 to 9'
    ):
        hook.before_val_epoch(
            SimpleNamespace(
                val_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=[None] * 10))
            )
        )


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(indices=[1], interval=2), 'leave one out'),
        (dict(interval=0), 'draw every n-th'),
        (dict(max_images=-1), 'draw every n-th'),
    ],
)
def test_bad_choices_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        ChangeBoardHook(**arguments)


def test_panels_of_all_processes_reach_the_board_in_order(monkeypatch):
    hook, shown = ChangeBoardHook(), []
    others = [(1, 'b.png', 'panel 1'), (3, 'd.png', 'panel 3')]
    monkeypatch.setattr('mtkd_cd.drawing.hook.all_gather_object', lambda own: [own, others])
    hook._panels = [(0, 'x/a.png', 'panel 0'), (2, 'c.v1.png', 'panel 2')]
    runner = SimpleNamespace(
        _train_loop=None,
        visualizer=SimpleNamespace(add_image=lambda *arguments: shown.append(arguments)),
    )
    hook.after_val_epoch(runner)
    assert shown == [
        ('val_x_a', 'panel 0', 0),
        ('val_b', 'panel 1', 0),
        ('val_c.v1', 'panel 2', 0),
        ('val_d', 'panel 3', 0),
    ]


def test_unknown_and_uninstalled_trackers_are_refused(tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"visualizer.trackers='visdom': a tracker is one of tensorboard, wandb"
    ):
        TrackingVisualizer('a', trackers='visdom', save_dir=str(tmp_path))
    monkeypatch.setattr('mtkd_cd.drawing.tracking.find_spec', lambda name: None)
    with pytest.raises(UserError, match='pip install tensorboard'):
        TrackingVisualizer('b', save_dir=str(tmp_path))


def test_wandb_without_a_key_is_a_line(tmp_path, monkeypatch):
    pytest.importorskip('wandb')
    for name in ('HOME', 'WANDB_DIR', 'WANDB_CONFIG_DIR'):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv('WANDB_API_KEY', raising=False)
    monkeypatch.setenv('WANDB_MODE', 'online')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    tracker = TrackingVisualizer('c', trackers='wandb', save_dir=str(tmp_path))
    with pytest.raises(UserError, match=r'WandB says: .*WANDB_MODE=offline'):
        tracker.add_scalar('loss', 1.0, step=1)


def test_the_tracking_base_goes_beside_every_other_base(tmp_path):
    config = tmp_path / 'mine.py'
    bases = [str(ROOT / 'configs' / name) for name in ('mtkd/fc_ef.py', '_base_/tracking.py')]
    config.write_text(
        f"_base_ = {bases}\ndefault_hooks = dict(board=dict(type='ChangeBoardHook'))\n"
    )
    cfg = Config.fromfile(config)
    assert cfg.visualizer.type == 'TrackingVisualizer'
    assert cfg.default_hooks.board.type == 'ChangeBoardHook'
    assert cfg.default_hooks.logger.type == 'LoggerHook'


def test_tracking_is_turned_on_from_the_command_line():
    options = {
        'visualizer.type': 'TrackingVisualizer',
        'visualizer.trackers': ['tensorboard', 'wandb'],
        'default_hooks.board.type': 'X',
    }
    cfg = load_config(ROOT / 'configs/origin/fc_ef.py', options)
    assert cfg.visualizer == dict(type='TrackingVisualizer', trackers=['tensorboard', 'wandb'])
    assert cfg.default_hooks.board.type == 'X'


@pytest.mark.slow
def test_wandb_gets_pictures_and_curves_over_the_iteration(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb')
    for name, value in {
        'WANDB_MODE': 'offline',
        'WANDB_SILENT': 'true',
        'WANDB_DIR': str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    folder = _train(
        tmp_path, dict(type='mtkd_cd.TrackingVisualizer', trackers=['wandb']), dict(indices=[0, 2])
    )
    wandb.teardown()  # the end of a run does not wait until WandB's service has written the file
    (file,) = folder.rglob('*.wandb')
    rows = _wandb_rows(file)
    pictures = [
        (row['iter'], key[: -len('._type')])
        for row in rows
        for key in row
        if key.endswith('._type')
    ]
    assert sorted(pictures) == [
        ('2', 'val_town_0'),
        ('2', 'val_town_2'),
        ('4', 'val_town_0'),
        ('4', 'val_town_2'),
    ]
    assert [(row['iter'], float(row['mIoU_large'])) for row in rows if 'mIoU_large' in row] == [
        ('2', 25.0),
        ('4', 100.0),
    ]
    assert len(list(folder.rglob('media/images/*.png'))) == 4
    assert not list(folder.rglob('*.py'))


def _wandb_rows(file):
    """The logged rows of an offline run, values as JSON text."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for data in _leveldb_records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.HasField('history'):
            rows.append(
                {
                    item.key or '.'.join(item.nested_key): item.value_json
                    for item in record.history.item
                }
            )
    return rows


def _leveldb_records(content):
    """Records of LevelDB's log format: blocks of 32 KiB; fragments with checksum (4 bytes), length
    (2), type (1 whole, ..., 4 last)."""
    data, position, block = b'', 7, 32768  # WandB's own header comes first
    while position + 7 <= len(content):
        left = block - position % block
        if left < 7:
            position += left
            continue
        length, kind = (
            int.from_bytes(content[position + 4 : position + 6], 'little'),
            content[position + 6],
        )
        data += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield data
            data = b''
