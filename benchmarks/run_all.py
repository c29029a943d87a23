"""What training and prediction cost, ours against a plain re-implementation of what the toolbox
does, as one Markdown table.

    python benchmarks/run_all.py [--models changer_mitb0 bit_r18 ...] [--size 128] [--batch 8]
        [--rounds 9] [--parts steps pipeline memory]

Both sides are measured in turn in one process, by its CPU time, so that whatever else the machine
does hits them alike; the medians are compared. ``steps``, for each model:

- ``MTKD step``: the distiller against the plain step, in which the head runs a second time for the
  change map and teachers see one image at a time, each in its own forward pass.
- ``MTKD / origin``: our step under MTKD against our step of the origin alone.
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
decoded images kept (``cache='ram'``), against the transforms of mmcv in the same order. ``command``
is the test of a cascade as a whole command, imports included: detectors as built that see 60
synthetic pairs of 256 x 256 one by one, mmseg's metric and mmengine without transformers, against
``mtkd-cd test configs/op/NAME.py``; CPU time of the processes. ``memory`` is the peak of the
resident memory during MTKD steps above what was resident before, each side in a process of its own.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from gpu_check import build_distiller, build_on, make_batch, model_config
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, load_checkpoint
from mmseg.models import EncoderDecoder, losses
from mmseg.models.utils import resize
from torch import nn

import mtkd_cd  # noqa: F401  (registers)
from mtkd_cd.apis import get_config
from mtkd_cd.core.car import DEFAULT_THRESHOLDS
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.precision import FULL, PRECISIONS
from mtkd_cd.data.synthetic import make_dataset
from mtkd_cd.engine.hooks.channels_last import reorder_weights

# Before `as_the_toolbox` replaces what they import.
from mtkd_cd.models import backbones, decode_heads, necks  # noqa: F401
from mtkd_cd.models.backbones import FC_EF
from mtkd_cd.models.decode_heads.bit import CrossAttention
from mtkd_cd.models.detectors.ban import BAN
from mtkd_cd.models.detectors.encoder_decoder import BitemporalEncoderDecoder
from mtkd_cd.models.layers import LeanSequential
from mtkd_cd.models.mtkd.stacking import Asking
from mtkd_cd.models.prepare import prepare
from mtkd_cd.registry import DATASETS, MODELS

_MODELS = ('changer_mitb0', 'bit_r18', 'fc_siam_diff', 'tinycd')
_RANGES = ('small', 'medium', 'large')
_PARTS = ('steps', 'order', 'forward', 'compile', 'pipeline', 'command', 'memory')
_CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
_DATA = _CONFIGS / '_base_' / 'datasets' / 'jl1cd.py'
_PAIRS = 12  # of the pipeline
_TEST_PAIRS = 60  # of the whole command
# Runs this file as the toolbox starts: with all that mmengine and mmseg import, but for
# transformers, which the toolbox does not ask for and mmengine imports where it is.
_AS_THE_TOOLBOX = """
import os, runpy, sys
sys.modules['transformers'] = None
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def compare(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """The median CPU seconds of calls that take turns, after a round to warm up."""
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, spent in zip(calls, seconds):
            start = time.process_time()
            call()
            if number:
                spent.append(time.process_time() - start)
    return [statistics.median(spent) for spent in seconds]


@contextmanager
def as_the_toolbox() -> Iterator[None]:
    """Inside, networks are built with mmcv's attention and run once for each date, heads resize all
    levels before they join and convolve them, BIT's pixels hold their weights of all tokens side by
    side, FC networks drop channels behind their ReLU, torchvision's SiLU overwrites its input, norm
    and activation are two layers, and accuracy and results are mmseg's."""

    def in_turn(function: Callable, date1: Any, date2: Any, weights: object) -> tuple[Any, Any]:
        return function(date1), function(date2)

    def leave(network: object) -> None:
        pass

    def encode_in_turn(self: Any, inputs: torch.Tensor) -> list[Any]:
        date1, date2 = self.split_dates(inputs)
        images1, images2 = (
            F.interpolate(date, **self.encoder_resolution) for date in (date1, date2)
        )
        maps = [
            [level if isinstance(level, torch.Tensor) else level[0] for level in levels]
            for levels in (self.image_encoder(images1), self.image_encoder(images2))
        ]
        return [date1, date2, *maps]

    def accuracy(logits: torch.Tensor, label: torch.Tensor, ignore_index: int) -> torch.Tensor:
        return losses.accuracy(logits, label, ignore_index=ignore_index)

    def join_levels(fusion: Any, maps: Any, size: Any, **resizing: Any) -> Any:
        return fusion(torch.cat([resize(level, size, **resizing) for level in maps], dim=1))

    def run_unit(self: Any, unit: str, x: torch.Tensor) -> torch.Tensor:
        normed = getattr(self, f'bn{unit}')(getattr(self, f'conv{unit}')(x))
        return self.dropout(F.relu(normed))

    def attend(self: Any, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            self._heads(linear(given))
            for linear, given in ((self.to_q, x), (self.to_k, reference), (self.to_v, reference))
        )
        weights = (query @ key.transpose(-2, -1) * self.scale).softmax(-1)
        return self.fc_out((weights @ value).transpose(1, 2).flatten(2))

    def overwrite(self: Any, x: torch.Tensor) -> torch.Tensor:
        return F.silu(x, inplace=True)

    others = dict(
        on_both_dates=in_turn,
        fuse_attention=leave,
        fuse_levels=join_levels,
        pixel_accuracy=accuracy,
    )
    places = [
        (module, name, other)
        for module in _model_modules(len(sys.modules))
        for name, other in others.items()
        if hasattr(module, name)
    ]
    results = EncoderDecoder.postprocess_result
    places += [
        (BAN, 'extract_feat', encode_in_turn),
        (FC_EF.__base__, '_run', run_unit),
        (CrossAttention, 'forward', attend),
        (LeanSequential, 'forward', nn.Sequential.forward),
        (nn.SiLU, 'forward', overwrite),
        (BitemporalEncoderDecoder, 'postprocess_result', results),
    ]
    replaced = [(place, name, getattr(place, name)) for place, name, _ in places]
    for place, name, other in places:
        setattr(place, name, other)
    try:
        yield
    finally:
        for place, name, function in replaced:
            setattr(place, name, function)


@cache
def _model_modules(count: int) -> list[Any]:
    """The modules of our models, looked for again where the number of all modules has changed: a
    step on a GPU takes less time than many searches."""
    return [
        module for path, module in list(sys.modules.items()) if path.startswith('mtkd_cd.models')
    ]


class PlainStep:
    """A training step as the toolbox makes it.

    Args:
        config: Config of student and teachers.
        distill_weight: Weight of the distillation; 0: the step of an origin.
        device: Where the networks are.
        wrap: Makes the wrapper of the optimiser.
    """

    def __init__(
        self,
        config: Any,
        distill_weight: float = 1e-4,
        device: str = 'cpu',
        wrap: Callable[[torch.optim.Optimizer], OptimWrapper] = OptimWrapper,
    ) -> None:
        with as_the_toolbox():
            self.student = build_on(device, config).train()
            self.teachers = [
                build_on(device, config).eval().requires_grad_(False)
                for _ in (_RANGES if distill_weight else ())
            ]
        self.weight = distill_weight
        self.wrapper = wrap(torch.optim.AdamW(self.student.parameters(), lr=1e-5))

    def teach(self, inputs: torch.Tensor) -> torch.Tensor:
        """The change maps of the teachers in turn, image by image."""
        with torch.no_grad(), as_the_toolbox():
            maps = [
                self.teachers[i % len(_RANGES)](image[None], mode='tensor')
                for i, image in enumerate(inputs)
            ]
        return torch.cat([one if isinstance(one, torch.Tensor) else one[-1] for one in maps])

    @as_the_toolbox()
    def __call__(self, batch: dict[str, Any]) -> None:
        with self.wrapper.optim_context(self.student):
            data = self.student.data_preprocessor(batch, True)
            inputs, samples = data['inputs'], data['data_samples']
            features = self.student.extract_feat(inputs)
            losses = self.student._decode_head_forward_train(features, samples)
            if self.student.with_auxiliary_head:
                losses.update(self.student._auxiliary_head_forward_train(features, samples))
            if self.weight:
                maps = self.student.decode_head.forward(features)
                maps = maps if isinstance(maps, torch.Tensor) else maps[-1]
                distance = torch.nn.functional.mse_loss(maps, self.teach(inputs))
                losses['loss_distill'] = self.weight * distance
        self.wrapper.update_params(self.student.parse_losses(losses)[0])


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
        for i, teacher in enumerate(_RANGES):
            teachers.change_maps(teacher, inputs[i :: len(_RANGES)])

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
    questions = [(teacher, inputs[i :: len(_RANGES)]) for i, teacher in enumerate(_RANGES)]

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
        theirs_s, *ours, origin_s = compare(rounds, *calls)
        for precision, ours_s in zip(precisions, ours):
            suffix = _suffix(precision)
            found.append((f'MTKD step{suffix}', theirs_s, ours_s))
            found.append((f'MTKD / origin{suffix}', ours_s, origin_s))
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
        questions = [(teacher, inputs[i :: len(_RANGES)]) for i, teacher in enumerate(_RANGES)]
        teachers = distiller.distillation.teachers
        calls['teachers'].append(partial(teachers.all_change_maps, questions))
        calls['MTKD step'].append(partial(distiller.train_step, batch, wrapper))
    start = time.perf_counter()
    calls['teachers'][1]()
    first = time.perf_counter() - start
    return [
        (f'{what}, teachers compiled', *compare(rounds, *both)) for what, both in calls.items()
    ], first


class PlainPipeline:
    """P1 as mmcv's functions do it: each image decoded, rotated, cropped, mirrored and distorted by
    itself."""

    def __init__(self, size: int = 512) -> None:
        self.size = size
        self.random = np.random.default_rng(0)

    def __call__(self, info: dict[str, Any]) -> torch.Tensor:
        contents = [Path(path).read_bytes() for path in info['img_path']]
        images = [mmcv.imfrombytes(content, backend='cv2') for content in contents]
        content = Path(info['seg_map_path']).read_bytes()
        label = mmcv.imfrombytes(content, flag='unchanged', backend='pillow').astype(np.uint8)
        label = label.copy()
        label[label < 128] = 0
        label[label >= 128] = 1
        if self.random.random() < 0.5:
            angle = self.random.uniform(-180, 180)
            images = [mmcv.imrotate(image, angle=angle, border_value=0) for image in images]
            label = mmcv.imrotate(label, angle=angle, border_value=255, interpolation='nearest')
        for _ in range(10):
            _, counts = np.unique(label[: self.size, : self.size], return_counts=True)
            if len(counts) > 1 and counts.max() / counts.sum() < 0.75:
                break
        images = [image[: self.size, : self.size] for image in images]
        label = label[: self.size, : self.size]
        for direction in ('horizontal', 'vertical'):
            if self.random.random() < 0.5:
                images = [mmcv.imflip(image, direction) for image in images]
                label = mmcv.imflip(label, direction)
        images = [self._distort(image) for image in images]
        stacked = np.concatenate([image.transpose(2, 0, 1) for image in images])
        torch.from_numpy(label[None].astype(np.int64))
        return torch.from_numpy(np.ascontiguousarray(stacked))

    def _distort(self, image: np.ndarray) -> np.ndarray:
        def scaled(image: np.ndarray, alpha: float = 1, beta: float = 0) -> np.ndarray:
            return np.clip(image.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

        if self.random.random() < 0.5:
            image = scaled(image, beta=self.random.uniform(-10, 10))
        if self.random.random() < 0.5:
            image = scaled(image, alpha=self.random.uniform(0.8, 1.2))
        if self.random.random() < 0.5:
            hsv = mmcv.bgr2hsv(image)
            hsv[:, :, 1] = scaled(hsv[:, :, 1], alpha=self.random.uniform(0.8, 1.2))
            image = mmcv.hsv2bgr(hsv)
        if self.random.random() < 0.5:
            hsv = mmcv.bgr2hsv(image)
            hue = hsv[:, :, 0].astype(int) + self.random.integers(-10, 10)
            hsv[:, :, 0] = hue % 180
            image = mmcv.hsv2bgr(hsv)
        return image


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


class PlainCascade(BaseModel):
    """The cascade as the toolbox runs one detector after the other; a pair's specialist follows
    from the share of pixels that the origin calls changed.

    Args:
        config: Config of all detectors.
        weights: Their checkpoint.
    """

    def __init__(self, config: Any, weights: str) -> None:
        super().__init__()
        self.detectors = torch.nn.ModuleList(MODELS.build(config).eval() for _ in range(4))
        for detector in self.detectors:
            load_checkpoint(detector, weights)
        self.data_preprocessor = self.detectors[0].data_preprocessor

    def forward(self, inputs: torch.Tensor, data_samples: list[Any], mode: str) -> list[Any]:
        """Predictions of mmseg's form."""
        origin, *specialists = self.detectors
        found = origin(inputs, data_samples, mode='predict')
        car = float((found[0].pred_sem_seg.data == 1).float().mean())
        specialist = specialists[sum(car > threshold for threshold in DEFAULT_THRESHOLDS)]
        return specialist(inputs, data_samples, mode='predict')


def test_plainly(name: str, data: str, weights: str) -> None:
    """Test the cascade with mmengine's runner and mmseg's metric."""
    config = get_config(name)
    loader = config.test_dataloader
    loader.num_workers, loader.persistent_workers = 0, False
    loader.dataset.data_root = data
    with as_the_toolbox(), tempfile.TemporaryDirectory() as folder:
        Runner(
            model=PlainCascade(config.model, weights),
            work_dir=folder,
            test_dataloader=loader,
            test_evaluator=dict(type='mmseg.IoUMetric', iou_metrics=['mIoU', 'mFscore']),
            test_cfg={},
            default_scope='mtkd_cd',
        ).test()


def measure_command(name: str, rounds: int, precisions: Sequence[str]) -> list[float]:
    """CPU seconds of a cascade's test, plain and ours in each of the precisions, each in processes
    of its own, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        data, work = Path(folder, 'data'), Path(folder, 'work_dirs')
        make_dataset(data, num_train=1, num_val=1, num_test=_TEST_PAIRS, size=256)
        torch.manual_seed(0)
        weights = MODELS.build(model_config(name)).state_dict()
        places = [work / 'origin' / name, *(work / 'partition' / name / one for one in _RANGES)]
        for place in places:
            place.mkdir(parents=True)
            torch.save(weights, place / 'best.pth')
        plain = ['-c', _AS_THE_TOOLBOX, __file__, '--child', 'command', '--models', name]
        plain += ['--data', str(data), '--weights', str(places[0] / 'best.pth')]
        ours = ['-m', 'mtkd_cd', 'test', str(_CONFIGS / 'op' / f'{name}.py')]
        ours += ['--data-root', str(data), '--num-workers', '0']

        # Bytecode is kept, as it is for users.
        environment = dict(os.environ)
        environment.pop('PYTHONDONTWRITEBYTECODE', None)

        def call(arguments: list[str]) -> float:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, *arguments]
            subprocess.run(command, cwd=folder, capture_output=True, check=True, env=environment)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

        commands = [plain, *([*ours, '--precision', precision] for precision in precisions)]
        seconds = [[call(command) for command in commands] for _ in range(rounds)]
    return [statistics.median(one) for one in zip(*seconds)]


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
        distiller = build_distiller(config).train()
        reorder_weights(distiller)
        wrapper = OptimWrapper(torch.optim.AdamW(distiller.parameters(), lr=1e-5, fused=True))
        step = lambda: distiller.train_step(batch, wrapper)  # noqa: E731
    before = int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before / 2**20


def measure_memory(name: str, size: int, pairs: int) -> list[float]:
    """MiB of the plain and of our MTKD step, each in a process of its own."""
    found = []
    for side in ('plain', 'ours'):
        command = [sys.executable, __file__, '--child', side, '--models', name]
        command += ['--size', str(size), '--batch', str(pairs)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(float(run.stdout.strip().splitlines()[-1]))
    return found


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
    for hidden in ('--child', '--data', '--weights'):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', 1)))
    DefaultScope.get_instance('benchmark', scope_name='mtkd_cd')
    if args.child == 'command':
        test_plainly(args.models[0], args.data, args.weights)
        return
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
            theirs, *ours = measure_command(name, args.rounds, args.precisions)
            for precision, seconds in zip(args.precisions, ours):
                table.add(name, f'O-P, whole command{_suffix(precision)}', theirs, seconds, 's')
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
