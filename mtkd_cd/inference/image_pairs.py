"""Pairs of images through the test pipeline of a model's config: read, predicted in batches of one
size, their change maps written."""

import copy
import math
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.registry import DefaultScope
from torch import Tensor

from mtkd_cd.core.car import IGNORE_INDEX, change_area_ratio
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import OutputFolder
from mtkd_cd.data.images import sample_values
from mtkd_cd.data.radiometry import Identity, Rule
from mtkd_cd.engine.record import name_of
from mtkd_cd.inference.card import RGB
from mtkd_cd.inference.predictor import Detector, data_settings, radiometry_of, tested_data
from mtkd_cd.inference.probabilities import RoutedModel
from mtkd_cd.inference.results import PairResult
from mtkd_cd.registry import TRANSFORMS

Image = Any  # a path or an (H, W, C) array; numpy's and os's types do not meet in a check


class _Loaded(NamedTuple):
    """A pair of images before the network.

    Attributes:
        inputs: (2C, h, w) as the data preprocessor takes it.
        valid: (H, W) bool at the size of the images: where both have data.
    """

    inputs: Tensor
    valid: np.ndarray


@dataclass(frozen=True)
class ImagePairs:
    """Predicts pairs of images as a test of the model's config does.

    Attributes:
        routed: The model on its device.
        bands: Numbers of the bands that it learned from, where that is known.
        channel_order: Order of the channels of arrays, ``'rgb'`` or ``'bgr'``.
        threshold: A pixel has changed if its probability is above it.
    """

    routed: RoutedModel
    bands: tuple[int, ...] | None
    channel_order: str
    threshold: float

    def predict(self, pairs: Sequence[Sequence[Image]], batch_size: int) -> list[PairResult]:
        """Predict pairs in their order; those of one size that follow each other go through the
        network together."""
        results: list[PairResult] = []
        batch: list[_Loaded] = []
        for pair in pairs:
            loaded = self._loaded(pair)
            if batch and (len(batch) == batch_size or loaded.inputs.shape != batch[0].inputs.shape):
                results += self._predicted(batch)
                batch = []
            batch.append(loaded)
        if batch:
            results += self._predicted(batch)
        return results

    def _loaded(self, pair: Sequence[Image]) -> _Loaded:
        card = self.routed.card
        given = _sample_of(pair)
        if 'img' in given:
            plain = isinstance(card.radiometry, Identity)
            for image in given['img']:
                if image.ndim != 3 or (plain and image.dtype != np.uint8):
                    kind = '(H, W, C) uint8' if plain else '(H, W, C)'
                    raise UserError(
                        f'an array is {image.dtype} of shape {image.shape}: {kind} is needed'
                    )
            if self.channel_order == 'rgb':
                given['img'] = [_blue_first(image) for image in given['img']]
        given |= _reading(given, self.bands, card.radiometry)
        valid = None
        results: Any = given
        for step in _pipeline(self.routed.model.cfg, 'img' in given).transforms:
            results = step(results)
            if results is None:
                raise UserError(f'the test pipeline of {card.name} rejects the pair {pair}')
            valid = results.get('valid', valid)  # at the size of the files, as they were loaded
        size = tuple(results['data_samples'].metainfo['ori_shape'][:2])
        return _Loaded(results['inputs'], np.ones(size, bool) if valid is None else valid)

    def _predicted(self, batch: Sequence[_Loaded]) -> list[PairResult]:
        routed, card = self.routed, self.routed.card
        images = torch.stack([one.inputs for one in batch])
        if card.bands == RGB and images.shape[1] == 6:  # pipelines give BGR
            images = images[:, [2, 1, 0, 5, 4, 3]]
        height, width = images.shape[2:]
        inputs = routed.padded(routed.normalise_(images.float()))
        # A test, whose map this is, looks at all pixels.
        everything = [np.ones(one.valid.shape, bool) for one in batch]
        probabilities, names = routed.probabilities(
            inputs, everything, self.threshold, shape=(height, width)
        )
        results = []
        for probability, name, one in zip(probabilities, names, batch):
            change = ((probability > self.threshold) & one.valid).astype(np.uint8)
            car = float(change_area_ratio(np.where(one.valid, change, IGNORE_INDEX)))
            if not one.valid.all():
                probability = np.where(one.valid, probability, np.float32(math.nan))
            report = dict(
                model=card.name, threshold=self.threshold, precision=routed.model.precision
            )
            results.append(
                PairResult(change, probability, one.valid, car, routed.range_of(car), name, report)
            )
        return results


def inference_model(model: Detector, pairs: Sequence[Any]) -> Any:
    """Predict with a detector of :func:`~mtkd_cd.apis.init_model`, as
    ``mmseg.apis.inference_model``.

    Args:
        model: The detector, with ``cfg``.
        pairs: (A, B), or a list of them: paths or BGR arrays.

    Returns:
        The ``SegDataSample`` with ``pred_sem_seg`` and ``seg_logits``, or a list of them.
    """
    pairs = list(pairs)
    is_one = len(pairs) == 2 and all(map(is_image, pairs))
    samples = []
    for pair in [pairs] if is_one else pairs:
        cfg = getattr(model, 'cfg', None)
        given = _sample_of(pair)
        given |= _reading(given, data_settings(cfg)[0], radiometry_of(cfg))
        packed = _pipeline(cfg, 'img' in given)(given)
        with torch.no_grad():
            data = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
            samples += model.test_step(data)
    return samples[0] if is_one else samples


def _pipeline(cfg: Any, arrays: bool) -> Compose:
    """The test pipeline of a config, without labels; loading and packing alone without a
    config."""
    steps = [dict(type='MultiImgLoadImageFromFile'), dict(type='MultiImgPackSegInputs')]
    if cfg is not None and cfg.get('test_dataloader'):
        steps = [copy.deepcopy(dict(step)) for step in tested_data(cfg).get('pipeline', steps)]
    elif cfg is not None and cfg.get('test_pipeline'):
        steps = [copy.deepcopy(dict(step)) for step in cfg.test_pipeline]
    kept = []
    for step in steps:
        kind = name_of(step['type'])
        name = kind.rpartition('.')[2]
        if 'LoadAnnotations' in name:
            continue
        if arrays and name == 'MultiImgLoadImageFromFile':
            step['type'] = kind.replace(name, 'MultiImgLoadLoadImageFromNDArray')
        kept.append(step)
    scope = cfg.get('default_scope', 'mtkd_cd') if cfg is not None else 'mtkd_cd'
    with DefaultScope.overwrite_default_scope(scope):
        return Compose([TRANSFORMS.build(step) for step in kept])


def _sample_of(pair: Sequence[Image]) -> dict[str, list]:
    """A pair as a pipeline takes it.

    Raises:
        UserError: It is no pair of paths, and none of arrays.
    """
    unordered = isinstance(pair, (Set, Mapping))
    if is_image(pair) or unordered or not hasattr(pair, '__len__'):
        raise UserError(f'found {type(pair).__name__} for a pair: [A, B] is needed, date A first')
    if len(pair) != 2:
        raise UserError(f'a pair has two images, date A first; found {len(pair)}')
    if all(isinstance(image, np.ndarray) for image in pair):
        return dict(img=list(pair))
    if all(isinstance(image, (str, os.PathLike)) for image in pair):
        return dict(img_path=[os.fspath(image) for image in pair])
    raise UserError(
        'a pair is two paths or two arrays, as numpy.asarray(image) gives them; found '
        + ' and '.join(type(image).__name__ for image in pair)
    )


def _reading(
    given: Mapping[str, list], bands: tuple[int, ...] | None, rule: Rule
) -> dict[str, Any]:
    """How a pair is read, as a data set tells its pipeline: these bands of its files, by this rule.
    Arrays hold the bands that the model takes; those of bytes are levels already."""
    images = given.get('img')
    if images is not None:
        is_rgb = bands is None or len(bands) == len(RGB)
        bands = None if bands is None or is_rgb else tuple(range(1, len(bands) + 1))
        if all(image.dtype == np.uint8 for image in images):
            rule = Identity()
    if not rule.fitted:  # in place of a training split's
        rule = rule.fit(*(_sample(image, bands) for image in images or given['img_path']))
    reading: dict[str, Any] = {} if bands is None else dict(bands=bands)
    return reading if isinstance(rule, Identity) else dict(reading, radiometry=rule)


def _sample(image: Any, bands: tuple[int, ...] | None) -> np.ndarray:
    """(C, H, W) values of one date before any rule, red first."""
    if isinstance(image, np.ndarray):
        return np.moveaxis(_blue_first(image), -1, 0)  # back to red first
    return sample_values(image, bands)


def _blue_first(image: np.ndarray) -> np.ndarray:
    """Red, green, blue, and opacity or another band, as OpenCV has them; other numbers of bands
    stay."""
    channels = image.shape[2]
    return image[:, :, [2, 1, 0, 3][:channels]] if channels in (3, 4) else image


def is_image(item: Any) -> bool:
    """Whether this is one image, and no pair: a path or an (H, W, C) array."""
    return isinstance(item, (str, os.PathLike)) or (isinstance(item, np.ndarray) and item.ndim < 4)


def _map_name(a: Image, index: int) -> str:
    return f'{index:05d}.png' if isinstance(a, np.ndarray) else f'{Path(a).stem}.png'


def map_folder(out_dir: str | os.PathLike, pairs: Sequence[Sequence[Image]]) -> OutputFolder:
    """The folder for the maps, after a check that each of them may be written there."""
    files = [image for pair in pairs for image in pair if not isinstance(image, np.ndarray)]
    output = OutputFolder(out_dir, 'maps', {os.path.dirname(os.path.abspath(f)) for f in files})
    named: dict[str, Image] = {}
    for index, pair in enumerate(pairs):
        name = _map_name(pair[0], index)
        if name in named:
            raise UserError(
                f'{named[name]} and {pair[0]} would both give {Path(out_dir, name)}: predict them '
                'in two calls, into two folders'
            )
        named[name] = pair[0]
        if not output.may_write(name):
            raise UserError(
                f'{Path(out_dir, name)} is there already, and was not made by this tool: choose '
                'another folder, or move it away'
            )
    return output


def write_maps(
    output: OutputFolder, pairs: Sequence[Sequence[Image]], results: Sequence[PairResult]
) -> None:
    """Write change maps, 0 and 255, under the names that :func:`map_folder` has checked."""
    for index, (pair, result) in enumerate(zip(pairs, results)):
        png = cv2.imencode('.png', result.change * 255)[1]
        with output.open(_map_name(pair[0], index)) as file:
            file.write(png.tobytes())
