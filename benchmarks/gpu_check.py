"""Tests, times and host synchronisations on one GPU, within a number of minutes.

    python benchmarks/gpu_check.py --minutes 5 --out OUTPUT_FOLDER

Five parts, in this order:

- ``tests`` runs tests/gpu.
- ``plain`` compares training steps of origin and student with steps as the toolbox makes them, see
  toolbox.py, on the same batch and in turns.
- ``syncs`` counts where one training step and one test step make the host wait for the GPU.
- ``times`` measures training steps of origin and student, in float32, mixed precision, compiled.
- ``teachers`` measures the three teachers alone, and lists the longest kernels of eager ones.

A process measures one thing after the other, since starting one can take a minute; one that fails
or takes too long is replaced and goes on with what is left. TTP comes last, in a process of its own
that imports while the other measures. What is there is written to ``gpu_check.json`` and
``gpu_check.md`` after each.
Without a GPU everything runs on the CPU, which says that the script works and no more; give it
``--size 64 --batch 2 --models fc_ef``.
"""

import argparse
import collections
import contextlib
import copy
import functools
import gc
import json
import math
import os
import platform
import queue
import resource
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
_PLAIN_MODELS = ('changer_mitb0', 'bit_r18', 'fc_siam_diff', 'tinycd')
_PARTS = ('tests', 'plain', 'syncs', 'times', 'teachers')
# Seconds of timed steps for one model against plain ones, and for the steps of one kind alone.
_PLAIN_SECONDS = 9
_STEP_SECONDS = 3
# Steps before those that count: in the fourth, teachers become CUDA graphs.
_WARM_UP = 5
# The longest that warming up may take, in seconds: at first cuDNN tries its algorithms.
_LONGEST_WARM_UP = 60
# The longest that one measurement may take, in seconds, and one of a model that is large or
# compiled.
_LONGEST = 100
_LONGEST_LARGE = 240
_LARGE = ('ttp_vitsam_l', 'ban_vitl14_mitb2')
# The share of the time that the tests may take where something follows them.
_TEST_SHARE = 0.4
# Measured in this order while there is time.
_SETTINGS = (
    'float32',
    'float32+bf16 teachers',
    'amp',
    'amp+stacked teachers',
    'amp+bf16 teachers',
    'amp+compile',
    # Without what training does by itself on a GPU.
    'float32+usual order',
    'float32+eager teachers',
    'amp+eager teachers',
)
_PLAIN_SETTINGS = ('float32', 'amp')
_FOUND = 'found: '
_MACHINE = 'machine: '
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
_TEACHER_COLUMNS = (
    ('model', 'model'),
    ('setting', 'setting'),
    ('ms', 'teachers, ms'),
    ('kernels', 'kernels'),
    ('kernel_ms', 'kernels, ms'),
)
_MOST_KERNELS = 12  # that are listed
_KERNEL_WIDTH = 100  # characters of their names
_PLAIN_COLUMNS = (
    ('model', 'model'),
    ('setting', 'setting'),
    ('plain_mtkd_ms', 'plain MTKD step, ms'),
    ('our_mtkd_ms', 'our MTKD step, ms'),
    ('mtkd_ratio', 'plain / ours'),
    ('plain_origin_ms', 'plain origin step, ms'),
    ('our_origin_ms', 'our origin step, ms'),
    ('origin_ratio', 'plain / ours'),
    ('step_ratio', 'our MTKD / origin'),
    ('our_bf16_mtkd_ms', 'our MTKD step, bf16 teachers, ms'),
    ('bf16_ratio', 'plain / ours'),
    ('bf16_step_ratio', 'our MTKD / origin'),
    ('plain_mtkd_mib', 'plain MTKD step, MiB'),
    ('our_mtkd_mib', 'our MTKD step, MiB'),
    ('mib_ratio', 'plain / ours'),
    ('rounds', 'rounds'),
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


def build_on(device: str, config: Any) -> Any:
    """Build a model whose weights are drawn on the device: a slow processor takes half a minute for
    the 300 million of TTP."""
    import torch

    from mtkd_cd.registry import MODELS

    with torch.device(device):
        return MODELS.build(config).to(device)


def build_distiller(config: Any, **options: Any) -> Any:
    """A distiller, with these options, and its teachers; ``config`` may be a detector, which is
    copied."""
    from mtkd_cd.registry import MODELS

    model = MODELS.build(dict(type='MultiTeacherDistiller', student=config, **options))
    model.teachers  # noqa: B018  (builds them)
    return model


def _device() -> str:
    import torch

    return 'cuda' if torch.cuda.is_available() else 'cpu'


def _wrapper(model: Any, amp: bool, device: str) -> Any:
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return _wrap(torch.optim.AdamW(trained, lr=1e-5, fused=True), amp, device)


def _wrap(optimizer: Any, amp: bool, device: str) -> Any:
    from mmengine.optim import AmpOptimWrapper, OptimWrapper

    from mtkd_cd.engine.optim import BFloat16OptimWrapper

    if not amp:
        return OptimWrapper(optimizer)
    if device == 'cpu':
        return BFloat16OptimWrapper(optimizer)
    return AmpOptimWrapper(loss_scale='dynamic', optimizer=optimizer)


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _held_mib() -> float:
    """What tensors hold on the GPU now, from where the peak is counted; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 2**20


def _peak_mib() -> float:
    """Of the GPU since :func:`_held_mib`; without one, of the process."""
    import torch

    if not torch.cuda.is_available():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return torch.cuda.max_memory_allocated() / 2**20


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _time_steps(step: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Median of the steps after those that warm up, and the first one, in seconds. Where one alone
    takes longer than there is time, the third step."""
    took = []
    deadline = time.perf_counter() + seconds
    while len(took) < _WARM_UP + 3 or (time.perf_counter() < deadline and len(took) < 33):
        start = time.perf_counter()
        step()
        _synchronize()
        took.append(time.perf_counter() - start)
        # Not the first, in which cuDNN tries its algorithms.
        if len(took) > 2 and took[-1] > seconds:
            break
    return statistics.median(took[_WARM_UP:] or took[-1:]), took[0]


def measure_times(name: str, setting: str, size: int, pairs: int) -> dict[str, Any]:
    """A row of the table, measured in this process. MiB are those of the model and its step."""
    import torch

    device = _device()
    amp = setting.startswith('amp')
    batch = make_batch(size, pairs, device)
    row: dict[str, Any] = dict(model=name, setting=setting)
    torch.manual_seed(0)
    _free()
    built = build_on(device, model_config(name))
    for kind in ('origin', 'mtkd'):
        held = _held_mib()
        model = copy.deepcopy(built) if kind == 'origin' else _distiller_of(built, setting)
        model = model.train() if 'usual order' in setting else _as_trained(model, amp)
        if 'compile' in setting:
            model.extract_feat = torch.compile(model.extract_feat)
        wrapper = _wrapper(model, amp, device)
        step = functools.partial(model.train_step, batch, wrapper)
        took, first = _time_steps(step, _STEP_SECONDS)
        row[f'{kind}_ms'] = round(1000 * took, 1)
        row[f'{kind}_pairs'] = round(pairs / took, 1)
        row[f'{kind}_mib'] = round(_peak_mib() - held)
        row['first_step_s'] = round(max(first, row.get('first_step_s', 0)), 1)
        loss = float(step()['loss'])
        if not math.isfinite(loss):
            row['error'] = f'the loss of {kind} is {loss}'
        del model, wrapper, step
        _free()
    row['ratio'] = round(row['mtkd_ms'] / row['origin_ms'], 2)
    return row


def _distiller_of(detector: Any, setting: str) -> Any:
    return build_distiller(
        detector,
        teacher_options=dict(
            precision='bfloat16' if 'bf16' in setting else 'float32',
            graphs='eager' not in setting,
        ),
        teacher_batching='stacked' if 'stacked' in setting else 'grouped',
    )


def measure_teachers(name: str, setting: str, size: int, pairs: int) -> dict[str, Any]:
    """A row of the table of teachers, measured in this process."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    device = _device()
    low = torch.float16 if device == 'cuda' else torch.bfloat16
    torch.manual_seed(0)
    _free()
    distiller = _distiller_of(build_on(device, model_config(name)), setting).train()
    inputs = distiller.data_preprocessor(make_batch(size, pairs, device), True)['inputs']
    teachers = distiller.distillation.teachers
    questions = [(teacher, inputs[i::3]) for i, teacher in enumerate(teachers.detectors)]

    def ask() -> None:
        with torch.autocast(device, dtype=low, enabled=setting.startswith('amp')):
            teachers.all_change_maps(questions)

    row: dict[str, Any] = dict(model=name, setting=setting)
    row['ms'] = round(1000 * _time_steps(ask, _STEP_SECONDS)[0], 1)
    if 'eager' in setting:
        activity = ProfilerActivity.CUDA if device == 'cuda' else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiled:
            ask()
            _synchronize()
        attribute = f'self_{"device" if device == "cuda" else "cpu"}_time_total'
        events = profiled.key_averages()
        spent = {event.key: getattr(event, attribute) / 1000 for event in events}
        count = {event.key: event.count for event in events}
        row['kernels'] = sum(count.values())
        row['kernel_ms'] = round(sum(spent.values()), 1)
        row['longest'] = [
            f'{spent[key]:.2f} ms, {count[key]} x {key[:_KERNEL_WIDTH]}'
            for key in sorted(spent, key=spent.get, reverse=True)[:_MOST_KERNELS]
        ]
    return row


def _as_trained(model: Any, amp: bool) -> Any:
    """In training mode, in the memory order that the tools train in."""
    from mtkd_cd.engine.hooks.channels_last import reorder_weights

    reorder_weights(model, on_cpu=amp or None)
    return model.train()


def measure_plain(name: str, setting: str, size: int, pairs: int) -> dict[str, Any]:
    """A row of our steps against plain ones, measured in this process. MiB are those above what was
    held before the step."""
    import torch
    from toolbox import PlainStep

    device = _device()
    amp = setting == 'amp'
    batch = make_batch(size, pairs, device)
    config = model_config(name)
    wrap = functools.partial(_wrap, amp=amp, device=device)
    _free()
    torch.manual_seed(0)

    def step_of(model: Any) -> Callable[[], object]:
        model = _as_trained(model, amp)
        return functools.partial(model.train_step, batch, _wrapper(model, amp, device))

    half = dict(precision='bfloat16')
    calls = dict(
        plain_mtkd=functools.partial(PlainStep(config, device=device, wrap=wrap), batch),
        our_mtkd=step_of(build_distiller(build_on(device, config))),
        our_bf16_mtkd=step_of(build_distiller(build_on(device, config), teacher_options=half)),
        plain_origin=functools.partial(
            PlainStep(config, distill_weight=0, device=device, wrap=wrap), batch
        ),
        our_origin=step_of(build_on(device, config)),
    )
    row = dict(model=name, setting=setting) | _take_turns(calls, _PLAIN_SECONDS)
    row['mtkd_ratio'] = round(row['plain_mtkd_ms'] / row['our_mtkd_ms'], 2)
    row['bf16_ratio'] = round(row['plain_mtkd_ms'] / row['our_bf16_mtkd_ms'], 2)
    row['origin_ratio'] = round(row['plain_origin_ms'] / row['our_origin_ms'], 2)
    row['step_ratio'] = round(row['our_mtkd_ms'] / row['our_origin_ms'], 2)
    row['bf16_step_ratio'] = round(row['our_bf16_mtkd_ms'] / row['our_origin_ms'], 2)
    if row.get('our_mtkd_mib'):
        row['mib_ratio'] = round(row['plain_mtkd_mib'] / row['our_mtkd_mib'], 2)
    return row


def _take_turns(
    calls: dict[str, Callable[[], object]],
    seconds: float,
    warm_up: int = _WARM_UP,
    rounds: int = 12,
) -> dict[str, Any]:
    """Medians of calls that take turns, in ms, and on a GPU their peaks of memory in MiB: 6 timed
    rounds at least, or 1 where those last too long."""
    import torch

    took: dict[str, list[float]] = {name: [] for name in calls}
    peaks: dict[str, float] = {}

    def one_round() -> None:
        for name, call in calls.items():
            held = _held_mib()
            before = time.perf_counter()
            call()
            _synchronize()
            took[name].append(time.perf_counter() - before)
            peaks[name] = max(peaks.get(name, 0), _peak_mib() - held)

    start = time.perf_counter()
    for _ in range(warm_up):
        one_round()
        if time.perf_counter() - start > _LONGEST_WARM_UP:
            break
    took = {name: [] for name in calls}
    peaks.clear()
    start = time.perf_counter()
    for timed in range(1, rounds + 1):
        one_round()
        elapsed = time.perf_counter() - start
        if elapsed > seconds or (timed >= 6 and elapsed > seconds / 2):
            break
    found: dict[str, Any] = dict(rounds=timed)
    for name, times in took.items():
        found[f'{name}_ms'] = round(1000 * statistics.median(times), 1)
        if torch.cuda.is_available():
            found[f'{name}_mib'] = round(peaks[name])
    return found


def count_syncs(name: str, size: int, pairs: int) -> dict[str, Any]:
    """Where a training step of the student and a test step wait for the device, after warm-up."""
    import torch

    from mtkd_cd.registry import METRICS

    device = _device()
    _free()
    model = build_distiller(build_on(device, model_config(name))).train()
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
        for _ in range(_WARM_UP):
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
            machine='', settings=dict(size=args.size, batch=args.batch, minutes=args.minutes)
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
        if self.data.get('plain'):
            rows = self.data['plain'] + _means(self.data['plain'])
            lines += ['', '## Against plain steps', '', *_table(_PLAIN_COLUMNS, rows)]
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
            lines += ['', '## Training steps', '', *_table(_COLUMNS, self.data['times'])]
        if self.data.get('teachers'):
            lines += ['', '## Teachers', '', *_table(_TEACHER_COLUMNS, self.data['teachers'])]
            for row in self.data['teachers']:
                if 'longest' in row:
                    lines += ['', f'{row["model"]}, {row["setting"]}:', '']
                    lines += [f'- {text}' for text in row['longest']]
        return '\n'.join(lines) + '\n'


def _table(columns: tuple[tuple[str, str], ...], rows: list[dict[str, Any]]) -> list[str]:
    lines = ['| ' + ' | '.join(title for _, title in columns) + ' |']
    lines.append('|---|---|' + '---:|' * (len(columns) - 2))
    for row in rows:
        cells = [str(row.get(key, '')) for key, _ in columns]
        lines.append('| ' + ' | '.join(cells) + f' | {row.get("error", "")}'.rstrip())
    return lines


def _means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The geometric means of the ratios over the models, a row for each setting."""
    means = []
    for setting in dict.fromkeys(row['setting'] for row in rows):
        mean: dict[str, Any] = dict(model='geometric mean', setting=setting)
        for key, title in _PLAIN_COLUMNS:
            if title not in ('plain / ours', 'our MTKD / origin'):
                continue
            ratios = [row[key] for row in rows if row['setting'] == setting and key in row]
            if ratios:
                mean[key] = round(statistics.geometric_mean(ratios), 2)
        means.append(mean)
    return means


def measure_all(
    tasks: list[Task],
    deadline: float,
    done: Callable[[Task, dict], None],
    found_machine: Callable[[str], None] = lambda name: None,
) -> None:
    """Have child processes measure, one task after the other, until the deadline.

    Args:
        tasks: (what, model, setting, size, batch); those of large models come last.
        deadline: Of ``time.monotonic()``.
        done: Called with each task and what was found, or an ``error``.
        found_machine: Called with the machine's name when a process knows it.
    """

    def is_large(task: Task) -> bool:
        return task[1] in _LARGE

    groups = [[task for task in tasks if is_large(task) is large] for large in (False, True)]
    with contextlib.ExitStack() as stack:
        # Both import at the same time; the second then waits.
        children = {
            i: stack.enter_context(_Child(group)) for i, group in enumerate(groups) if group
        }
        for i, group in enumerate(groups):
            while group and deadline - time.monotonic() > 10:
                child = children.pop(i, None) or stack.enter_context(_Child(group))
                child.start()
                for task in list(group):
                    is_long = is_large(task) or 'compile' in task[2]
                    longest = _LONGEST_LARGE if is_long else _LONGEST
                    found = child.next(min(longest, deadline - time.monotonic()))
                    if child.machine:
                        found_machine(child.machine)
                    done(task, found)
                    group.remove(task)
                    if 'lost' in found:
                        break
                child.stop()


class _Child:
    """A process of this script that imports what it needs, waits for :meth:`start`, and prints what
    it finds, a line for each task."""

    def __init__(self, tasks: list[Task]) -> None:
        self.machine = ''
        self._log = tempfile.TemporaryFile('w+')  # noqa: SIM115  (closed by stop)
        self._process = subprocess.Popen(
            [sys.executable, '-W', 'ignore', __file__, '--child', json.dumps(tasks)],
            env={**os.environ, 'PYTHONPATH': _python_path()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._lines: queue.Queue = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def start(self) -> None:
        """Let it measure."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which `next` says
            self._process.stdin.write('go\n')
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MACHINE):
                self.machine = line.removeprefix(_MACHINE).strip()
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
        self.stop()

    def stop(self) -> None:
        """End it, in the middle of a measurement too."""
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
    parser.add_argument(
        '--models',
        nargs='+',
        help=f'default: {" ".join(_PLAIN_MODELS)} against plain steps, else {" ".join(_MODELS)}',
    )
    parser.add_argument('--times-models', nargs='+', help='of times; default: those of --models')
    parser.add_argument('--settings', nargs='+', choices=_SETTINGS, default=_SETTINGS)
    parser.add_argument(
        '--plain-settings', nargs='+', choices=_PLAIN_SETTINGS, default=_PLAIN_SETTINGS[:1]
    )
    parser.add_argument('--tests', default='', help="pytest's -k")
    parser.add_argument('--size', type=int, default=512)
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--child', help=argparse.SUPPRESS)
    return parser.parse_args()


def _run_child(tasks: list[Task]) -> None:
    import torch
    from mmengine.registry import DefaultScope

    import mtkd_cd  # noqa: F401  (registers)
    from mtkd_cd.registry import MODELS

    DefaultScope.get_instance('benchmark', scope_name='mtkd_cd')
    torch.backends.cudnn.benchmark = True  # as the configs have it
    for model in dict.fromkeys(task[1] for task in tasks if task[1] in _LARGE):
        # Imports what only this model needs, peft for one.
        with contextlib.suppress(Exception), torch.device('meta'):
            MODELS.build(model_config(model))
    if not sys.stdin.readline():  # the parent has ended
        return
    print(_MACHINE + _machine(), flush=True)
    for task, model, setting, size, batch in tasks:
        try:
            if task == 'syncs':
                found = count_syncs(model, size, batch)
            else:
                measure = dict(plain=measure_plain, times=measure_times, teachers=measure_teachers)[
                    task
                ]
                found = measure(model, setting, size, batch)
        except Exception as error:  # whatever it is, the next one may do
            found = dict(error=f'{type(error).__name__}: {error}'[:300])
        print(_FOUND + json.dumps(found), flush=True)


def _tasks(args: argparse.Namespace) -> list[Task]:
    """What to measure, the most important first."""
    plain_models = [model for model in args.models or _PLAIN_MODELS if model not in _LARGE]
    models = sorted(args.models or _MODELS, key=lambda model: model in _LARGE)
    timed = args.times_models or models
    tasks = []
    if 'plain' in args.parts:
        tasks += [('plain', model, s) for s in args.plain_settings for model in plain_models]
    if 'syncs' in args.parts:
        tasks.append(('syncs', models[0], '-'))
    for part in ('times', 'teachers'):
        if part in args.parts:
            tasks += [(part, model, setting) for setting in args.settings for model in timed]
    tasks.sort(key=lambda task: task[1] in _LARGE)
    return [(*task, args.size, args.batch) for task in tasks]


def main() -> None:
    args = _parse()
    if args.child:
        _run_child(json.loads(args.child))
        return
    deadline = time.monotonic() + 60 * args.minutes
    report = Report(args.out, args)
    report.write()
    if 'tests' in args.parts:
        share = _TEST_SHARE if len(args.parts) > 1 else 1
        report.data['tests'] = run_tests(args.out, share * 60 * args.minutes, args.tests)
        report.write()
        print(report.data['tests']['summary'], flush=True)
    start = time.monotonic()

    def done(task: Task, found: dict[str, Any]) -> None:
        what, model, setting, *_ = task
        found |= dict(after_s=round(time.monotonic() - start, 1))
        report.data.setdefault(what, []).append(dict(model=model, setting=setting) | found)
        report.write()
        print(what, model, setting, json.dumps(found), flush=True)

    measure_all(_tasks(args), deadline, done, lambda name: report.data.update(machine=name))
    if not report.data['machine']:
        report.data['machine'] = _machine()
        report.write()
    print(f'written to {args.out}')


if __name__ == '__main__':
    main()
