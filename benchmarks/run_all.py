"""What training and prediction cost, ours against a plain re-implementation of what the toolbox
does, as one Markdown table.

    python benchmarks/run_all.py [--models changer_mitb0 bit_r18 ...] [--size 128] [--batch 8]
        [--rounds 9]

Both sides are measured in turn in one process, by its CPU time, so that whatever else the machine
does hits them alike; the medians are compared. Three rows per model:

- ``MTKD step``: the distiller against the plain step, in which the head runs a second time for the
  change map and teachers see one image at a time, each in its own forward pass.
- ``teachers``: the same for the teachers alone.
- ``windows``: sliding windows in batches through a prepared detector, against one by one.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_check import build_distiller, make_batch, model_config
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope

import mtkd_cd  # noqa: F401  (registers)
from mtkd_cd.models.prepare import prepare
from mtkd_cd.registry import MODELS

_MODELS = ('changer_mitb0', 'bit_r18', 'fc_siam_diff', 'tinycd')
_RANGES = ('small', 'medium', 'large')


def compare(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """The median CPU seconds of calls that take turns, after a round to warm up."""
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, spent in zip(calls, seconds):
            start = time.process_time()
            call()
            if number:
                spent.append(time.process_time() - start)
    return [statistics.median(spent) for spent in seconds]


class PlainStep:
    """A distillation step as the toolbox makes it.

    Args:
        config: Config of student and teachers.
        distill_weight: Weight of the distillation.
    """

    def __init__(self, config: Any, distill_weight: float = 1e-4) -> None:
        self.student = MODELS.build(config).train()
        self.teachers = [MODELS.build(config).eval().requires_grad_(False) for _ in _RANGES]
        self.weight = distill_weight
        self.wrapper = OptimWrapper(torch.optim.AdamW(self.student.parameters(), lr=1e-5))

    def teach(self, inputs: torch.Tensor) -> torch.Tensor:
        """The change maps of the teachers in turn, image by image."""
        with torch.no_grad():
            maps = [
                self.teachers[i % len(_RANGES)](image[None], mode='tensor')
                for i, image in enumerate(inputs)
            ]
        return torch.cat([one if isinstance(one, torch.Tensor) else one[-1] for one in maps])

    def __call__(self, batch: dict[str, Any]) -> None:
        data = self.student.data_preprocessor(batch, True)
        inputs, samples = data['inputs'], data['data_samples']
        features = self.student.extract_feat(inputs)
        losses = self.student._decode_head_forward_train(features, samples)
        if self.student.with_auxiliary_head:
            losses.update(self.student._auxiliary_head_forward_train(features, samples))
        maps = self.student.decode_head.forward(features)
        maps = maps if isinstance(maps, torch.Tensor) else maps[-1]
        distance = torch.nn.functional.mse_loss(maps, self.teach(inputs))
        losses['loss_distill'] = self.weight * distance
        self.wrapper.update_params(self.student.parse_losses(losses)[0])


def measure(name: str, size: int, pairs: int, rounds: int) -> list[tuple[str, float, float]]:
    """Rows (what, plain seconds, our seconds) of a model."""
    torch.manual_seed(0)
    config = model_config(name)
    batch = make_batch(size, pairs, 'cpu')
    distiller, plain = build_distiller(config).train(), PlainStep(config)
    wrapper = OptimWrapper(torch.optim.AdamW(distiller.parameters(), lr=1e-5, fused=True))
    inputs = distiller.data_preprocessor(batch, True)['inputs']
    teachers = distiller.distillation.teachers

    def teach() -> None:
        for i, teacher in enumerate(_RANGES):
            teachers.change_maps(teacher, inputs[i :: len(_RANGES)])

    window = dict(mode='slide', crop_size=(size, size), stride=(size, size))
    one_by_one = MODELS.build({**config, 'test_cfg': dict(mode='whole')}).eval()
    prepared = prepare(MODELS.build({**config, 'test_cfg': window}))
    picture = torch.randn(1, 6, 2 * size, 2 * size)

    def each_window() -> None:
        with torch.no_grad():
            for top in (0, size):
                for left in (0, size):
                    crop = picture[:, :, top : top + size, left : left + size]
                    one_by_one(crop, mode='predict')

    rows = [
        ('MTKD step', lambda: plain(batch), lambda: distiller.train_step(batch, wrapper)),
        ('teachers', lambda: plain.teach(inputs), teach),
        ('windows', each_window, lambda: prepared(picture, mode='predict')),
    ]
    return [(what, *compare(rounds, theirs, ours)) for what, theirs, ours in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', default=_MODELS)
    parser.add_argument('--size', type=int, default=128)
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--out', type=Path, help='write the table here too')
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', 1)))
    DefaultScope.get_instance('benchmark', scope_name='mtkd_cd')
    lines = [
        f'{platform.processor() or platform.machine()}, torch {torch.__version__}, '
        f'{torch.get_num_threads()} threads, {args.batch} pairs of {args.size} x {args.size}, '
        f'{args.rounds} rounds',
        '',
        '| model | what | plain, ms | ours, ms | plain / ours |',
        '|---|---|---:|---:|---:|',
    ]
    print('\n'.join(lines), flush=True)
    ratios: dict[str, list[float]] = {}
    for name in args.models:
        for what, plain, ours in measure(name, args.size, args.batch, args.rounds):
            ratios.setdefault(what, []).append(plain / ours)
            line = f'| {name} | {what} | {1000 * plain:.0f} | {1000 * ours:.0f} '
            lines.append(line + f'| {plain / ours:.2f} |')
            print(lines[-1], flush=True)
    for what, values in ratios.items():
        mean = statistics.geometric_mean(values)
        lines.append(f'| geometric mean | {what} | | | {mean:.2f} |')
        print(lines[-1], flush=True)
    if args.out:
        args.out.write_text('\n'.join(lines) + '\n')


if __name__ == '__main__':
    main()
