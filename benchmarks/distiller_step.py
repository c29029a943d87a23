"""Cost of a distillation step against what it must cost: an origin step plus one teacher forward
over the same batch.

    python benchmarks/distiller_step.py [--model changer_mitb0] [--batch 8] [--size 128] [--rounds
    15]

The three are timed in turn, round after round, so that whatever else the machine does hits them
alike; the medians of the process's CPU time are compared (of the wall clock with --wall, for a GPU
or an idle machine).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

import mtkd_cd  # noqa: F401  (registers)
from mtkd_cd.registry import MODELS


def make_batch(size: int, batch: int) -> dict:
    """Random pairs whose labels fall into the three ranges in turn."""
    samples = []
    for i in range(batch):
        car = (0.02, 0.1, 0.5)[i % 3]
        sample = SegDataSample(gt_sem_seg=PixelData(data=(torch.rand(1, size, size) < car).long()))
        sample.set_metainfo(dict(car=car, img_shape=(size, size), ori_shape=(size, size)))
        samples.append(sample)
    images = [torch.randint(0, 256, (6, size, size), dtype=torch.uint8) for _ in range(batch)]
    return dict(inputs=images, data_samples=samples)


def trainer(model: torch.nn.Module, batch: dict) -> Callable[[], None]:
    optim = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-5))
    model.train()
    return lambda: model.train_step(batch, optim)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='changer_mitb0', help='a file of configs/_base_/models')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--size', type=int, default=128)
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--wall', action='store_true', help='compare wall-clock times')
    args = parser.parse_args()

    clock = time.perf_counter if args.wall else time.process_time
    torch.manual_seed(0)
    DefaultScope.get_instance('benchmark', scope_name='mtkd_cd')
    config = Config.fromfile(f'configs/_base_/models/{args.model}.py').model
    config.pretrained = None
    batch = make_batch(args.size, args.batch)
    origin = MODELS.build(config)
    teacher = MODELS.build(config).eval()
    distiller = MODELS.build(dict(type='MultiTeacherDistiller', student=config))
    distiller.init_weights()

    def teacher_forward() -> None:
        with torch.no_grad():
            teacher(teacher.data_preprocessor(batch, False)['inputs'], mode='tensor')

    timed = {
        'origin step': trainer(origin, batch),
        'teacher forward': teacher_forward,
        'MTKD step': trainer(distiller, batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for run in range(args.rounds + 2):  # two rounds to warm up
        for name, call in timed.items():
            start = clock()
            call()
            if run >= 2:
                seconds[name].append(clock() - start)

    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f'{args.model}, {args.batch} pairs of {args.size} x {args.size}, {torch.get_num_threads()} '
        f'threads, {args.rounds} rounds'
    )
    for name, value in median.items():
        print(f'{name:>16}: {1000 * value:8.1f} ms')
    needed = median['origin step'] + median['teacher forward']
    print(
        'MTKD step / origin step                      = '
        f'{median["MTKD step"] / median["origin step"]:.2f}'
    )
    print(
        f'MTKD step / (origin step + teacher forward)  = {median["MTKD step"] / needed:.2f}   '
        '(target <= 1.10)'
    )


if __name__ == '__main__':
    main()
