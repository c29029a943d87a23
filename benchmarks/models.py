"""Peak memory and CPU time of predicting one image pair, for every benchmark model, as a Markdown
table.

    python benchmarks/models.py [changer_mitb0 tinycd ...] [--size 512] [--rounds 3]

One thread, float32, random weights, inference as configs/origin/ has it. Each model has a process
of its own. Memory is what its resident set grows by after the libraries are loaded, so weights and
activations. Time is that of the process, the median of the rounds after one to warm up: other work
on the machine slows it by sharing caches, not by taking turns.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

_CONFIGS = Path(__file__).resolve().parents[1] / 'configs' / 'origin'


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, size: int, rounds: int) -> dict[str, float]:
    """Peak memory in MiB and seconds per pair, in this process."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    import mtkd_cd  # noqa: F401  (registers)
    from mtkd_cd.registry import MODELS

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Config.fromfile(_CONFIGS / f'{name}.py').model
    config.pretrained = None
    inputs = torch.randn(1, 6, size, size)
    libraries = _peak_mib()
    with DefaultScope.overwrite_default_scope('mtkd_cd'), torch.inference_mode():
        model = MODELS.build(config).eval()
        seconds = []
        for _ in range(rounds + 1):
            start = time.process_time()
            model(inputs, mode='predict')
            seconds.append(time.process_time() - start)
    return dict(mib=_peak_mib() - libraries, seconds=statistics.median(seconds[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('models', nargs='*', help='files of configs/origin; default: all')
    parser.add_argument('--size', type=int, default=512, help='side of the images')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--here', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.models[0], args.size, args.rounds)))
        return

    print(f'| model | peak memory (MiB) | CPU time (s) per {args.size} x {args.size} pair |')
    print('|---|---:|---:|')
    for name in args.models or sorted(path.stem for path in _CONFIGS.glob('*.py')):
        command = [
            sys.executable,
            '-W',
            'ignore',
            __file__,
            name,
            '--here',
            '--size',
            str(args.size),
            '--rounds',
            str(args.rounds),
        ]
        run = subprocess.run(
            command,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found = json.loads(run.stdout.splitlines()[-1])
        print(f'| {name} | {found["mib"]:.0f} | {found["seconds"]:.2f} |', flush=True)


if __name__ == '__main__':
    main()
