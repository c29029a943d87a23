"""Times of the CAR index: reading 5,000 labels of 512 x 512 for the first time (target: under 15 s
on 2 cores) and again (under 0.2 s)."""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from mtkd_cd.data.car_index import label_cars


def write_label(path: str, seed: int, size: int) -> None:
    """Write a 0 / 255 PNG with up to 30 ellipses."""
    rng = np.random.default_rng(seed)
    label = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(30)):
        centre, axes = rng.integers(0, size, 2).tolist(), rng.integers(4, size // 8, 2).tolist()
        cv2.ellipse(label, centre, axes, float(rng.integers(180)), 0, 360, 255, -1)
    cv2.imwrite(path, label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--labels', type=int, default=5000)
    parser.add_argument('--size', type=int, default=512)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        labels = Path(folder) / 'label'
        labels.mkdir()
        paths = [str(labels / f'{index:05d}.png') for index in range(args.labels)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda item: write_label(item[1], item[0], args.size), enumerate(paths)))
        print(f'{args.labels} labels of {args.size} x {args.size}')
        for name in ('first read', 'reopened'):
            start = time.perf_counter()
            label_cars(paths, format_seg_map='to_binary')
            print(f'{name:>10}: {time.perf_counter() - start:7.3f} s')


if __name__ == '__main__':
    main()
