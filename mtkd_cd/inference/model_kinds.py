"""A model of whatever kind a user has: a bundle, an exported network, a config, a detector."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import CONFIGS
from mtkd_cd.inference.predictor import Model, model_from_config, model_from_detector

BUNDLE = '.mtkd'


def open_model(
    model: Any,
    weights: str | os.PathLike | None,
    device: str,
    backend: str,
    trusted: bool,
    cfg_options: Mapping[str, Any] | None,
) -> Model:
    """Open what :class:`~mtkd_cd.inference.inferencer.ChangeInferencer` takes as its model.

    Raises:
        UserError: It is missing or no good, or an option would change nothing.
    """
    if backend not in ('torch', 'onnx', 'openvino'):
        raise UserError(f"backend={backend!r}: 'torch', 'onnx' or 'openvino' is needed")
    if isinstance(model, Model):
        return model
    if isinstance(model, torch.nn.Module):
        return model_from_detector(model)
    if isinstance(model, (str, os.PathLike)):
        suffix = Path(model).suffix.lower()
        if suffix == BUNDLE:
            _refuse_without_effect(f'bundle {model}', weights=weights, cfg_options=cfg_options)
            bundles = importlib.import_module('mtkd_cd.inference.bundle')
            return bundles.Bundle.open(model).build(device=device, backend=backend)
        runtime = importlib.import_module('mtkd_cd.export.runtime')
        if backend != 'torch' or runtime.is_exported(model):
            _refuse_without_effect(f'exported model {model}', weights=weights)
            return runtime.open_exported(model, backend, cfg_options)
        if suffix in ('.pth', '.pt'):
            raise UserError(
                f'model {model} is a checkpoint: give its config as the model, and the checkpoint '
                'as weights; or make a bundle of both with `mtkd-cd bundle create`'
            )
        _check_is_config(Path(model))
    return model_from_config(model, weights, device, cfg_options, trusted=trusted)


def _refuse_without_effect(model: str, **given: Any) -> None:
    for name, value in given.items():
        if value:
            raise UserError(
                f'{name}={value}: {model} has its own, so that would change nothing; leave it out, '
                'or give the config as the model'
            )


def _check_is_config(path: Path) -> None:
    """Refuse what is no config, where its reader would speak of configs alone."""
    kinds = 'a bundle (.mtkd), an exported file (.onnx, .xml, .pt2) or a config (.py)'
    if path.is_dir():
        raise UserError(f'model {path} is a folder, and not that of an exported cascade: {kinds}')
    if path.suffix.lower() in ('.py', '.json', '.yml', '.yaml'):
        return
    if path.exists():
        raise UserError(f'model {path} is none: give {kinds}')
    shipped = CONFIGS / 'origin' / f'{path.name}.py'
    advice = (
        f'of {path.name} itself there is a bundle where it was trained '
        f'(work_dirs/mtkd/{path.name}/{path.name}{BUNDLE}), or a config, for instance '
        f'configs/mtkd/{path.name}.py'
        if shipped.is_file()
        else f'give {kinds}'
    )
    raise UserError(f'model {path} does not exist: {advice}')
