"""Tests, times and host synchronisations on one GPU, within a number of minutes.

    python benchmarks/gpu_check.py --minutes 5 --out OUTPUT_FOLDER

Three parts: ``tests`` runs tests/gpu; ``syncs`` counts where one training step and one test step
make the host wait for the GPU; ``times`` measures training steps of origin and student, in float32,
mixed precision and compiled. A process measures one thing after the other, since starting one can
take a minute; one that fails or takes too long is replaced and goes on with what is left. TTP comes
last, with a process and a time of its own. What is there is written to ``gpu_check.json`` and
``gpu_check.md`` after each.
Without a GPU everything runs on the CPU, which says that the script works and no more; give it
``--size 64 --batch 2 --models fc_ef``.
"""

import argparse
import collections
import json
import os
import platform
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

_REPO = Path(__file__).resolve().parents[1]
_MODELS = ('changer_mitb0', 'tinycd', 'bit_r18', 'ttp_vitsam_l')
_PARTS = ('tests', 'syncs', 'times')
# The longest that one measurement may take, in seconds, and one of a model that is large.
_LONGEST = 90
_LONGEST_LARGE = 240
_LARGE = ('ttp_vitsam_l', 'ban_vitl14_mitb2')
# The share of the time that the tests may take where something follows them.
_TEST_SHARE = 0.4
# Measured in this order while there is time.
_SETTINGS = ('float32', 'amp', 'amp+bf16 teachers', 'amp+compile')
_FOUND = 'found: '
Task = tuple[str, str, str, int, int]  # what, model, setting, size, batch
_COLUMNS = (
    ('model', 'model'),
    ('setting', 'setting'),
    ('origin_ms', 'origin step, ms'),
    ('mtkd_ms', 'MTKD step, ms'),
    ('ratio', 'MTKD / origin'),
    ('origin_pairs', 'origin, pairs/s'),
    ('mtkd_pairs', 'MTKD, pairs/s'),
    ('origin_mib', 'origin, MiB'),
    ('mtkd_mib', 'MTKD, MiB'),
    ('first_step_s', 'first step, s'),
)


def make_batch(size: int, pairs: int, device: str) -> dict[str, Any]:
    """Random pairs whose labels fall into the three ranges in turn."""
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for i in range(pairs):
        car = (0.02, 0.1, 0.5)[i % 3]
        label = (torch.rand(1, size, size) < car).long().to(device)
        sample = SegDataSample(gt_sem_seg=PixelData(data=label))
        shape = (size, size)
        sample.set_metainfo(dict(car=car, img_shape=shape, ori_shape=shape, img_path=f'{i}.png'))
        samples.append(sample)
    images = torch.randint(0, 256, (pairs, 6, size, size), dtype=torch.uint8).to(device)
    return dict(inputs=list(images), data_samples=samples)


def model_config(name: str) -> Any:
    from mmengine.config import Config

    config = Config.fromfile(_REPO / 'configs' / '_base_' / 'models' / f'{name}.py')
    config.merge_from_dict(dict(model=dict(pretrained=None)))
    return _without_init_files(config.model)


def _without_init_files(node: Any) -> Any:
    if isinstance(node, dict):
        if isinstance(node.get('init_cfg'), dict) and 'checkpoint' in node['init_cfg']:
            node['init_cfg'] = None
        for value in node.values():
            _without_init_files(value)
    return node


def build_distiller(config: Any, teacher_options: dict[str, Any] | None = None) -> Any:
    from mtkd_cd.registry import MODELS

    model = MODELS.build(
        dict(type='MultiTeacherDistiller', student=config, teacher_options=teacher_options or {})
    )
    model.teachers  # noqa: B018  (builds them)
    return model


def _wrapper(model: Any, amp: bool, device: str) -> Any:
    import torch
    from mmengine.optim import AmpOptimWrapper, OptimWrapper

    from mtkd_cd.engine.optim import BFloat16OptimWrapper

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    if not amp:
        return OptimWrapper(optimizer)
    if device == 'cpu':
        return BFloat16OptimWrapper(optimizer)
    return AmpOptimWrapper(loss_scale='dynamic', optimizer=optimizer)


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak_mib(reset: bool = False) -> float:
    import torch

    if not torch.cuda.is_available():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated() / 2**20


def _time_steps(step: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Median of the steps and the first one, in seconds."""
    took = []
    deadline = time.perf_counter() + seconds
    while len(took) < 6 or (time.perf_counter() < deadline and len(took) < 33):
        start = time.perf_counter()
        step()
        _synchronize()
        took.append(time.perf_counter() - start)
        if took[0] > seconds and len(took) > 2:
            break
    return statistics.median(took[3:] or took[-1:]), took[0]


def measure_times(name: str, setting: str, size: int, pairs: int) -> dict[str, Any]:
    """A row of the table, measured in this process."""
    import torch

    from mtkd_cd.registry import MODELS

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    amp = setting.startswith('amp')
    batch = make_batch(size, pairs, device)
    row: dict[str, Any] = dict(model=name, setting=setting)
    for kind in ('origin', 'mtkd'):
        torch.manual_seed(0)
        config = model_config(name)
        options = dict(precision='bfloat16') if 'bf16' in setting else {}
        model = MODELS.build(config) if kind == 'origin' else build_distiller(config, options)
        model = model.to(device).to(memory_format=torch.channels_last).train()
        if 'compile' in setting:
            model.extract_feat = torch.compile(model.extract_feat)
        wrapper = _wrapper(model, amp, device)
        _peak_mib(reset=True)
        took, first = _time_steps(lambda m=model, w=wrapper: m.train_step(batch, w), 5)
        row[f'{kind}_ms'] = round(1000 * took, 1)
        row[f'{kind}_pairs'] = round(pairs / took, 1)
        row[f'{kind}_mib'] = round(_peak_mib())
        row['first_step_s'] = round(max(first, row.get('first_step_s', 0)), 1)
        del model, wrapper
    row['ratio'] = round(row['mtkd_ms'] / row['origin_ms'], 2)
    return row


def count_syncs(name: str, size: int, pairs: int) -> dict[str, Any]:
    """Where a training step of the student and a test step wait for the device, after warm-up."""
    import torch

    from mtkd_cd.registry import METRICS

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = build_distiller(model_config(name)).to(device).train()
    wrapper = _wrapper(model, False, device)
    batch = make_batch(size, pairs, device)
    metric = METRICS.build(dict(type='PerImageChangeMetric'))

    def test_step() -> None:
        with torch.no_grad():
            predicted = model.eval().test_step(batch)
        metric.process(batch, [sample.to_dict() for sample in predicted])

    steps = {
        'training step': lambda: model.train().train_step(batch, wrapper),
        'test step': test_step,
    }
    found: dict[str, Any] = dict(model=name)
    for kind, step in steps.items():
        for _ in range(3):
            step()
        _synchronize()
        places = _waits(step)
        found[kind] = dict(number=sum(places.values()), places=dict(places.most_common(12)))
    return found


def _waits(step: Callable[[], object]) -> collections.Counter:
    """Places in the code at which a call waits for the GPU; on the CPU, at which it reads a number
    out of a tensor."""
    import torch

    places: collections.Counter = collections.Counter()
    if not torch.cuda.is_available():
        from torch.utils._python_dispatch import TorchDispatchMode

        class Reads(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
                if 'local_scalar_dense' in str(func):
                    places[_place()] += 1
                return func(*args, **(kwargs or {}))

        with Reads():
            step()
        return places

    def note(message: Any, *args: Any, **kwargs: Any) -> None:
        if 'synchroniz' in str(message):
            places[_place()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode('warn')
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode('default')
    _synchronize()
    return places


def _place() -> str:
    """The innermost line outside torch and this file."""
    for frame in reversed(traceback.extract_stack()):
        inner = '/torch/' in frame.filename or frame.filename.endswith('gpu_check.py')
        if not inner and '/warnings' not in frame.filename:
            return f'{"/".join(Path(frame.filename).parts[-3:])}:{frame.lineno} {frame.name}'
    return 'unknown'


class Report:
    """What has been measured, on disk after each step.

    Args:
        folder: Where the two files go.
        args: The command line.
    """

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.folder = folder
        self.data: dict[str, Any] = dict(
            machine={}, settings=dict(size=args.size, batch=args.batch, minutes=args.minutes)
        )
        folder.mkdir(parents=True, exist_ok=True)

    def write(self) -> None:
        (self.folder / 'gpu_check.json').write_text(json.dumps(self.data, indent=1) + '\n')
        (self.folder / 'gpu_check.md').write_text(self._text())

    def _text(self) -> str:
        machine, settings = self.data['machine'], self.data['settings']
        lines = [
            '# Check on a GPU',
            '',
            f'{machine}; {settings["batch"]} pairs of {settings["size"]} x {settings["size"]}.',
        ]
        if 'tests' in self.data:
            lines += ['', '## Tests', '', f'`{self.data["tests"]["summary"]}`']
        if self.data.get('syncs'):
            lines += ['', '## Host synchronisations', '', '| model | step | number | places |']
            lines += ['|---|---|---:|---|']
            for row in self.data['syncs']:
                for kind in ('training step', 'test step'):
                    if kind in row:
                        places = ', '.join(f'{n} x `{p}`' for p, n in row[kind]['places'].items())
                        number = row[kind]['number']
                        lines.append(f'| {row["model"]} | {kind} | {number} | {places} |')
                if 'error' in row:
                    lines.append(f'| {row["model"]} | failed | | {row["error"]} |')
        if self.data.get('times'):
            lines += ['', '## Training steps', '']
            lines += ['| ' + ' | '.join(title for _, title in _COLUMNS) + ' |']
            lines += ['|---|---|' + '---:|' * (len(_COLUMNS) - 2)]
            for row in self.data['times']:
                cells = [str(row.get(key, '')) for key, _ in _COLUMNS]
                lines.append('| ' + ' | '.join(cells) + f' | {row.get("error", "")}'.rstrip())
        return '\n'.join(lines) + '\n'


def measure_all(tasks: list[Task], deadline: float, done: Callable[[Task, dict], None]) -> None:
    """Have child processes measure, one task after the other, until the deadline.

    Args:
        tasks: (what, model, setting, size, batch).
        deadline: Of ``time.monotonic()``.
        done: Called with each task and what was found, or an ``error``.
    """
    tasks = list(tasks)
    while tasks and deadline - time.monotonic() > 10:
        group = [task for task in tasks if (task[1] in _LARGE) == (tasks[0][1] in _LARGE)]
        longest = _LONGEST_LARGE if tasks[0][1] in _LARGE else _LONGEST
        with _Child(group) as child:
            for task in group:
                found = child.next(min(longest, deadline - time.monotonic()))
                done(task, found)
                tasks.remove(task)
                if 'lost' in found:
                    break


class _Child:
    """A process of this script that prints what it finds, a line for each task."""

    def __init__(self, tasks: list[Task]) -> None:
        self._log = tempfile.TemporaryFile('w+')  # noqa: SIM115  (closed by __exit__)
        self._process = subprocess.Popen(
            [sys.executable, '-W', 'ignore', __file__, '--child', json.dumps(tasks)],
            env={**os.environ, 'PYTHONPATH': _python_path()},
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._lines: queue.Queue = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_FOUND):
                self._lines.put(json.loads(line.removeprefix(_FOUND)))
        self._lines.put(None)

    def next(self, seconds: float) -> dict[str, Any]:
        """What was found next; ``error`` where it failed, ``lost`` too where the process is."""
        try:
            found = self._lines.get(timeout=max(seconds, 1))
        except queue.Empty:
            return dict(error=f'not done after {seconds:.0f} s', lost=True)
        if found is not None:
            return found
        self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines() or [f'exit {self._process.returncode}']
        return dict(error=lines[-1][:300], lost=True)

    def __enter__(self) -> '_Child':
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


def _python_path() -> str:
    return os.pathsep.join([str(_REPO), *filter(None, [os.environ.get('PYTHONPATH')])])


def run_tests(folder: Path, seconds: float, selected: str) -> dict[str, Any]:
    """Run tests/gpu in one process and keep its output as ``tests.log``; those that passed before
    the time was up count."""
    command = [sys.executable, '-m', 'pytest', '-v', '--tb=short', '-p', 'no:cacheprovider']
    command += ['tests/gpu/test_on_device.py', *(['-k', selected] if selected else [])]
    log = folder / 'tests.log'
    with log.open('w') as file:
        try:
            code: int | str = subprocess.run(
                command,
                cwd=_REPO,
                env={**os.environ, 'PYTHONPATH': _python_path()},
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=seconds,
            ).returncode
        except subprocess.TimeoutExpired:
            code = f'stopped after {seconds:.0f} s'
    lines = log.read_text().strip().splitlines() or ['']
    failed = [line[:300] for line in lines if line.startswith(('FAILED', 'ERROR'))]
    passed = sum(' PASSED' in line for line in lines)
    summary = lines[-1] if isinstance(code, int) else f'{code}: {passed} passed until then'
    return dict(code=code, summary=summary, passed=passed, failed=failed)


def _machine() -> str:
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
    return f'{name}, torch {torch.__version__}, Python {platform.python_version()}'


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=10, help='for everything; default: 10')
    parser.add_argument('--out', type=Path, default=Path(tempfile.gettempdir()) / 'gpu_check')
    parser.add_argument('--parts', nargs='+', choices=_PARTS, default=_PARTS)
    parser.add_argument('--models', nargs='+', default=_MODELS)
    parser.add_argument('--settings', nargs='+', choices=_SETTINGS, default=_SETTINGS)
    parser.add_argument('--tests', default='', help="pytest's -k")
    parser.add_argument('--size', type=int, default=512)
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--child', help=argparse.SUPPRESS)
    return parser.parse_args()


def _run_child(tasks: list[Task]) -> None:
    from mmengine.registry import DefaultScope

    import mtkd_cd  # noqa: F401  (registers)

    DefaultScope.get_instance('benchmark', scope_name='mtkd_cd')
    for task, model, setting, size, batch in tasks:
        try:
            found = (
                measure_times(model, setting, size, batch)
                if task == 'times'
                else count_syncs(model, size, batch)
            )
        except Exception as error:  # whatever it is, the next one may do
            found = dict(error=f'{type(error).__name__}: {error}'[:300])
        print(_FOUND + json.dumps(found), flush=True)


def main() -> None:
    args = _parse()
    if args.child:
        _run_child(json.loads(args.child))
        return
    deadline = time.monotonic() + 60 * args.minutes
    report = Report(args.out, args)
    report.data['machine'] = _machine()
    report.write()
    if 'tests' in args.parts:
        share = _TEST_SHARE if len(args.parts) > 1 else 1
        report.data['tests'] = run_tests(args.out, share * 60 * args.minutes, args.tests)
        report.write()
        print(report.data['tests']['summary'], flush=True)
    size, batch = args.size, args.batch
    small = [model for model in args.models if model not in _LARGE]
    large = [model for model in args.models if model in _LARGE]
    tasks = [('syncs', args.models[0], '-', size, batch)] if 'syncs' in args.parts else []
    if 'times' in args.parts:
        tasks += [
            ('times', model, setting, size, batch)
            for models in (small, large)
            for setting in args.settings
            for model in models
        ]

    def done(task: Task, found: dict[str, Any]) -> None:
        what, model, setting, *_ = task
        report.data.setdefault(what, []).append(dict(model=model, setting=setting) | found)
        report.write()
        print(what, model, setting, json.dumps(found), flush=True)

    measure_all(tasks, deadline, done)
    print(f'written to {args.out}')


if __name__ == '__main__':
    main()
