"""Gathers what goes into a bundle: weights, card, calibration and a golden pair."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch.utils.data import SequentialSampler

from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.config import load_config
from mtkd_cd.inference.bundle import Contents
from mtkd_cd.inference.calibration import MarginCounts
from mtkd_cd.inference.card import check_threshold
from mtkd_cd.inference.inferencer import ChangeInferencer
from mtkd_cd.inference.predictor import (
    Model,
    TorchPredictor,
    change_probability,
    model_from_config,
    predict_samples,
    result_margin,
)
from mtkd_cd.registry import DATASETS

_GOLDEN_SIDE = 256  # at most, so that bundles stay small
_CERTAIN = 1e4  # log-odds of a probability of 1, which are infinite


def gather_contents(
    config: str | os.PathLike | Config,
    weights: str | os.PathLike | None,
    *,
    name: str,
    gsd_m: float | None,
    training_size: int | None,
    threshold: float | None,
    validation: bool,
    device: str,
    progress: Callable[[int, int], None] | None,
) -> Contents:
    """See :func:`~mtkd_cd.inference.bundle.create_bundle`."""
    check_threshold(threshold)
    if training_size is not None and training_size < 1:
        raise UserError(f'training_size={training_size}: at least one pixel is needed')
    if gsd_m is not None and not 0 < gsd_m < math.inf:
        raise UserError(f'gsd_m={gsd_m:g}: metres per pixel are above 0')
    cfg = config if isinstance(config, Config) else load_config(os.fspath(config))
    model = model_from_config(cfg, weights, device)
    detectors = {key: _detector(model, key) for key in model.names}
    card = dataclasses.replace(model.card, name=name, gsd_m=gsd_m or model.card.gsd_m)
    if training_size is not None:
        card = dataclasses.replace(card, training_size=training_size)
    calibration = None
    if validation and cfg.get('val_dataloader'):
        counts, side = _counts(cfg, model, progress)
        calibration = counts.calibrate(threshold)
        if training_size is None and side < card.training_size:
            # What the config crops to is more than the images have: nothing was cropped.
            card = dataclasses.replace(card, training_size=side)
        card = dataclasses.replace(
            card, threshold=calibration.threshold, temperature=calibration.temperature
        )
    elif threshold is not None:
        card = dataclasses.replace(card, threshold=threshold)
    for detector in model.loaded:
        predictor = model.predictor(detector)
        assert isinstance(predictor, TorchPredictor)
        predictor.temperature = card.temperature
    model.card = card
    plain = cfg
    if cfg.model.get('student'):  # a distiller's config: only the student goes on
        plain = Config(dict(cfg.to_dict(), model=cfg.model.student.to_dict()))
    return Contents(
        card,
        plain,
        {key: detector.state_dict() for key, detector in detectors.items()},
        model.routing,
        model.partition,
        calibration,
        _golden(model),
    )


def _detector(model: Model, name: str) -> Any:
    predictor = model.predictor(name)
    assert isinstance(predictor, TorchPredictor)
    return predictor.detector


def _counts(
    cfg: Config, model: Model, progress: Callable[[int, int], None] | None
) -> tuple[MarginCounts, int]:
    """Margins over the validation split, each image at the size of its label; and the longest side
    of an image as the model got it."""
    counts, side = MarginCounts(), 0
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mtkd_cd')):
        loader = Runner.build_dataloader(_alone(cfg.val_dataloader))
    first = model.predictor(model.names[0])
    assert isinstance(first, TorchPredictor)
    total = len(loader.dataset)
    for batch in loader:
        data = first.detector.data_preprocessor(batch, False)
        for sample in _predict(model, data):
            label = sample.gt_sem_seg.data.cpu().squeeze(0)
            side = max(side, *sample.img_shape[:2])
            margin = result_margin(sample.seg_logits.data[None].double()).clamp(-_CERTAIN, _CERTAIN)
            if margin.shape[1:] != label.shape:
                margin = torch.nn.functional.interpolate(
                    margin[None], tuple(label.shape), mode='bilinear', align_corners=False
                )[0]
            counts.add(margin[0].cpu().numpy(), label.numpy())
        if progress is not None:
            progress(len(counts), total)
    return counts, side


def _alone(loader: Mapping[str, Any]) -> dict[str, Any]:
    """A loader of every image once, without workers and without the other processes of a run.

    mmengine's samplers share a seed and the images among all processes. A bundle is written by
    one of them: it would wait for the others for ever.
    """
    dataset = DATASETS.build(loader['dataset'])
    sampler = SequentialSampler(dataset)
    return dict(loader, dataset=dataset, sampler=sampler, num_workers=0, persistent_workers=False)


def _predict(model: Model, data: Mapping[str, Any]) -> list[Any]:
    """Samples with labels and the logits of whoever serves each image."""
    inputs, samples = data['inputs'], data['data_samples']
    with torch.no_grad():
        first = model.predictor(model.names[0])
        assert isinstance(first, TorchPredictor)
        found = predict_samples(first.detector, inputs, samples, keep_logits=True)
        if model.routing is None:
            return found
        changes = [
            change_probability(sample.seg_logits.data[None]) > model.card.threshold
            for sample in found
        ]
        cars = np.array([float(change.double().mean()) for change in changes])
        serving = [model.routing.detectors[int(i)] for i in model.routing.serving(cars)]
        for index, name in enumerate(serving):
            if name == model.names[0]:
                continue
            predictor = model.predictor(name)
            assert isinstance(predictor, TorchPredictor)
            own = inputs[index : index + 1]
            converted = predictor.convert(own) if predictor.convert else own
            found[index] = predict_samples(
                predictor.detector, converted, [samples[index]], keep_logits=True
            )[0]
        return found


def _golden(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A made-up pair, the same for every bundle of its size, and what the model says of it."""
    side = min(model.card.training_size, _GOLDEN_SIDE)
    rng = np.random.default_rng(0)
    channels = len(model.card.bands)
    coarse = rng.integers(0, 256, (2, side // 16 + 1, side // 16 + 1, channels), dtype=np.uint8)
    coarse[1, : side // 32] = coarse[0, : side // 32]  # half of it has not changed
    a, b = (np.kron(date, np.ones((16, 16, 1), np.uint8))[:side, :side] for date in coarse)
    probability = ChangeInferencer(model)([[a, b]])[0].probability
    return a, b, probability.astype(np.float32)
