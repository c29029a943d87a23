"""CPU time and modules that imports and commands cost, each in a process of its own.

python benchmarks/import_time.py [NAME ...]

The last lines are whole commands, run on four synthetic pairs. Each figure is the least of three
runs. They may leave bytecode, as a user's first command does: PYTHONDONTWRITEBYTECODE is ignored.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

IMPORTS = (
    'numpy',
    'mmengine.registry',
    'mtkd_cd',
    'mtkd_cd.registry',
    'mtkd_cd.apis',
    'mtkd_cd.core.car',
    'mtkd_cd.data.labels',
    'mtkd_cd.data.car_index',
    'mtkd_cd.evaluation.image_table',
    'mtkd_cd.reporting.comparison',
    'mtkd_cd.models.mtkd.cascade',
    'mtkd_cd.engine.training',
    'mtkd_cd.engine.testing',
)
WATCHED = ('mmengine', 'torch', 'mmcv', 'mmseg', 'transformers', 'matplotlib')
_RUNS = 3
_CODE = """
import contextlib, io, sys, time
before, start = len(sys.modules), time.process_time()
with contextlib.redirect_stdout(io.StringIO()):
    try:
        {statement}
    except SystemExit as stop:
        if stop.code:
            raise
found = [name for name in {watched} if sys.modules.get(name)]
print(time.process_time() - start, len(sys.modules) - before, ' '.join(found))
"""


def cost(statement: str) -> tuple[float, int, str]:
    """CPU seconds, modules and which of the watched packages a statement imports."""
    code = _CODE.format(statement=statement, watched=WATCHED)
    own = {name: text for name, text in os.environ.items() if name != 'PYTHONDONTWRITEBYTECODE'}
    costs = []
    for _ in range(_RUNS):
        done = subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, check=False, env=own
        )
        if done.returncode:
            raise SystemExit(f'failed: {statement}\n{done.stderr}')
        seconds, modules, *found = done.stdout.splitlines()[-1].split()
        costs.append((float(seconds), int(modules), ' '.join(found)))
    return min(costs)


def main() -> None:
    from mtkd_cd.cli.main import COMMANDS

    statements = {f'import {name}': f'import {name}' for name in IMPORTS}
    statements |= {
        f'mtkd-cd {name} --help': f'from mtkd_cd.cli.main import main; main([{name!r}, "--help"])'
        for name in COMMANDS
    }
    with tempfile.TemporaryDirectory() as folder:
        print_table(statements | whole_commands(Path(folder)), sys.argv[1:])


def whole_commands(folder: Path) -> dict[str, str]:
    """What runs the commands that need no model, by title."""
    from mtkd_cd.data.synthetic import make_dataset

    for strategy, wrong in (('origin', 9), ('mtkd', 5)):
        table = folder / 'report' / 'fc_ef' / f'{strategy}.csv'
        table.parent.mkdir(parents=True, exist_ok=True)
        rows = (f'{image:05}.png,{90 - wrong},9,{wrong},900' for image in range(2))
        table.write_text('\n'.join(('file,TP,FP,FN,TN', *rows)))
    data = str(folder / 'data')
    make_dataset(data, num_train=2, num_test=2, size=64)
    calls = {
        'make-synthetic': [
            *(str(folder / 'made'), '--overwrite'),
            *('--num-train', '2', '--num-test', '2', '--size', '64'),
        ],
        'check-data': [data, '--figure', str(folder / 'cars.png')],
        'car-stats': [data],
        'compare': [str(folder / 'report'), '--out', str(folder / 'compare')],
        'compare --data-root': [
            *(str(folder / 'report'), '--out', str(folder / 'compare')),
            *('--data-root', data),
        ],
    }
    return {
        f'mtkd-cd {title}': 'from mtkd_cd.cli.main import main; '
        f'main({[title.split()[0], *arguments]!r})'
        for title, arguments in calls.items()
    }


def print_table(statements: dict[str, str], wanted: list[str]) -> None:
    """Print a line for each statement whose title has a wanted word in it."""
    print('| what | CPU s | modules | of them |\n|---|---|---|---|')
    for title, statement in statements.items():
        if not wanted or any(word in title for word in wanted):
            seconds, modules, found = cost(statement)
            print(f'| `{title}` | {seconds:.2f} | {modules} | {found} |', flush=True)


if __name__ == '__main__':
    main()
