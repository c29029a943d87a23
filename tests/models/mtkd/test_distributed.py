import json
import os
import subprocess
import sys
import textwrap

# Two processes, each with images of other ranges: every teacher is used by one process only.
SCRIPT = """
    import copy, json, os, sys
    import torch, torch.distributed as dist
    import toycd
    from mmengine.model import MMDistributedDataParallel
    from mmengine.optim import OptimWrapper
    from mmengine.registry import DefaultScope
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    import mtkd_cd
    from mtkd_cd.registry import MODELS

    config, output = json.load(open(sys.argv[1])), sys.argv[2]
    dist.init_process_group('gloo')
    rank = dist.get_rank()
    torch.manual_seed(rank)
    DefaultScope.get_instance('test', scope_name='mtkd_cd')
    distiller = MODELS.build(config)
    distiller.init_weights()
    before = {name: copy.deepcopy(t.state_dict()) for name, t in distiller.teachers.items()}
    model = MMDistributedDataParallel(distiller)
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    for step in range(4):
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
    results = [None, None]
    dist.all_gather_object(results, result)
    if rank == 0:
        with open(output, 'w') as file:
            json.dump(results, file)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # past the interpreter's teardown, where gloo's threads now and then abort
"""


def test_two_processes_train_one_student(toy, toycd, tmp_path):
    script, config, output = (
        tmp_path / 'train.py',
        tmp_path / 'config.json',
        tmp_path / 'results.json',
    )
    script.write_text(textwrap.dedent(SCRIPT))
    names = ('student', 'small', 'medium', 'large')
    config.write_text(
        json.dumps(
            dict(
                type='MultiTeacherDistiller',
                student=toy.config(),
                checkpoints=toy.checkpoints(*names),
            )
        )
    )
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc_per_node=2',
        script,
        config,
        output,
    ]
    environment = dict(os.environ, PYTHONPATH=str(toycd), OMP_NUM_THREADS='1')
    process = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    for result in json.loads(output.read_text()):
        assert result['equal']  # the student is the same everywhere
        assert result['frozen']
        assert result['distill'] > 0
