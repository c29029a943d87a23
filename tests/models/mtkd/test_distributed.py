"""A student in two processes, each with images of other ranges: every teacher is used by one of
them only."""

import copy
import json

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

import mtkd_cd  # noqa: F401  (registers)
from mtkd_cd.registry import MODELS


def train(config, folder):
    rank = dist.get_rank()
    torch.manual_seed(rank)
    distiller = MODELS.build(config)
    distiller.init_weights()
    before = {name: copy.deepcopy(t.state_dict()) for name, t in distiller.teachers.items()}
    model = MMDistributedDataParallel(distiller)
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(4):
        samples = []
        for car in ((0.01, 0.01), (0.5, 0.1))[rank]:
            sample = SegDataSample(gt_sem_seg=PixelData(data=(torch.rand(1, 20, 20) < car).long()))
            sample.set_metainfo(dict(car=car))
            samples.append(sample)
        batch = dict(inputs=torch.randn(2, 6, 20, 20), data_samples=samples)
        losses = model.train_step(batch, optim)
    weights = torch.cat([p.detach().flatten() for p in distiller.parameters()])
    gathered = [torch.zeros_like(weights) for _ in range(2)]
    dist.all_gather(gathered, weights)
    frozen = all(
        torch.equal(value, before[name][key])
        for name, teacher in distiller.teachers.items()
        for key, value in teacher.state_dict().items()
    )
    result = dict(
        frozen=frozen,
        distill=losses['loss_distill'].item(),
        equal=bool(torch.equal(*gathered)),
    )
    (folder / f'{rank}.json').write_text(json.dumps(result))


def test_two_processes_train_one_student(toy, tmp_path, in_two_processes):
    config = dict(
        type='MultiTeacherDistiller',
        student=toy.config(),
        checkpoints=toy.checkpoints('student', 'small', 'medium', 'large'),
    )
    in_two_processes(train, config, tmp_path)
    for rank in (0, 1):
        result = json.loads((tmp_path / f'{rank}.json').read_text())
        assert result['equal']  # the student is the same everywhere
        assert result['frozen']
        assert result['distill'] > 0
