#!/usr/bin/env bash
# Collect what a GPU machine without a package registry lacks into .gpu/site, for benchmarks/gpu_check.py:
#
#     PYTHON=.venv/bin/python benchmarks/gpu_pack.sh
#     # there, in the repository's root:
#     PYTHONPATH=$PWD:$PWD/.gpu/site python3 benchmarks/gpu_check.py --minutes 5 --out "$OUT"
#
# Copies distributions of pure Python (or of Python's stable interface, for this kind of processor) from the environment
# of $PYTHON, so they run under another Python 3 too. torch, numpy, OpenCV, SciPy, Matplotlib and pytest are taken to be
# there.
set -euo pipefail
cd "$(dirname "$0")/.."
"${PYTHON:-.venv/bin/python}" - .gpu/site <<'EOF'
import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path

NEEDED = (
    'onedl-mmengine onedl-mmcv onedl-mmsegmentation addict termcolor yapf platformdirs prettytable wcwidth ftfy filelock submitit'
)
site = Path(sys.argv[1])
shutil.rmtree(site, ignore_errors=True)
for name in NEEDED.split():
    found = distribution(name)
    for file in found.files or ():
        skipped = '..' in file.parts or '__pycache__' in file.parts or file.parts[0] in ('docs', 'yapftests')
        if skipped:
            continue
        if file.suffix in ('.so', '.pyd') and '.abi3' not in file.suffixes:
            sys.exit(f'{name} is compiled ({file}): it would not run under another Python')
        source = Path(found.locate_file(file))
        if source.is_file():
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, site / file)
files = [path for path in site.rglob('*') if path.is_file()]
print(f'{site}: {len(files)} files, {sum(path.stat().st_size for path in files) / 2**20:.1f} MiB')
EOF
