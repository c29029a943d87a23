"""Time of tools/analysis/score_folders.py on 10,000 masks of 512 x 512 (target: under 60 s on 2
cores), reading and reporting."""

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from mtkd_cd.evaluation import per_image_scores


def write_masks(label: Path, prediction: Path, seed: int, size: int) -> None:
    """Write a 0 / 255 PNG with up to 30 ellipses, and a prediction that moves, grows or misses each
    of them a little."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((2, size, size), np.uint8)
    for _ in range(rng.integers(30)):
        centre, axes, angle = (
            rng.integers(0, size, 2),
            rng.integers(4, size // 8, 2),
            float(rng.integers(180)),
        )
        cv2.ellipse(masks[0], centre.tolist(), axes.tolist(), angle, 0, 360, 255, -1)
        if rng.random() < 0.9:
            moved, grown = centre + rng.integers(-3, 4, 2), axes + rng.integers(-2, 3, 2)
            cv2.ellipse(masks[1], moved.tolist(), grown.tolist(), angle, 0, 360, 255, -1)
    cv2.imwrite(str(label), masks[0])
    cv2.imwrite(str(prediction), masks[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', type=int, default=10_000)
    parser.add_argument('--size', type=int, default=512)
    parser.add_argument('--jobs', type=int, help='threads; default: one per CPU')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        labels, predictions = Path(folder, 'label'), Path(folder, 'prediction')
        labels.mkdir()
        predictions.mkdir()
        names = [f'{index:05d}.png' for index in range(args.images)]
        with ThreadPoolExecutor() as pool:
            list(
                pool.map(
                    lambda item: write_masks(
                        labels / item[1], predictions / item[1], item[0], args.size
                    ),
                    enumerate(names),
                )
            )

        start, start_cpu = time.perf_counter(), time.process_time()
        table = per_image_scores(predictions, labels, num_workers=args.jobs)
        report_start = time.perf_counter()
        table.report()
        table.save(Path(folder, 'scores.csv'))
        end, cpu = time.perf_counter(), time.process_time() - start_cpu
    print(
        f'{args.images} predictions and labels of {args.size} x {args.size}, '
        f'{args.jobs or os.cpu_count()} threads:'
    )
    print(
        f'{end - start:.1f} s, of which {end - report_start:.1f} s for intervals, report and CSV; '
        f'{cpu:.1f} s of CPU time'
    )
    print(
        f'load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; mIoU '
        f'{table.means()["mIoU"]:.2f}'
    )


if __name__ == '__main__':
    main()
