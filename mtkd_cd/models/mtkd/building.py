"""Building the detectors that cascade and distiller are made of, and checking their names."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from mmengine.config import ConfigDict
from torch import nn

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import MODELS

# Of detectors beside the specialists, whose names are those of their ranges.
_TAKEN = ('origin', 'student')
Detector: TypeAlias = Any  # an mmseg-style detector of any scope; mmseg ships no types


def build_detector(
    config: Mapping[str, Any] | Detector, data_preprocessor: Mapping[str, Any] | None = None
) -> Detector:
    """Build a detector of any scope; its parts are looked up in the scope that its type is written
    with.

    ``dict(type='opencd.BIT...', backbone=dict(type='mmseg.ResNetV1c'),
    decode_head=dict(type='BITHead'))`` builds whatever the default scope is.

    Args:
        config: Config of the detector, or the detector. Either is copied: mmseg's detectors write
            into their configs, and a detector that is handed out twice must not be one object in
            two places.
        data_preprocessor: Config of a preprocessor for a detector whose config has none.
    """
    if isinstance(config, nn.Module):
        return copy.deepcopy(config)
    config = ConfigDict(copy.deepcopy(dict(config)))  # mmseg reads test_cfg by attribute
    if data_preprocessor is not None:
        config.setdefault('data_preprocessor', copy.deepcopy(data_preprocessor))
    scope, _, name = str(config.get('type', '')).rpartition('.')
    if scope and name and '_scope_' not in config and isinstance(config['type'], str):
        config['_scope_'] = scope
    return MODELS.build(config)


def build_detectors(
    names: Iterable[str],
    default: Mapping[str, Any] | Detector,
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
    """Raise a UserError if ``overrides``, configs by range, names a range that does not exist, or a
    range has a name that means another detector."""
    for name in partition.names:
        if name in _TAKEN or '@' in name:
            raise UserError(
                f'names={partition.names}: {name!r} means another detector than a specialist here '
                f'(so do {", ".join(_TAKEN)}, and names with @); call the range otherwise'
            )
    for name in overrides or {}:
        partition.index_of_name(name)


def check_checkpoint_names(
    checkpoints: Mapping[str, str], names: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    """Raise a UserError unless ``checkpoints`` has the entries ``names``, and beside them none that
    is not ``optional``."""
    missing = [name for name in names if not checkpoints.get(name)]
    unknown = [name for name in checkpoints if name not in (*names, *optional)]
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
