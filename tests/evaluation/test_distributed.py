import json

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

import mtkd_cd  # noqa: F401  (registers)

SETS = ((7, 1), (7, 2), (9, 3), (1, 2))  # images, and images a batch


class Masks(torch.utils.data.Dataset):
    """Predictions and labels. Image 0, the one that the sampler repeats, is far worse than the
    others, so that a second count of it shows."""

    metainfo = dict(classes=('unchanged', 'changed'))  # noqa: RUF012

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


def evaluate(folder, world_size):
    for num, batch_size in SETS:
        name = f'{world_size}_{num}_{batch_size}'
        runner = Runner(
            model=Oracle(),
            work_dir=str(folder / 'work'),
            experiment_name=name,
            test_dataloader=dict(
                dataset=Masks(num),
                batch_size=batch_size,
                sampler=dict(type='DefaultSampler', shuffle=False),
                num_workers=0,
            ),
            test_evaluator=dict(
                type='mtkd_cd.PerImageChangeMetric', out_file=str(folder / f'table_{name}.json')
            ),
            test_cfg={},
            default_hooks=dict(logger=None),
        )
        runner.test()
        assert len(runner.test_dataloader.sampler) == -(-num // world_size)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, in_two_processes):
    """Tables of the same evaluations by one process and by two."""
    folder = tmp_path_factory.mktemp('distributed')
    in_two_processes(evaluate, folder, 2)
    evaluate(folder, 1)
    return folder


@pytest.mark.parametrize(('num', 'batch_size'), SETS)
def test_two_processes_count_each_image_once_though_their_number_does_not_divide(
    folder, num, batch_size
):
    alone, together = (
        json.loads((folder / f'table_{world_size}_{num}_{batch_size}.json').read_text())
        for world_size in (1, 2)
    )
    assert [row['file'] for row in together['images']] == [f'{i}.png' for i in range(num)]
    assert together == alone
