"""Thin the reference outputs of Open-CD to the few kilobytes per model that the tests carry.

Usage: python tests/data/make_golden.py REFERENCE_FOLDER [MODEL ...]
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np

_SIDE = 16  # rows and columns kept of each map, at most


def _thin(maps: np.ndarray) -> tuple[np.ndarray, int]:
    step = max(1, -(-max(maps.shape[2:]) // _SIDE))
    return maps[:, :, ::step, ::step], step


def make_golden(reference: Path, name: str, out: Path) -> None:
    """Write ``NAME.json`` and ``NAME.npz`` from the reference files of the same names."""
    full = json.loads((reference / f'{name}.json').read_text())
    arrays = dict(np.load(reference / f'{name}.npz'))
    thin, steps = {}, {}
    for key, maps in arrays.items():
        thin[key], steps[key] = _thin(maps)
        steps[key] *= 4 if key == 'logits_s4' else 1
    keys = [f'{key} {list(shape)}' for key, shape in sorted(full['state_dict'].items())]
    small = {
        key: full[key]
        for key in ('name', 'input', 'salt', 'changed_pixels', 'losses', 'detector', 'parameters')
    }
    small['dtype'] = full.get('dtype', 'float32')
    small['largest'] = {key: float(np.abs(maps).max()) for key, maps in arrays.items()}
    small['steps'] = steps
    small['state_dict'] = dict(
        count=len(keys), sha256=hashlib.sha256('\n'.join(keys).encode()).hexdigest()
    )
    (out / f'{name}.json').write_text(json.dumps(small, indent=1) + '\n')
    np.savez_compressed(out / f'{name}.npz', **thin)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('reference', type=Path, help='folder with NAME.json and NAME.npz')
    parser.add_argument('models', nargs='*', help='default: all')
    args = parser.parse_args()
    for model in args.models or sorted(path.stem for path in args.reference.glob('*.json')):
        make_golden(args.reference, model, Path(__file__).parent / 'golden')
