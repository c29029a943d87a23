"""Load exported ONNX files in whatever onnxruntime is installed, and compare with torch.

    PYTHON benchmarks/load_onnx.py FILE.onnx ...

Needs numpy and onnxruntime alone, so that it runs in an environment with the onnxruntime 1.17 of
QGIS Deepness. Beside NAME.batch.onnx or NAME.none.onnx lies NAME.npz, which benchmarks/export.py
left: inputs ``pair`` and torch's ``probability``. Without it the file is only loaded and run. Exits
with 1 if a file fails or differs by more than 1e-3.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

LIMIT = 1e-3


def check(path: Path) -> str:
    """What is found of a file; raises where it cannot be loaded."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    (entry,) = session.get_inputs()
    metadata = session.get_modelmeta().custom_metadata_map
    size = json.loads(metadata['tile_size'])
    shape = [side if isinstance(side, int) else size for side in entry.shape]
    known = path.with_name(path.name.split('.')[0] + '.npz')
    is_free = not isinstance(entry.shape[0], int)
    if not known.exists():
        shape[0] = 1
        (found,) = session.run(None, {entry.name: np.zeros(shape, np.float32)})
        return f'{entry.shape} -> {found.shape}, runs'
    kept = np.load(known)
    worst = 0.0
    for count in (1, 3) if is_free else (1,):
        (found,) = session.run(None, {entry.name: kept['pair'][:count].astype(np.float32)})
        worst = max(worst, float(np.abs(found[:, -1] - kept['probability'][:count]).max()))
    if not worst <= LIMIT and '"int8": true' not in metadata['mtkd_cd']:
        raise ValueError(f'differs from torch by {worst:.1e}')
    return f'{entry.shape}, max |dp| {worst:.1e}'


def main() -> int:
    """Print a line per file."""
    failed = 0
    print(f'onnxruntime {onnxruntime.__version__}, numpy {np.__version__}')
    for name in sys.argv[1:]:
        try:
            print(f'{name}: {check(Path(name))}', flush=True)
        except Exception as error:  # onnxruntime has a class of its own for each of its codes
            failed += 1
            print(f'{name}: FAILED, {type(error).__name__}: {error}', flush=True)
    return int(failed > 0)


if __name__ == '__main__':
    sys.exit(main())
