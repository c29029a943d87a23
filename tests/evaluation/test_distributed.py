import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = """
import sys
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
import mtkd_cd


class Masks(torch.utils.data.Dataset):
    # Image 0, the one that the sampler repeats, is far worse than the others, so that a second
    # count of it shows.
    metainfo = dict(classes=('unchanged', 'changed'))

    def __init__(self, num):
        generator = torch.Generator().manual_seed(5)
        noise = torch.rand(num, 1, 16, 16, generator=generator)
        self.labels = (noise < torch.rand(num, 1, 1, 1, generator=generator)).to(torch.uint8)
        wrong = torch.rand(num, 1, 16, 16, generator=generator) < 0.1
        self.predictions = self.labels ^ wrong.to(torch.uint8)
        self.predictions[0] = 1 - self.labels[0]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        paths = [f'/data/A/{index}.png', f'/data/B/{index}.png']
        sample = SegDataSample(metainfo=dict(img_path=paths))
        sample.gt_sem_seg = PixelData(data=self.labels[index])
        return dict(inputs=self.predictions[index], data_samples=sample)


class Oracle(BaseModel):
    def forward(self, inputs, data_samples, mode):
        for prediction, sample in zip(inputs, data_samples):
            sample.pred_sem_seg = PixelData(data=prediction)
        return data_samples


DATASETS.register_module(module=Masks)
MODELS.register_module(module=Oracle)
rank, world_size = int(sys.argv[1]), int(sys.argv[2])
if world_size > 1:
    dist.init_process_group(
        'gloo', init_method='file://' + sys.argv[3], rank=rank, world_size=world_size
    )
for num, batch_size in ((7, 1), (7, 2), (9, 3), (1, 2)):
    loader = dict(
        dataset=dict(type='Masks', num=num),
        batch_size=batch_size,
        sampler=dict(type='DefaultSampler', shuffle=False),
        num_workers=0,
    )
    out_file = f'table_{world_size}_{num}_{batch_size}.json'
    runner = Runner(
        model=dict(type='Oracle'),
        work_dir='work',
        experiment_name=f'{world_size}_{num}_{batch_size}',
        test_dataloader=loader,
        test_evaluator=dict(type='mtkd_cd.PerImageChangeMetric', out_file=out_file),
        test_cfg=dict(),
        default_hooks=dict(logger=None),
    )
    runner.test()
    assert len(runner.test_dataloader.sampler) == -(-num // world_size)

import os
import mmengine.dist
mmengine.dist.barrier()
os._exit(0)  # past the interpreter's teardown, where gloo's threads now and then abort the process
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Tables of the same evaluations by one process and by two."""
    folder = tmp_path_factory.mktemp('distributed')
    runs = [(0, 1), (0, 2), (1, 2)]
    environment = os.environ | {
        'PYTHONPATH': str(Path(__file__).parents[2]),
        'OMP_NUM_THREADS': '1',
    }
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', WORKER, str(rank), str(world_size), str(folder / 'store')],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, world_size in runs
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), '\n'.join(outputs)
    return folder


@pytest.mark.parametrize(('num', 'batch_size'), [(7, 1), (7, 2), (9, 3), (1, 2)])
def test_two_processes_count_each_image_once_though_their_number_does_not_divide(
    folder, num, batch_size
):
    alone, together = (
        json.loads((folder / f'table_{world_size}_{num}_{batch_size}.json').read_text())
        for world_size in (1, 2)
    )
    assert [row['file'] for row in together['images']] == [f'{i}.png' for i in range(num)]
    assert together == alone
