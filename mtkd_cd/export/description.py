"""What an exported file says of itself, so that it can be run without its bundle."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.radiometry import from_spec
from mtkd_cd.export.network import InputKind
from mtkd_cd.inference.bundle import check_types, decode, encode, in_registries
from mtkd_cd.inference.card import RGB, Card
from mtkd_cd.inference.predictor import tested_data
from mtkd_cd.version import __version__

KEY = 'mtkd_cd'
SCHEMA = 'mtkd-cd export'
SCHEMA_VERSION = 1
CLASSES = {'0': 'unchanged', '1': 'changed'}
_OVERLAP = 25
# What a foreign file has to say, and how else it can be said.
_NEEDED = {
    'standardization_mean': 'mean=[...] (of both dates, in units of 0 to 255)',
    'standardization_std': 'std=[...] (likewise)',
}


@dataclass(frozen=True)
class Description:
    """How a graph is fed, and where it comes from.

    Attributes:
        card: Of the graph's input, its channels in the graph's order.
        input: ``'normalised'`` or ``'raw'``.
        channels: Of the output.
        size: Side of the input; ``None`` if it is free.
        dynamic: ``'none'``, ``'batch'`` or ``'all'``.
        detector: Of a cascade, who it is.
        int8: Whether its weights and activations are 8-bit integers.
        pipeline: The test pipeline for pictures, as the bundle encodes it.
        scope: Its registry's scope.
        facts: What else is known of the model.
        parity: How it differs from torch, as measured when it was exported.
    """

    card: Card
    input: InputKind = 'normalised'
    channels: int = 1
    size: int | None = None
    dynamic: str = 'batch'
    detector: str = ''
    int8: bool = False
    pipeline: list[Any] | None = None
    scope: str = 'mtkd_cd'
    facts: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON values; :func:`from_dict` reads them."""
        card = self.card
        return {
            'schema': SCHEMA,
            'schema_version': SCHEMA_VERSION,
            'mtkd_cd_version': __version__,
            'name': card.name,
            'detector': self.detector,
            'input': {'kind': self.input, **card.input_as_dict()},
            'graph': {
                'size': self.size,
                'dynamic': self.dynamic,
                'channels': self.channels,
                'int8': self.int8,
            },
            'threshold': card.threshold,
            'temperature': card.temperature,
            'bundle_sha256': card.sha256,
            'pipeline': self.pipeline,
            'scope': self.scope,
            'facts': dict(self.facts),
            'parity': None if self.parity is None else dict(self.parity),
        }

    def metadata(self) -> dict[str, str]:
        """Metadata of an ONNX file: ours, and what QGIS Deepness reads.

        Deepness brings bytes to 0..1, then applies mean and standard deviation.
        """
        card = self.card
        if self.input == 'raw':
            mean, std = [0.0] * len(card.mean), [1 / 255] * len(card.std)
        else:
            mean, std = ([value / 255 for value in numbers] for numbers in (card.mean, card.std))
        tile = self.size or card.training_size
        values: dict[str, Any] = {
            'model_type': 'Segmentor',
            'class_names': CLASSES,
            'tile_size': tile,
            'tiles_size': tile,
            'tiles_overlap': _OVERLAP,
            'standardization_mean': mean,
            'standardization_std': std,
            'seg_thresh': card.threshold,
            'seg_small_segment': 0,
            KEY: self.as_dict(),
        }
        if card.gsd_m is not None:
            values['resolution'] = 100 * card.gsd_m
        return {key: json.dumps(value, sort_keys=True) for key, value in values.items()}

    @property
    def cfg(self) -> Config | None:
        """A config with the test pipeline alone.

        Raises:
            UserError: It names what is no name of a registry.
        """
        if self.pipeline is None:
            return None
        steps = decode(self.pipeline)
        check_types(steps)
        return Config(dict(default_scope=self.scope, test_pipeline=steps))


def from_dict(found: Any, path: str | os.PathLike) -> Description:
    """What :meth:`Description.as_dict` gave.

    Raises:
        UserError: Another schema, or a damaged one.
    """
    if not isinstance(found, Mapping) or found.get('schema') != SCHEMA:
        raise UserError(f'{path}: its metadata {KEY!r} are of no file that mtkd-cd exported')
    if found.get('schema_version') != SCHEMA_VERSION:
        raise UserError(
            f'{path} has the schema version {found.get("schema_version")!r}, this mtkd-cd '
            f'{__version__} knows {SCHEMA_VERSION}: install the version that wrote it '
            f'({found.get("mtkd_cd_version")})'
        )
    try:
        given, graph = found['input'], found['graph']
        if given['kind'] not in ('normalised', 'raw'):
            raise ValueError(f'input {given["kind"]!r}')
        card = Card.of(found, found['bundle_sha256'])
        return Description(
            card,
            given['kind'],
            int(graph['channels']),
            None if graph['size'] is None else int(graph['size']),
            str(graph['dynamic']),
            str(found['detector']),
            bool(graph['int8']),
            found['pipeline'],
            str(found['scope']),
            found['facts'],
            found['parity'],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'{path}: its metadata {KEY!r} are damaged ({type(error).__name__}: {error}). Export '
            'it again'
        ) from None


def from_metadata(
    metadata: Mapping[str, str],
    path: str | os.PathLike,
    options: Mapping[str, Any] | None = None,
    size: int | None = None,
    channels: int = 6,
) -> Description:
    """What a file's metadata say; of a file of foreign origin, what Deepness's keys and the options
    say.

    Args:
        metadata: Of the file, JSON values.
        path: For errors.
        options: Fields of the card, in the place of those found: ``mean``, ``std``, ``bands``,
            ``radiometry``, ``gsd_m``, ``training_size``, ``divisor``, ``threshold``, ``name``.
        size: Side of the graph's input; ``None`` if it is free.
        channels: Of the graph's input.

    Raises:
        UserError: Something is missing (says what, and both ways to say it), damaged or unknown.
    """
    if KEY in metadata:
        description = from_dict(_parsed(metadata, KEY, path), path)
    else:
        description = _foreign(metadata, path, dict(options or {}), size, channels)
    return dataclasses.replace(description, card=_changed(description.card, options or {}))


def _foreign(
    metadata: Mapping[str, str],
    path: str | os.PathLike,
    options: Mapping[str, Any],
    size: int | None,
    channels: int,
) -> Description:
    missing = [
        f'{key} or --cfg-options {hint}'
        for key, hint in _NEEDED.items()
        if key not in metadata and hint.partition('=')[0] not in options
    ]
    if missing:
        raise UserError(
            f'{path} was not exported by mtkd-cd and does not say how it is fed: it needs the '
            f'metadata {"; ".join(missing)}. Beside them training_size, gsd_m, threshold, bands '
            'and radiometry may be given'
        )
    mean, std = (
        tuple(255 * float(value) for value in _parsed(metadata, f'standardization_{name}', path))
        if name not in options
        else tuple(map(float, options[name]))
        for name in ('mean', 'std')
    )
    for name, numbers in (('mean', mean), ('std', std)):
        if len(numbers) != channels:
            raise UserError(
                f'{path}: its input has {channels} channels, and its {name} {len(numbers)} '
                'numbers: one for each channel of both dates is needed'
            )
    resolution = _parsed(metadata, 'resolution', path)
    tile = size or _parsed(metadata, 'tile_size', path) or _parsed(metadata, 'tiles_size', path)
    threshold = _parsed(metadata, 'seg_thresh', path)
    card = Card(
        name=os.path.splitext(os.path.basename(path))[0],
        mean=mean,
        std=std,
        bands=RGB if channels == 6 else tuple(f'band {i + 1}' for i in range(channels // 2)),
        gsd_m=None if resolution is None else float(resolution) / 100,
        training_size=512 if tile is None else int(tile),
        divisor=size or 32,
        threshold=0.5 if threshold is None else float(threshold),
    )
    return Description(card, size=size)


def _changed(card: Card, options: Mapping[str, Any]) -> Card:
    known = {one.name for one in dataclasses.fields(Card)} - {'sha256', 'temperature'}
    unknown = sorted(set(options) - known)
    if unknown:
        raise UserError(
            f'--cfg-options {unknown[0]}: of an exported model one of '
            f'{", ".join(sorted(known))} can be set'
        )
    values = dict(options)
    for name in ('mean', 'std'):
        if name in values:
            values[name] = tuple(map(float, values[name]))
            if len(values[name]) != len(card.mean):
                raise UserError(f'--cfg-options {name}: {len(card.mean)} numbers are needed')
    if 'bands' in values:
        values['bands'] = tuple(map(str, values['bands']))
    if 'radiometry' in values:
        values['radiometry'] = from_spec(values['radiometry'])
    return dataclasses.replace(card, **values)


def _parsed(metadata: Mapping[str, str], key: str, path: str | os.PathLike) -> Any:
    if key not in metadata:
        return None
    try:
        return json.loads(metadata[key])
    except ValueError:
        raise UserError(
            f'{path}: its metadata {key!r} are no JSON value ({metadata[key][:40]!r})'
        ) from None


def encoded_pipeline(cfg: Any) -> tuple[list[Any] | None, str]:
    """The test pipeline of a config for a description, and its scope."""
    if cfg is None:
        return None, 'mtkd_cd'
    steps = None
    if cfg.get('test_dataloader'):
        steps = tested_data(cfg).get('pipeline')
    steps = steps or cfg.get('test_pipeline')
    plain = None if steps is None else encode(in_registries([dict(step) for step in steps]))
    return plain, cfg.get('default_scope') or 'mtkd_cd'
