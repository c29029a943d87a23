"""What cascade and distiller share: one detector per CAR range, each fed the images of its range
together."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import MODELS

Detector: TypeAlias = Any  # an mmseg-style detector of any scope; mmseg ships no types


def build_detector(
    config: Mapping[str, Any] | Detector, data_preprocessor: Mapping[str, Any] | None = None
) -> Detector:
    """Build a detector of any scope; its parts are looked up in the scope that its type is written
    with.

    ``dict(type='opencd.BIT...', backbone=dict(type='mmseg.ResNetV1c'),
    decode_head=dict(type='BITHead'))`` builds whatever the default scope is. The config is copied,
    since mmseg's detectors write into theirs. A module is returned as it is.

    Args:
        config: Config of the detector, or the detector.
        data_preprocessor: Config of a preprocessor for a detector whose config has none.
    """
    if isinstance(config, nn.Module):
        return config
    config = ConfigDict(copy.deepcopy(dict(config)))  # mmseg reads test_cfg by attribute
    if data_preprocessor is not None:
        config.setdefault('data_preprocessor', copy.deepcopy(data_preprocessor))
    scope, _, name = str(config.get('type', '')).rpartition('.')
    if scope and name and '_scope_' not in config and isinstance(config['type'], str):
        config['_scope_'] = scope
    return MODELS.build(config)


def build_specialists(
    names: Iterable[str],
    default: Mapping[str, Any],
    overrides: Mapping[str, Any] | None,
    data_preprocessor: Mapping[str, Any] | None = None,
) -> dict[str, Detector]:
    """A detector for each name, once: from its own config where ``overrides`` has one, else from
    ``default``."""
    overrides = overrides or {}
    return {
        name: build_detector(overrides.get(name, default), data_preprocessor)
        for name in dict.fromkeys(names)
    }


def check_range_names(overrides: Mapping[str, Any] | None, partition: CARPartition) -> None:
    """Raise a UserError if ``overrides``, configs by range, names a range that does not exist."""
    for name in overrides or {}:
        partition.index_of_name(name)


def check_checkpoint_names(checkpoints: Mapping[str, str], names: tuple[str, ...]) -> None:
    """Raise a UserError unless ``checkpoints`` has exactly the entries ``names``."""
    missing = [name for name in names if not checkpoints.get(name)]
    unknown = [name for name in checkpoints if name not in names]
    if missing or unknown:
        raise UserError(
            f'checkpoints={dict(checkpoints)}: '
            + '; '.join(
                f'{what}: {", ".join(found)}'
                for what, found in (('missing', missing), ('unknown', unknown))
                if found
            )
            + f'. These entries are needed: {", ".join(names)}'
        )


def images_by_detector(ranges: Tensor, detectors: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Sort a batch by who serves which image.

    Args:
        ranges: (N,) index into ``detectors``.
        detectors: Name of the detector of each range; several ranges may have the same.

    Yields:
        (detector, positions in the batch) for each detector that has an image, in the order of the
        ranges.
    """
    positions: dict[str, list[int]] = {name: [] for name in detectors}
    for position, index in enumerate(ranges.tolist()):
        positions[detectors[index]].append(position)
    yield from ((name, members) for name, members in positions.items() if members)


def input_converter(source: nn.Module, target: nn.Module) -> Callable[[Tensor], Tensor]:
    """A function from the normalisation of one detector's data preprocessor to that of another's.

    Args:
        source: Data preprocessor that made the batch.
        target: That of the detector which will see it.

    Returns:
        (N, 6, H, W) -> (N, 6, H, W); the identity where the two preprocessors agree.
    """
    source_mean, source_std, source_swaps = _normalisation(source)
    target_mean, target_std, target_swaps = _normalisation(target)
    swap = source_swaps != target_swaps
    if not swap and torch.equal(source_mean, target_mean) and torch.equal(source_std, target_std):
        return lambda inputs: inputs

    def convert(inputs: Tensor) -> Tensor:
        pixels = inputs * source_std.to(inputs) + source_mean.to(inputs)
        if swap:  # RGB <-> BGR, each date on its own
            pixels = pixels.unflatten(1, (-1, 3)).flip(2).flatten(1, 2)
        return (pixels - target_mean.to(inputs)) / target_std.to(inputs)

    return convert


def _normalisation(preprocessor: nn.Module) -> tuple[Tensor, Tensor, bool]:
    swaps = bool(
        getattr(
            preprocessor, 'channel_conversion', getattr(preprocessor, '_channel_conversion', False)
        )
    )
    mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
    if mean is None or std is None:
        return torch.zeros(1), torch.ones(1), swaps
    return mean.detach().cpu().float(), std.detach().cpu().float(), swaps
