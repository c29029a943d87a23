"""``mtkd-cd COMMAND ...``: finds the command's module and runs it."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from mtkd_cd.core.text import did_you_mean
from mtkd_cd.version import __version__

_INTRODUCTION = """usage: mtkd-cd COMMAND [ARGUMENT ...]

Remote-sensing change detection with origin-partition cascades and multi-teacher knowledge
distillation (arXiv:2502.13407).
"""


class Command(NamedTuple):
    """A command.

    Attributes:
        module: Its module in :mod:`mtkd_cd.cli`, imported when the command is called.
        help: What it does, in one line.
        builds: Whether it builds what configs name: models, data sets. The others start sooner.
    """

    module: str
    help: str
    builds: bool = True


GROUPS: dict[str, dict[str, Command]] = {
    'Train and test': {
        'train': Command('train', 'train a config: an origin, a specialist, a student'),
        'test': Command('test', "test a config's weights, or a cascade of origin and specialists"),
        'recipe': Command('recipe', 'all steps for one model: origin, specialists, student, table'),
        'config': Command('config', 'print the whole config of a model and strategy'),
    },
    'Predict': {
        'predict': Command('predict', 'what changed between two rasters or pictures, no label'),
        'bundle': Command('bundle', 'a trained model as one file: create, inspect, verify'),
        'stack': Command('stack', 'both dates in one raster, for QGIS Deepness'),
        'export': Command('export', 'a trained model to ONNX, .pt2 or OpenVINO, checked'),
        'demo': Command('demo', 'a page in the browser: two images in, what changed out'),
    },
    'Data': {
        'check-data': Command(
            'check_data', 'open every file of a data set, list what is wrong', builds=False
        ),
        'car-stats': Command(
            'car_stats', 'CAR distribution of a data set, and thresholds for it', builds=False
        ),
        'browse': Command('browse', 'draw training pairs as the model sees them'),
        'make-synthetic': Command(
            'make_synthetic', 'write a synthetic data set; no download', builds=False
        ),
    },
    'Results': {
        'compare': Command(
            'compare', 'one report on the per-image tables of several runs', builds=False
        ),
        'tables': Command(
            'tables', 'pack per-image tables into one file, or unpack it', builds=False
        ),
        'evaluate': Command('evaluate', 'score change maps against labels on any grid'),
        'score': Command('score', 'score change masks on disk against their labels'),
        'visualize': Command('visualize', 'put predictions of runs beside images and label'),
    },
    'Models': {
        'complexity': Command('complexity', "parameters and FLOPs, beside the paper's"),
        'migrate': Command('migrate', "rewrite one of Open-CD's configs for this package"),
        'convert-weights': Command('convert_weights', 'rewrite published weights in our names'),
    },
    'Experiments': {
        'matrix': Command('matrix', 'models x seeds x strategies, here or on Slurm'),
        'search-lambda': Command('search_lambda', 'search the weight of the distillation loss'),
        'search-thresholds': Command('search_thresholds', 'compare CAR thresholds'),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit the process with its code; 2 for an unknown command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ('-h', '--help'):
        from mtkd_cd.cli.common import run_tool

        run_tool(_show_overview, arguments, builds=False)
    name, rest = arguments[0], arguments[1:]
    if name == '--version':
        print(f'mtkd-cd {__version__}')
        sys.exit(0)
    if name not in COMMANDS:
        print(f'error: {_unknown(name)}', file=sys.stderr)
        sys.exit(2)
    # argparse takes the name of the program that its usage line shows from here.
    sys.argv = [f'mtkd-cd {name}', *rest]
    command = COMMANDS[name]
    run_command(command.module, None if argv is None else rest, builds=command.builds)


def run_command(module: str, argv: Sequence[str] | None = None, builds: bool = True) -> None:
    """Run the command in a module of :mod:`mtkd_cd.cli`, by default with the arguments of the
    process, and exit. ``builds``: see :class:`Command`."""
    from mtkd_cd.cli.common import run_tool

    run_tool(lambda argv: import_module(f'mtkd_cd.cli.{module}').main(argv), argv, builds=builds)


def _show_overview(argv: Sequence[str] | None) -> int:
    print(_overview())
    return 0 if argv else 2


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [_INTRODUCTION]
    for title, group in GROUPS.items():
        lines.append(f'{title}:')
        lines += [f'  {name:{width}}{command.help}' for name, command in group.items()]
        lines.append('')
    lines.append('mtkd-cd COMMAND --help tells the arguments of a command; mtkd-cd --version.')
    return '\n'.join(lines)


def _unknown(name: str) -> str:
    advice = did_you_mean(name.replace('_', '-'), COMMANDS) or 'mtkd-cd --help lists the commands'
    return f'there is no command {name!r}: {advice}'
