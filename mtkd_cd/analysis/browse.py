"""The pairs of a config's training as the model will see them, with the CAR range that decides on
their teacher."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.structures import SegDataSample

from mtkd_cd.core.car import IGNORE_INDEX, CARPartition, change_area_ratio
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import OutputFolder
from mtkd_cd.drawing.error_map import mask_image
from mtkd_cd.drawing.panel import Row, Sheet, png_bytes
from mtkd_cd.engine.replay import NumberedSampler, SeededDataset
from mtkd_cd.evaluation.image_names import image_name, image_paths
from mtkd_cd.models.mtkd.teacher_choice import TeacherChoice
from mtkd_cd.models.mtkd.unlabelled import is_unlabelled


@dataclass(frozen=True, eq=False)
class TrainingPair:
    """One pair after augmentation.

    Attributes:
        name: Name of the image.
        date_a: (H, W, 3) uint8 RGB.
        date_b: The same.
        label: (H, W): 0, 1 or 255 = ignored; ``None`` for a pair without a label.
        stored_car: CAR of the label before augmentation; ``None`` where the pipeline brings none.
        car: CAR of ``label`` over its valid pixels.
        range: The range, and so the teacher, that the config's distiller would choose by the
            label; of other configs, one with its defaults.
        opencd_range: The range that Open-CD 1.1.0 would choose: by the augmented label, ignored
            pixels counted as change, ``<`` at the thresholds.
    """

    name: str
    date_a: np.ndarray
    date_b: np.ndarray
    label: np.ndarray | None
    stored_car: float | None
    car: float | None
    range: str | None
    opencd_range: str | None


def partition_of(cfg: Config) -> CARPartition:
    """The ranges that a config speaks of: its model's, else its training data's, else its
    evaluator's, else the default ones."""
    evaluators = cfg.get('test_evaluator') or []
    loader = cfg.get('train_dataloader') or {}
    places = [
        cfg.get('model'),
        loader.get('dataset'),
        *(evaluators if isinstance(evaluators, list) else [evaluators]),
    ]
    found: Mapping[str, Any] = next(
        (place for place in places if place and 'thresholds' in place), {}
    )
    return CARPartition(
        **{key: found[key] for key in ('thresholds', 'names') if found.get(key) is not None}
    )


def training_pairs(cfg: Config, num: int, seed: int | None = None) -> Iterator[TrainingPair]:
    """The first pairs that a training run of one process sees, in its order and with its
    augmentation.

    Args:
        cfg: Config of any strategy.
        num: How many; a sampler that ends gives fewer.
        seed: Of the run; default: the config's.

    Raises:
        UserError: The config has no training data; what is wrong with the data; a sample that is
            not a pair of RGB images.
    """
    loader = cfg.get('train_dataloader')
    if not loader:
        raise UserError(
            f'{cfg.filename} has no train_dataloader: there is nothing to train on to look at'
        )
    if seed is None:
        seed = cfg.get('randomness', {}).get('seed') or 0
    partition = partition_of(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mtkd_cd')):
        dataset = SeededDataset(loader['dataset'], seed)
        dataset.full_init()
        sampler = NumberedSampler(
            dataset, loader.get('sampler') or {'type': 'InfiniteSampler', 'shuffle': True}, seed
        )
        for numbered in islice(sampler, num):
            yield _training_pair(dataset[numbered], partition, cfg.get('model') or {})


def _training_pair(
    sample: Mapping[str, Any], partition: CARPartition, model: Mapping[str, Any]
) -> TrainingPair:
    data_sample: SegDataSample = sample['data_samples']
    paths = image_paths(data_sample.metainfo)
    inputs = sample['inputs']
    if not isinstance(inputs, torch.Tensor) or len(inputs) < 6 or len(inputs) % 2:
        shape = tuple(inputs.shape) if isinstance(inputs, torch.Tensor) else type(inputs).__name__
        raise UserError(
            f'{paths[-1] if paths else "a sample"}: inputs is {shape}; a pair of RGB images has '
            'six channels, date A first'
        )
    # (6, H, W) BGR -> two of (H, W, 3) RGB; of more bands red, green and blue come first
    date_a, date_b = (
        (date.flip(0) if len(date) == 3 else date[:3])
        .permute(1, 2, 0)
        .clamp(0, 255)
        .round()
        .byte()
        .numpy()
        for date in inputs.float().chunk(2)
    )
    ignore_index = model.get('ignore_index', IGNORE_INDEX)
    label = (
        None if is_unlabelled(data_sample, ignore_index) else data_sample.gt_sem_seg.data[0].numpy()
    )
    ranges: dict[str, str | None] = {'range': None, 'opencd_range': None}
    if label is not None:
        own = {key: model[key] for key in ('car_source', 'compat', 'ignore_index') if key in model}
        choices = {
            'range': TeacherChoice(partition, **own),
            'opencd_range': TeacherChoice(partition, compat='opencd'),
        }
        ranges = {
            key: partition.names[int(choice.ranges([data_sample])[0])]
            for key, choice in choices.items()
        }
    return TrainingPair(
        name=image_name(paths) if paths else 'image',
        date_a=date_a,
        date_b=date_b,
        label=label,
        stored_car=data_sample.metainfo.get('car'),
        car=None if label is None else float(change_area_ratio(label)),
        **ranges,
    )


def pair_row(pair: TrainingPair) -> Row:
    """Date A, date B and the label, under name, CARs and ranges."""
    tiles = {'A': pair.date_a, 'B': pair.date_b}
    if pair.label is None:
        return Row(tiles, f'{pair.name}\nno label')
    tiles['label'] = mask_image(pair.label)
    stored = 'no stored CAR' if pair.stored_car is None else f'stored CAR {pair.stored_car:.2%}'
    other = '' if pair.opencd_range == pair.range else f"    Open-CD's rule: {pair.opencd_range}"
    return Row(
        tiles,
        f"{pair.name}\nteacher's range: {pair.range}    {stored}, augmented {pair.car:.2%}{other}",
    )


def pairs_summary(pairs: Sequence[TrainingPair], partition: CARPartition) -> str:
    """How many pairs go to each range, and of how many Open-CD's rule makes something else."""
    counts = ', '.join(
        f'{name} {sum(pair.range == name for pair in pairs)}' for name in partition.names
    )
    others = sum(pair.opencd_range != pair.range for pair in pairs)
    if unlabelled := sum(pair.label is None for pair in pairs):
        counts += f', without a label {unlabelled}'
    return f"{len(pairs)} pairs: {counts}; Open-CD's rule would choose another teacher for {others}"


def write_pairs(
    pairs: Sequence[TrainingPair],
    out_dir: str | os.PathLike,
    rows_per_sheet: int = 4,
    reads: Sequence[str | os.PathLike] = (),
) -> list[Path]:
    """Write ``pairs_1.png``, ``pairs_2.png``, ... with several pairs each; returns the files. Those
    of an earlier call go.

    Raises:
        UserError: ``out_dir`` lies in one of the folders ``reads``, or holds other files of these
            names.
    """
    written: list[Path] = []
    output = OutputFolder(out_dir, 'pairs', reads)
    output.clear()
    legend = {'changed': (255, 255, 255), 'unchanged': (0, 0, 0), 'ignored': (127, 127, 127)}
    for start in range(0, len(pairs), rows_per_sheet):
        path = Path(out_dir, f'pairs_{len(written) + 1}.png')
        sheet = Sheet([pair_row(pair) for pair in pairs[start : start + rows_per_sheet]], legend)
        with output.open(path.name) as file:
            file.write(png_bytes(sheet.pixels()))
        written.append(path)
    return written
