"""Times of the training pipelines of JL1-CD, per step, on one core: 512 x 512 pairs in PNG files
(target: 30 ms per pair).

CPU time, so that other work on the machine counts little. P1 is the benchmark's default, P2 the one
of the Changer models.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.registry import init_default_scope

import mtkd_cd  # noqa: F401  (registers)
from mtkd_cd.data.synthetic import make_dataset
from mtkd_cd.registry import DATASETS, MODELS

BASE = Path(__file__).parents[1] / 'configs' / '_base_'
PIPELINES = {'P1': 'train_pipeline', 'P2': 'changer_train_pipeline'}


def milliseconds(function: Callable, *args: object) -> tuple[object, float]:
    """Result and CPU time of a call."""
    start = time.thread_time()
    result = function(*args)
    return result, (time.thread_time() - start) * 1000


def time_pipeline(dataset: BaseDataset, rounds: int) -> dict[str, float]:
    """Mean CPU time of each step in milliseconds, over ``rounds`` passes after one that warms
    up."""
    steps = dataset.pipeline.transforms
    totals = np.zeros(len(steps))
    np.random.seed(0)
    for number in range(-1, rounds):
        for index in range(len(dataset)):
            results = dataset.get_data_info(index)
            for step, transform in enumerate(steps):
                results, spent = milliseconds(transform, results)
                totals[step] += spent if number >= 0 else 0
    names = [
        f'{number} {type(transform).__name__.removeprefix("MultiImg")}'
        for number, transform in enumerate(steps, 1)
    ]
    return dict(zip(names, totals / rounds / len(dataset)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--data-root', help='JL1-CD, or another folder of its layout; default: synthetic pairs'
    )
    parser.add_argument('--pairs', type=int, default=16, help='how many are used; default: 16')
    parser.add_argument('--rounds', type=int, default=8, help='passes over them; default: 8')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    init_default_scope('mtkd_cd')
    config = Config.fromfile(BASE / 'datasets' / 'jl1cd.py')
    preprocessor = MODELS.build(Config.fromfile(BASE / 'data_preprocessor.py').pair_preprocessor)
    with tempfile.TemporaryDirectory() as folder:
        if args.data_root is None:
            make_dataset(folder, num_train=args.pairs, num_val=1, num_test=1, size=512)
        root = args.data_root or folder
        for name, key in PIPELINES.items():
            dataset = DATASETS.build(
                dict(
                    type='JL1_CD_Dataset',
                    data_root=root,
                    split='train',
                    indices=args.pairs,
                    pipeline=config[key],
                )
            )
            times = time_pipeline(dataset, args.rounds)
            print(f'{name}, {len(dataset)} pairs x {args.rounds}, ms per pair')
            for step, spent in times.items():
                print(f'  {step:28} {spent:7.2f}')
            print(f'  {"together":28} {sum(times.values()):7.2f}')
        batch = pseudo_collate([dataset[index] for index in range(min(8, len(dataset)))])
    spent = min(
        milliseconds(preprocessor, {'inputs': batch['inputs']}, True)[1] for _ in range(args.rounds)
    )
    print(
        f'data preprocessor, batch of {len(batch["inputs"])}: {spent / len(batch["inputs"]):.2f} '
        'ms per pair'
    )


if __name__ == '__main__':
    main()
