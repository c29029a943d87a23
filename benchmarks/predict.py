"""What prediction on rasters costs beside the network, and the memory that it takes.

python benchmarks/predict.py overhead         reading, blending and writing, relative to the network
python benchmarks/predict.py memory           peak memory at two sizes, with a model that costs none
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import noise
from torch import Tensor

from mtkd_cd.apis import ChangeInferencer, init_model
from mtkd_cd.inference.card import Card
from mtkd_cd.inference.predictor import Model, model_from_detector

CONFIGS = Path(__file__).parents[1] / 'configs' / 'origin'


class Timed:
    """A predictor that adds up its CPU time."""

    def __init__(self, predictor: Any) -> None:
        self.predictor = predictor
        self.seconds = 0.0

    def probability(self, pairs: Tensor) -> Tensor:
        start = time.process_time()
        result = self.predictor.probability(pairs)
        self.seconds += time.process_time() - start
        return result


class Constant:
    """A model that costs nothing."""

    def probability(self, pairs: Tensor) -> Tensor:
        return torch.full((len(pairs), *pairs.shape[2:]), 0.7)


def overhead(folder: Path, model: str, size: int, repeats: int) -> dict[str, Any]:
    """CPU seconds in the network and beside it, the median of some runs."""
    for seed, name in enumerate('ab'):
        noise(folder / f'{name}.tif', size, 3, seed)
    torch.manual_seed(0)
    loaded = model_from_detector(
        init_model(CONFIGS / f'{model}.py', device='cpu', cfg_options={'model.pretrained': None})
    )
    (name,) = loaded.names
    runs = []
    for _ in range(repeats):
        timed = Timed(loaded.predictor(name))
        inferencer = ChangeInferencer(
            Model(loaded.card, {'': lambda timed=timed: timed}), device='cpu'
        )
        start = time.process_time()
        inferencer.predict_raster(
            folder / 'a.tif',
            folder / 'b.tif',
            folder / 'o.tif',
            probability=folder / 'p.tif',
            window=512,
            batch_size=1,
            overwrite=True,
        )
        total = time.process_time() - start
        runs.append((total - timed.seconds, timed.seconds))
    beside, network = np.median(runs, axis=0).tolist()
    return dict(model=model, size=size, network_s=network, beside_s=beside, share=beside / network)


def peak(folder: Path, size: int) -> dict[str, Any]:
    """Peak memory of a process of its own, in MiB, and its CPU seconds."""
    for seed, name in enumerate('ab'):
        noise(folder / f'{name}.tif', size, 3, seed)
    start = time.process_time()
    ChangeInferencer(
        Model(Card('constant', (0.0,) * 6, (1.0,) * 6), {'': Constant}), device='cpu'
    ).predict_raster(
        folder / 'a.tif', folder / 'b.tif', folder / 'o.tif', probability=folder / 'p.tif'
    )
    return dict(
        size=size,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        cpu_s=time.process_time() - start,
    )


def main() -> None:
    """Print one JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=['overhead', 'memory', 'peak'])
    parser.add_argument('--model', default='changer_mitb0')
    parser.add_argument('--sizes', type=int, nargs='+', default=[2048, 8192])
    parser.add_argument('--repeats', type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.what == 'overhead':
            print(json.dumps(overhead(Path(folder), args.model, args.sizes[0], args.repeats)))
        elif args.what == 'peak':
            print(json.dumps(peak(Path(folder), args.sizes[0])))
    if args.what == 'memory':
        for size in args.sizes:
            command = [sys.executable, __file__, 'peak', '--sizes', str(size)]
            print(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout, end=''
            )


if __name__ == '__main__':
    main()
