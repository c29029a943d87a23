"""What training and prediction cost, ours against a plain re-implementation of what the toolbox
does, as one Markdown table.

    python benchmarks/run_all.py [--models changer_mitb0 bit_r18 ...] [--size 128] [--batch 8]
        [--rounds 9] [--parts steps pipeline memory]

Both sides are measured in turn in one process, by its CPU time, so that whatever else the machine
does hits them alike; the medians are compared. ``steps``, for each model:

- ``MTKD step``: the distiller against the plain step, in which the head runs a second time for the
  change map and teachers see one image at a time, each in its own forward pass.
- ``MTKD / origin``: our step under MTKD against our step of the origin alone; both rows by the
  clock on the wall too, for teachers answer on a second thread.
- ``origin step``: the origin's step alone, against the plain one.
- ``teachers``: the teachers alone, as in the MTKD step.
- ``teachers, stacked``: ours one after the other against ours stacked (``teacher_batching``).
- ``windows``: sliding windows in batches through a prepared detector, against one by one.
- ``O-P``: pairs through the cascade one by one, against detectors as built.

``order`` is our step of an origin, its convolutions in the usual memory order against channels-last
order. ``forward`` is one pair through a prepared detector against the network as the toolbox runs
it: a pass for each date and mmcv's attention. ``compile`` is teachers and the MTKD step with
``torch.compile`` of the teachers against those without; it needs a C++ compiler on the CPU.
``pipeline`` is the training pipeline of 512 x 512 pairs in PNG files (P1), from the files and with
decoded images kept (``cache='ram'``), against the transforms of mmcv in the same order. ``memory``
is the peak of the resident memory during MTKD steps above what was resident before, each side in
three processes of its own, of which the middle one counts; ours keeps freed memory, as our commands
do. ``command`` is O-P over 60 synthetic pairs of 256 x 256, imports included, CPU
time of the processes; ours is ``mtkd-cd test configs/op/NAME.py``:

- ``O-P, whole commands``: against O-P as the toolbox's users run it, a test command for the origin
  and one for each range, with maps in files between them (toolbox.py).
- ``O-P, whole command``: against a cascade in one process, which the toolbox does not have.

``--precisions float32 bfloat16`` measures MTKD steps and commands with our frozen detectors in
either.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from gpu_check import build_distiller, make_batch, model_config
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from toolbox import RANGES, PlainPipeline, PlainStep, as_the_toolbox, run_o_p, start

import mtkd_cd  # noqa: F401  (registers)
from mtkd_cd.core.allocator import keep_freed_memory
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.precision import FULL, PRECISIONS
from mtkd_cd.data.synthetic import make_dataset
from mtkd_cd.engine.hooks.channels_last import reorder_weights
from mtkd_cd.models.mtkd.stacking import Asking
from mtkd_cd.models.prepare import prepare
from mtkd_cd.registry import DATASETS, MODELS

_MODELS = ('changer_mitb0', 'bit_r18', 'fc_siam_diff', 'tinycd')
_PARTS = ('steps', 'order', 'forward', 'compile', 'pipeline', 'command', 'memory')
_CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
_DATA = _CONFIGS / '_base_' / 'datasets' / 'jl1cd.py'
_PAIRS = 12  # of the pipeline
_TEST_PAIRS = 60  # of the whole command
_PROCESSES = 3  # of each side, for memory


def compare(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """The median CPU seconds of calls that take turns, after a round to warm up."""
    return [cpu for cpu, _ in compare_both(rounds, *calls)]


def compare_both(rounds: int, *calls: Callable[[], object]) -> list[tuple[float, float]]:
    """The same, (CPU, by the clock on the wall)."""
    seconds: list[list[tuple[float, float]]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, spent in zip(calls, seconds):
            start = time.process_time(), time.perf_counter()
            call()
            if number:
                spent.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return [tuple(map(statistics.median, zip(*spent))) for spent in seconds]


def measure(
    name: str, size: int, pairs: int, rounds: int, wanted: str, precisions: Sequence[str]
) -> list[tuple[str, float, float]]:
    """Rows (what, plain seconds, our seconds) of a model whose names begin as wanted. MTKD steps
    with teachers in each of the precisions."""
    torch.manual_seed(0)
    config = model_config(name)
    batch = make_batch(size, pairs, 'cpu')
    plain = PlainStep(config)
    distillers = {
        precision: build_distiller(config, teacher_options=dict(precision=precision)).train()
        for precision in precisions
    }
    origin = MODELS.build(config).train()
    for one in (*distillers.values(), origin):
        reorder_weights(one)  # as the configs' hook does
    distiller = distillers[precisions[0]]
    inputs = distiller.data_preprocessor(batch, True)['inputs']
    teachers = distiller.distillation.teachers

    def teach() -> None:
        for i, teacher in enumerate(RANGES):
            teachers.change_maps(teacher, inputs[i :: len(RANGES)])

    window = dict(mode='slide', crop_size=(size, size), stride=(size, size))
    with as_the_toolbox():
        as_built = MODELS.build({**config, 'test_cfg': dict(mode='whole')}).eval()
    prepared = prepare(MODELS.build({**config, 'test_cfg': window}))
    picture = torch.randn(1, 6, 2 * size, 2 * size)

    @as_the_toolbox()
    def each_window() -> None:
        with torch.no_grad():
            for top in (0, size):
                for left in (0, size):
                    crop = picture[:, :, top : top + size, left : left + size]
                    as_built(crop, mode='predict')

    origin_wrapper = OptimWrapper(torch.optim.AdamW(origin.parameters(), lr=1e-5, fused=True))
    questions = [(teacher, inputs[i :: len(RANGES)]) for i, teacher in enumerate(RANGES)]

    def ask(how: Asking) -> Callable[[], object]:
        def call() -> None:
            teachers._ask = how
            teachers.all_change_maps(questions)

        return call

    def step(distiller: Any) -> Callable[[], object]:
        distiller.distillation.teachers._ask = Asking('grouped')
        optimiser = torch.optim.AdamW(distiller.parameters(), lr=1e-5, fused=True)
        return partial(distiller.train_step, batch, OptimWrapper(optimiser))

    cascade = MODELS.build(dict(type='OriginPartitionCascade', origin=config)).eval()

    @as_the_toolbox()
    def plain_cascade() -> None:
        with torch.no_grad():
            for one in inputs.split(1):
                as_built(one, mode='predict')
                as_built(one, mode='predict')

    def our_cascade() -> None:
        for one in inputs.split(1):
            cascade(one)

    rows = [
        ('teachers', lambda: plain.teach(inputs), teach),
        ('teachers, stacked', ask(Asking('grouped')), ask(Asking('stacked'))),
        ('windows', each_window, lambda: prepared(picture, mode='predict')),
        ('O-P', plain_cascade, our_cascade),
    ]
    found = []
    if 'MTKD step'.startswith(wanted):
        steps = [step(one) for one in distillers.values()]
        calls = (lambda: plain(batch), *steps, lambda: origin.train_step(batch, origin_wrapper))
        theirs_s, *ours, origin_s = compare_both(rounds, *calls)
        for precision, ours_s in zip(precisions, ours):
            suffix = _suffix(precision)
            for clock, name_of_clock in enumerate(('', ', wall')):
                times = theirs_s[clock], ours_s[clock], origin_s[clock]
                found.append((f'MTKD step{suffix}{name_of_clock}', *times[:2]))
                found.append((f'MTKD / origin{suffix}{name_of_clock}', *times[1:]))
    if 'origin step'.startswith(wanted):
        plain_origin = PlainStep(config, distill_weight=0)
        calls = (lambda: plain_origin(batch), lambda: origin.train_step(batch, origin_wrapper))
        found.append(('origin step', *compare(rounds, *calls)))
    for what, theirs, ours in rows:
        if not what.startswith(wanted):
            continue
        try:
            found.append((what, *compare(rounds, theirs, ours)))
        except UserError as error:
            print(f'{name}, {what}: {error}', file=sys.stderr)
    return found


def measure_order(name: str, size: int, pairs: int, rounds: int) -> list[float]:
    """Seconds of an origin's step in the usual memory order and in channels-last order."""
    torch.manual_seed(0)
    config, batch = model_config(name), make_batch(size, pairs, 'cpu')
    calls = []
    for ordered in (False, True):
        origin = MODELS.build(config).train()
        reorder_weights(origin, on_cpu=ordered)
        optimiser = torch.optim.AdamW(origin.parameters(), lr=1e-5, fused=True)
        calls.append(partial(origin.train_step, batch, OptimWrapper(optimiser)))
    return compare(rounds, *calls)


def _suffix(precision: str) -> str:
    """What tells rows of a precision apart."""
    return '' if precision == FULL else f', {precision}'


def measure_forward(name: str, size: int, rounds: int) -> tuple[float, float, float]:
    """Seconds of a pair for the plain and the prepared network, and the largest difference of their
    change maps in units of the largest value."""
    pair = torch.randn(1, 6, size, size)
    torch.manual_seed(0)
    with as_the_toolbox():
        plain = MODELS.build(model_config(name)).eval()
    built = MODELS.build(model_config(name)).eval()
    built.load_state_dict(plain.state_dict())
    prepared = prepare(built)

    def theirs() -> Any:
        with as_the_toolbox(), torch.no_grad():
            return plain(pair, mode='tensor')

    def ours() -> Any:
        return prepared(pair, mode='tensor')

    one, other = (
        found if isinstance(found, torch.Tensor) else found[-1] for found in (theirs(), ours())
    )
    difference = float((one - other).abs().max() / one.abs().max())
    return (*compare(rounds, theirs, ours), difference)


def measure_compile(
    name: str, size: int, pairs: int, rounds: int
) -> tuple[list[tuple[str, float, float]], float]:
    """Rows (what, seconds as they are, seconds compiled), and the seconds of the first batch."""
    batch = make_batch(size, pairs, 'cpu')
    calls: dict[str, list[Callable[[], object]]] = {'teachers': [], 'MTKD step': []}
    for compiled in (False, True):
        torch.manual_seed(0)
        options = dict(compiled=compiled)
        distiller = build_distiller(model_config(name), teacher_options=options).train()
        wrapper = OptimWrapper(torch.optim.AdamW(distiller.parameters(), lr=1e-5, fused=True))
        inputs = distiller.data_preprocessor(batch, True)['inputs']
        questions = [(teacher, inputs[i :: len(RANGES)]) for i, teacher in enumerate(RANGES)]
        teachers = distiller.distillation.teachers
        calls['teachers'].append(partial(teachers.all_change_maps, questions))
        calls['MTKD step'].append(partial(distiller.train_step, batch, wrapper))
    start = time.perf_counter()
    calls['teachers'][1]()
    first = time.perf_counter() - start
    return [
        (f'{what}, teachers compiled', *compare(rounds, *both)) for what, both in calls.items()
    ], first


def measure_pipeline(rounds: int) -> list[tuple[str, float, float]]:
    """Rows (what, plain seconds, our seconds) for a pair."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(folder, num_train=_PAIRS, num_val=1, num_test=1, size=512)
        rows = []
        for what, cache in (('pipeline', None), ("pipeline, cache='ram'", 'ram')):
            steps = Config.fromfile(_DATA).train_pipeline
            for step in steps[:2]:
                step.cache = cache
            dataset = DATASETS.build(
                dict(type='JL1_CD_Dataset', data_root=folder, split='train', pipeline=steps)
            )
            plain = PlainPipeline()

            def theirs(dataset: Any = dataset, plain: PlainPipeline = plain) -> None:
                for index in range(_PAIRS):
                    plain(dataset.get_data_info(index))

            def ours(dataset: Any = dataset) -> None:
                for index in range(_PAIRS):
                    dataset[index]

            seconds = compare(rounds, theirs, ours)
            rows.append((what, *(one / _PAIRS for one in seconds)))
    return rows


def measure_command(
    name: str, rounds: int, precisions: Sequence[str]
) -> list[tuple[str, float, float]]:
    """Rows (what, plain seconds, our seconds) of O-P over a test set, each side in processes of its
    own, in turn. Ours in each of the precisions, and in the first with pictures too."""
    with tempfile.TemporaryDirectory() as folder:
        data, work = Path(folder, 'data'), Path(folder, 'work_dirs')
        make_dataset(data, num_train=1, num_val=1, num_test=_TEST_PAIRS, size=256)
        torch.manual_seed(0)
        detector = MODELS.build(model_config(name))
        places = [work / 'origin' / name, *(work / 'partition' / name / one for one in RANGES)]
        for place in places:
            place.mkdir(parents=True)
            torch.save(detector.state_dict(), place / 'best.pth')
        weights = places[0] / 'best.pth'
        thresholds = _tertiles(detector, data)
        ours = ['-m', 'mtkd_cd', 'test', str(_CONFIGS / 'op' / f'{name}.py')]
        ours += ['--data-root', str(data), '--num-workers', '0']
        ours += ['--cfg-options', f'model.thresholds=[{thresholds[0]},{thresholds[1]}]']

        def in_one() -> None:
            start('cascade', name, data, weights, '--thresholds', *thresholds)

        def by_commands() -> None:
            with tempfile.TemporaryDirectory() as maps:
                run_o_p(name, data, weights, thresholds, Path(maps))

        def test(*options: str) -> None:
            command = [sys.executable, *ours, *options]
            subprocess.run(command, cwd=folder, capture_output=True, check=True)

        calls: dict[str, Callable[[], None]] = dict(in_one=in_one, by_commands=by_commands)
        calls['pictures'] = partial(test, '--show-dir', str(work / 'pictures'))
        calls |= {one: partial(test, '--precision', one) for one in precisions}
        took: dict[str, list[float]] = {what: [] for what in calls}
        for _ in range(rounds):
            for what, call in calls.items():
                took[what].append(_with_children(call))
    seconds = {what: statistics.median(one) for what, one in took.items()}
    what = 'O-P, whole command'
    rows = []
    for one in precisions:
        rows.append((f'{what}s{_suffix(one)}', seconds['by_commands'], seconds[one]))
        rows.append((f'{what}{_suffix(one)}', seconds['in_one'], seconds[one]))
    rows.append((f'{what}s, ours with pictures', seconds['by_commands'], seconds['pictures']))
    return rows


def _tertiles(detector: Any, data: Path) -> tuple[float, float]:
    """Thresholds that send a third of the test pairs to each specialist."""
    detector = prepare(detector.eval())
    cars = []
    for path in sorted((data / 'test' / 'A').iterdir()):
        dates = [cv2.imread(str(data / 'test' / date / path.name)) for date in ('A', 'B')]
        inputs = [torch.from_numpy(cv2.merge(dates)).permute(2, 0, 1)]
        pair = detector.data_preprocessor(dict(inputs=inputs), False)['inputs']
        cars.append(float(detector(pair, mode='predict')[0].pred_sem_seg.data.float().mean()))
    small, large = statistics.quantiles(cars, n=3)
    if small == large:
        sys.exit(f'random weights find {small:.1%} changed in most pairs: choose other --models')
    return small, large


def _with_children(call: Callable[[], None]) -> float:
    """CPU seconds of a call and of the processes that it starts. They may keep bytecode, as those
    of users do."""
    os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
    before = os.times()
    call()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


def peak_mib(name: str, size: int, pairs: int, side: str) -> float:
    """Peak of the resident memory of three MTKD steps above what was resident before, in this
    process."""
    torch.manual_seed(0)
    config = model_config(name)
    batch = make_batch(size, pairs, 'cpu')
    if side == 'plain':
        plain = PlainStep(config)
        step: Callable[[], object] = lambda: plain(batch)  # noqa: E731
    else:
        keep_freed_memory()
        distiller = build_distiller(config).train()
        reorder_weights(distiller)
        wrapper = OptimWrapper(torch.optim.AdamW(distiller.parameters(), lr=1e-5, fused=True))
        step = lambda: distiller.train_step(batch, wrapper)  # noqa: E731
    before = int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before / 2**20


def measure_memory(name: str, size: int, pairs: int) -> list[float]:
    """MiB of the plain and of our MTKD step, each in processes of its own."""
    found: dict[str, list[float]] = {'plain': [], 'ours': []}
    for side in [*found] * _PROCESSES:
        command = [sys.executable, __file__, '--child', side, '--models', name]
        command += ['--size', str(size), '--batch', str(pairs)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        found[side].append(float(run.stdout.strip().splitlines()[-1]))
    return [statistics.median(figures) for figures in found.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', default=_MODELS)
    parser.add_argument('--size', type=int, default=128)
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--out', type=Path, help='write the table here too')
    parser.add_argument('--parts', nargs='+', choices=_PARTS, default=_PARTS)
    parser.add_argument('--rows', default='', help='of steps, those whose names begin so')
    parser.add_argument(
        '--precisions',
        nargs='+',
        choices=PRECISIONS,
        default=[FULL],
        help='of what is frozen on our side: teachers, and detectors of a command',
    )
    parser.add_argument('--child', help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', 1)))
    DefaultScope.get_instance('benchmark', scope_name='mtkd_cd')
    if args.child:
        print(peak_mib(args.models[0], args.size, args.batch, args.child))
        return
    table = Table(args)
    if 'pipeline' in args.parts:
        for what, plain, ours in measure_pipeline(args.rounds):
            table.add('-', what, 1000 * plain, 1000 * ours, 'ms per pair')
    if 'steps' in args.parts:
        for name in args.models:
            options = (args.size, args.batch, args.rounds, args.rows, args.precisions)
            for what, plain, ours in measure(name, *options):
                table.add(name, what, 1000 * plain, 1000 * ours, 'ms')
    if 'order' in args.parts:
        for name in args.models:
            usual, ordered = measure_order(name, args.size, args.batch, args.rounds)
            what = 'origin step, usual order / channels-last'
            table.add(name, what, 1000 * usual, 1000 * ordered, 'ms')
    if 'forward' in args.parts:
        for name in args.models:
            plain, ours, difference = measure_forward(name, args.size, args.rounds)
            table.add(name, 'forward', 1000 * plain, 1000 * ours, f'ms; differ by {difference:.0e}')
    if 'compile' in args.parts:
        for name in args.models:
            rows, first = measure_compile(name, args.size, args.batch, args.rounds)
            for what, plain, ours in rows:
                unit = f'ms; first batch {first:.0f} s'
                table.add(name, what, 1000 * plain, 1000 * ours, unit)
    if 'command' in args.parts:
        for name in args.models:
            for what, plain, ours in measure_command(name, args.rounds, args.precisions):
                table.add(name, what, plain, ours, 's')
    if 'memory' in args.parts:
        for name in args.models:
            table.add(name, 'memory', *measure_memory(name, args.size, args.batch), 'MiB')
    table.add_means()


class Table:
    """The table, printed and written line by line."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.out = args.out
        self.lines: list[str] = []
        self.ratios: dict[str, list[float]] = {}
        self._say(
            f'{platform.processor() or platform.machine()}, torch {torch.__version__}, '
            f'{torch.get_num_threads()} threads, {args.batch} pairs of {args.size} x {args.size}, '
            f'{args.rounds} rounds',
            '',
            '| model | what | plain | ours | unit | plain / ours |',
            '|---|---|---:|---:|---|---:|',
        )

    def add(self, model: str, what: str, plain: float, ours: float, unit: str) -> None:
        """A row."""
        self.ratios.setdefault(what, []).append(plain / ours)
        self._say(f'| {model} | {what} | {plain:.1f} | {ours:.1f} | {unit} | {plain / ours:.2f} |')

    def add_means(self) -> None:
        """The geometric means over the models."""
        for what, values in self.ratios.items():
            if len(values) > 1:
                mean = statistics.geometric_mean(values)
                self._say(f'| geometric mean | {what} | | | | {mean:.2f} |')

    def _say(self, *lines: str) -> None:
        self.lines += lines
        print('\n'.join(lines), flush=True)
        if self.out:
            self.out.write_text('\n'.join(self.lines) + '\n')


if __name__ == '__main__':
    main()
