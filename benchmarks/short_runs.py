"""Short trainings of the benchmark models, so that exported files are compared on weights that
have learned something.

    python benchmarks/short_runs.py OUT DATA [bit_r18 ...] [--iters 80] [--crop-size 64] \
        [--batch-size 8]
    python benchmarks/export.py TABLE --weights OUT

Each model starts from random weights and learns on DATA (A/, B/ and label/ in train/ and val/).
OUT/NAME.mtkd has its weights and the threshold of the best F1 on the first validation pairs
(``--val-pairs``). A bundle that is there is kept.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from mtkd_cd.apis import get_config, list_models, train
from mtkd_cd.core.strategy import BEST
from mtkd_cd.inference.bundle import create_bundle

# A learning rate per family, for so few iterations from nothing; the others take the first.
LEARNING_RATES = {'': 1e-3, 'changer': 1e-4, 'changeformer': 6e-4, 'ban': 3e-4, 'ttp': 4e-4}
# Entries of a model's config that would load pretrained weights.
PRETRAINED = ('model.pretrained', 'model.decode_head.ban_cfg.side_enc_cfg.init_cfg')


def linked(data: Path, folder: Path, pairs: int) -> Path:
    """DATA with no more than so many validation pairs, as links."""
    for split in ('train', 'val'):
        for kind in ('A', 'B', 'label'):
            place = folder / split / kind
            place.mkdir(parents=True)
            files = sorted((data / split / kind).iterdir())
            step = max(1, len(files) // pairs) if split == 'val' else 1
            for file in files[::step]:
                (place / file.name).symlink_to(file.resolve())
    return folder


def short_run(name: str, data: Path, out: Path, options: dict[str, Any]) -> None:
    """Train a model and write its bundle."""
    family = name.partition('_')[0]
    changes: dict[str, Any] = dict.fromkeys(PRETRAINED if family == 'ban' else PRETRAINED[:1])
    suffix = next((data / 'train' / 'A').iterdir()).suffix
    for loader in ('train_dataloader', 'val_dataloader'):
        changes[f'{loader}.dataset.img_suffix'] = suffix
    with tempfile.TemporaryDirectory(dir=out) as work_dir:
        cfg = get_config(
            name,
            data_root=data,
            lr=LEARNING_RATES.get(family, LEARNING_RATES['']),
            val_interval=options['iters'],
            num_workers=0,
            seed=0,
            work_dir=Path(work_dir),
            cfg_options=changes,
            **options,
        )
        record = train(cfg, device='cpu')
        print(f'{name}: {record["metric"]} {record["score"]:.2f}, {record["seconds"]:.0f} s')
        weights = Path(cfg.work_dir) / BEST
        create_bundle(cfg, weights, out / f'{name}.mtkd', training_size=options['crop_size'])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path)
    parser.add_argument('data', type=Path)
    parser.add_argument('models', nargs='*', metavar='MODEL', help='default: all 21')
    parser.add_argument('--iters', type=int, default=80)
    parser.add_argument('--crop-size', type=int, default=64)
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--val-pairs', type=int, default=12)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    options = {key: getattr(args, key) for key in ('iters', 'crop_size', 'batch_size')}
    with tempfile.TemporaryDirectory() as links:
        data = linked(args.data, Path(links), args.val_pairs)
        for name in args.models or list_models():
            if not (args.out / f'{name}.mtkd').exists():
                short_run(name, data, args.out, options)


if __name__ == '__main__':
    main()
