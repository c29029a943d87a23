"""CPU time and modules that imports and commands cost, each in a process of its own.

python benchmarks/import_time.py [NAME ...]
"""

import subprocess
import sys

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
    'mtkd_cd.engine.run',
)
WATCHED = ('mmengine', 'torch', 'mmcv', 'mmseg', 'transformers', 'matplotlib')
_CODE = """
import contextlib, io, sys, time
before, start = len(sys.modules), time.process_time()
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    {statement}
found = [name for name in {watched} if name in sys.modules]
print(time.process_time() - start, len(sys.modules) - before, ' '.join(found))
"""


def cost(statement: str) -> tuple[float, int, str]:
    """CPU seconds, modules and which of the watched packages a statement imports."""
    code = _CODE.format(statement=statement, watched=WATCHED)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    seconds, modules, *found = done.stdout.splitlines()[-1].split()
    return float(seconds), int(modules), ' '.join(found)


def main() -> None:
    from mtkd_cd.cli.main import COMMANDS

    statements = {f'import {name}': f'import {name}' for name in IMPORTS}
    statements |= {
        f'mtkd-cd {name} --help': f'from mtkd_cd.cli.main import main; main([{name!r}, "--help"])'
        for name in COMMANDS
    }
    wanted = sys.argv[1:]
    print('| what | CPU s | modules | of them |\n|---|---|---|---|')
    for title, statement in statements.items():
        if not wanted or any(word in title for word in wanted):
            seconds, modules, found = cost(statement)
            print(f'| `{title}` | {seconds:.2f} | {modules} | {found} |', flush=True)


if __name__ == '__main__':
    main()
