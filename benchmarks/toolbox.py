"""What the toolbox does, implemented plainly, for the comparisons of run_all.py and gpu_check.py.

    python benchmarks/toolbox.py test NAME --data FOLDER --weights FILE --maps OUTPUT_FOLDER
    python benchmarks/toolbox.py cascade NAME --data FOLDER --weights FILE --thresholds 0.05 0.2

The first tests one detector and writes its maps, as the toolbox's test command does; the O-P
strategy runs it once for the origin and once for each range (:func:`run_o_p`). The second tests the
detectors as one cascade, which the toolbox does not have.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from gpu_check import build_on
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, load_checkpoint
from mmseg.evaluation import IoUMetric
from mmseg.models import EncoderDecoder, losses
from mmseg.models.utils import resize
from torch import nn

from mtkd_cd.apis import get_config
from mtkd_cd.core.car import CARPartition

# Before `as_the_toolbox` replaces what they import.
from mtkd_cd.models import backbones, decode_heads, necks  # noqa: F401
from mtkd_cd.models.decode_heads.bit import CrossAttention
from mtkd_cd.models.detectors.ban import BAN
from mtkd_cd.models.detectors.encoder_decoder import BitemporalEncoderDecoder
from mtkd_cd.models.layers import LeanSequential
from mtkd_cd.registry import MODELS

RANGES = CARPartition().names
# Runs this file as the toolbox starts: with all that mmengine and mmseg import, but for
# transformers, which the toolbox does not ask for and mmengine imports where it is.
_AS_THE_TOOLBOX = """
import os, runpy, sys
sys.modules['transformers'] = None
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@contextmanager
def as_the_toolbox() -> Iterator[None]:
    """Inside, networks are built with mmcv's attention and run once for each date, heads resize all
    levels before they join and convolve them, BIT's pixels hold their weights of all tokens side by
    side, FC networks drop channels behind their ReLU, torchvision's SiLU overwrites its input,
    each layer keeps what it takes, and accuracy and results are mmseg's."""

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

    def one_by_one(
        part: object, x: torch.Tensor, norm: nn.Module, dropout: nn.Module, conv: nn.Module
    ) -> torch.Tensor:
        return conv(dropout(F.relu(norm(x))))

    def keep_product(conv: object) -> bool:
        return False

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
        is_plain_conv=keep_product,
        norm_relu_conv=one_by_one,
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
                for _ in (RANGES if distill_weight else ())
            ]
        self.weight = distill_weight
        self.wrapper = wrap(torch.optim.AdamW(self.student.parameters(), lr=1e-5))

    def teach(self, inputs: torch.Tensor) -> torch.Tensor:
        """The change maps of the teachers in turn, image by image."""
        with torch.no_grad(), as_the_toolbox():
            maps = [
                self.teachers[i % len(RANGES)](image[None], mode='tensor')
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


class PlainCascade(BaseModel):
    """A cascade that runs one detector of the toolbox after the other; a pair's specialist follows
    from the share of pixels that the origin calls changed.

    Args:
        config: Config of all detectors.
        weights: Their checkpoint.
        thresholds: Between the ranges.
    """

    def __init__(self, config: Any, weights: str, thresholds: Sequence[float]) -> None:
        super().__init__()
        self.detectors = torch.nn.ModuleList(MODELS.build(config).eval() for _ in range(4))
        for detector in self.detectors:
            load_checkpoint(detector, weights)
        self.data_preprocessor = self.detectors[0].data_preprocessor
        self.partition = CARPartition(thresholds)

    def forward(self, inputs: torch.Tensor, data_samples: list[Any], mode: str) -> list[Any]:
        """Predictions of mmseg's form."""
        origin, *specialists = self.detectors
        found = origin(inputs, data_samples, mode='predict')
        car = float((found[0].pred_sem_seg.data == 1).float().mean())
        specialist = specialists[self.partition.range_of(car)]
        return specialist(inputs, data_samples, mode='predict')


class IoUAndMaps(IoUMetric):
    """mmseg's metric, which writes maps too: its own writing asks for one file per sample.

    Args:
        folder: Where maps of 0 and 1 go; none are written without it.
    """

    def __init__(self, folder: str | None) -> None:
        super().__init__(iou_metrics=['mIoU', 'mFscore'])
        self.folder = folder
        if folder:
            Path(folder).mkdir(parents=True)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """See mmseg."""
        super().process(data_batch, data_samples)
        for sample in data_samples if self.folder else ():
            name = Path(sample['img_path'][0]).name
            found = sample['pred_sem_seg']['data'].squeeze().numpy().astype(np.uint8)
            cv2.imwrite(str(Path(self.folder, name)), found)


def test(args: argparse.Namespace) -> None:
    """Test a detector, or a cascade of four, with mmengine's runner and mmseg's metric."""
    config = get_config(args.name)
    loader = config.test_dataloader
    loader.num_workers, loader.persistent_workers = 0, False
    loader.dataset.data_root = args.data
    with as_the_toolbox(), tempfile.TemporaryDirectory() as folder:
        is_cascade = args.what == 'cascade'
        model = (
            PlainCascade(config.model, args.weights, args.thresholds)
            if is_cascade
            else config.model
        )
        Runner(
            model=model,
            work_dir=folder,
            load_from=None if is_cascade else args.weights,
            test_dataloader=loader,
            test_evaluator=Evaluator(IoUAndMaps(args.maps)),
            test_cfg={},
            default_scope='mtkd_cd',
        ).test()


def start(what: str, name: str, data: Path, weights: Path, *options: object) -> None:
    """Run this file in a process of its own, which starts as the toolbox does."""
    arguments = [__file__, what, name, '--data', data, '--weights', weights, *options]
    command = [sys.executable, '-W', 'ignore', '-c', _AS_THE_TOOLBOX, *map(str, arguments)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def run_o_p(
    name: str, data: Path, weights: Path, thresholds: Sequence[float], folder: Path
) -> dict[str, float]:
    """The O-P strategy as a user of the toolbox runs it: test the origin and keep its maps, copy
    the pairs of each range into a data set of its own, test the range's specialist on it, join the
    maps in one folder, and score them.

    Args:
        name: The model.
        data: Data set; its ``test`` is used.
        weights: Checkpoint of all detectors.
        thresholds: Between the ranges.
        folder: For maps and copies; empty.

    Returns:
        IoU of the changed class for each image; 1 where neither map nor label has a changed pixel.
    """
    partition = CARPartition(thresholds)
    start('test', name, data, weights, '--maps', folder / 'origin')
    for path in sorted((folder / 'origin').iterdir()):
        changed = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) == 1
        part = folder / RANGES[partition.range_of(float(changed.mean()))] / 'test'
        for kind in ('A', 'B', 'label'):
            (part / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy2(data / 'test' / kind / path.name, part / kind)
    final = folder / 'final'
    final.mkdir()
    for part in (folder / one for one in RANGES):
        if not part.is_dir():
            continue
        start('test', name, part, weights, '--maps', part / 'maps')
        for path in sorted((part / 'maps').iterdir()):
            cv2.imwrite(str(final / path.name), cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    scores = {}
    for path in sorted(final.iterdir()):
        changed = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) == 1
        label = cv2.imread(str(data / 'test' / 'label' / path.name), cv2.IMREAD_UNCHANGED) > 0
        union = np.count_nonzero(changed | label)
        scores[path.stem] = np.count_nonzero(changed & label) / union if union else 1.0
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('what', choices=['test', 'cascade'])
    parser.add_argument('name', help='model')
    parser.add_argument('--data', required=True, help='data set, whose test is used')
    parser.add_argument('--weights', required=True, help='checkpoint of all detectors')
    parser.add_argument('--maps', help='folder for the maps')
    parser.add_argument('--thresholds', nargs=2, type=float)
    args = parser.parse_args()
    torch.set_num_threads(1)
    DefaultScope.get_instance('benchmark', scope_name='mtkd_cd')
    test(args)


if __name__ == '__main__':
    main()
