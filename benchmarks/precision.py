"""What bfloat16 does to a model's probabilities, its map and its scores.

    python benchmarks/precision.py DATA MODEL [--weights W] [--window N]

DATA holds A/, B/ and label/. MODEL is a bundle, or a config with ``--weights``. Each pair is
predicted in float32 and in bfloat16, as `mtkd-cd predict` does.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

from mtkd_cd.apis import ChangeInferencer
from mtkd_cd.core.precision import PRECISIONS
from mtkd_cd.data.labels import read_label
from mtkd_cd.evaluation.counts import confusion_counts
from mtkd_cd.evaluation.scores import mean_scores, pooled_scores
from mtkd_cd.inference.results import PairResult


def predicted(data: Path, inferencer: ChangeInferencer, window: int | None) -> list[PairResult]:
    """What the inferencer says of each pair, in the order of their names."""
    results = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for a in sorted((data / 'A').iterdir()):
            result = inferencer.predict_raster(
                a,
                data / 'B' / a.name,
                Path(folder, f'{a.stem}.tif'),
                probability=Path(folder, f'{a.stem}_p.tif'),
                probability_dtype='float32',
                window=window,
            )
            results.append(result.read())
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', type=Path)
    parser.add_argument('model')
    parser.add_argument('--weights')
    parser.add_argument('--window', type=int)
    args = parser.parse_args()
    labels = [
        torch.from_numpy(read_label(path, format_seg_map='to_binary')).long()
        for path in sorted((args.data / 'label').iterdir())
    ]
    found = {}
    for precision in PRECISIONS:
        inferencer = ChangeInferencer(args.model, args.weights, precision=precision)
        found[precision] = predicted(args.data, inferencer, args.window)
        maps = [torch.from_numpy(one.change).long() for one in found[precision]]
        counts = np.stack([confusion_counts(*both).numpy() for both in zip(maps, labels)])
        f1, miou = pooled_scores(counts)['Fscore_changed'], mean_scores(counts)['mIoU']
        print(f'{precision}: pooled F1 {f1:.2f} %, per-image mIoU {miou:.2f} %')
    pairs = list(zip(*found.values(), strict=True))
    moved = np.concatenate([np.abs(x.probability - y.probability).ravel() for x, y in pairs])
    flipped = np.mean([(x.change != y.change).mean() for x, y in pairs])
    print(
        f'{len(pairs)} pairs: probabilities move by {moved.mean():.1e} on average, by '
        f'{np.percentile(moved, 99):.1e} at the 99th percentile, by {moved.max():.2f} at most; '
        f'{100 * flipped:.3f} % of the pixels flip'
    )


if __name__ == '__main__':
    main()
