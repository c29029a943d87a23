"""A trained model as one file that can be passed on: ``NAME.mtkd``.

A bundle is a ZIP archive without pickled objects: ``card.json``, ``config.json``,
``weights.safetensors`` (of a cascade ``weights.<detector>.safetensors``), ``README.md``, and in
``golden/`` a pair with the probability that the model gave it, and perhaps ``model.onnx``. The card
holds the SHA-256 of every other part.
"""

import dataclasses
import hashlib
import importlib
import io
import json
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.inference.calibration import Calibration
from mtkd_cd.inference.card import Card
from mtkd_cd.inference.outputs import check_folder
from mtkd_cd.inference.predictor import Model, TorchPredictor, build_plain, cascade_of, placed
from mtkd_cd.models.mtkd.routing import ORIGIN, Routing
from mtkd_cd.version import __version__

SUFFIX = '.mtkd'
SCHEMA = 'mtkd-cd bundle'
SCHEMA_VERSION = 1
CARD, CONFIG, README = 'card.json', 'config.json', 'README.md'
GRAPH = 'model.onnx'
PAPER = 'https://arxiv.org/abs/2502.13407'
GOLDEN_TOLERANCE = 1e-4
_SINGLE = ''
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError),
    *(ValueError, OSError, RuntimeError, RecursionError),
)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal contents make equal archives
# A `type` that is a plain name, or one with the scope of a registry before it. Registries also
# import dotted names of any module, which a file from elsewhere must not make them do.
_PLAIN_TYPE = re.compile(r'[A-Za-z_]\w*')
_SCOPES = ('mtkd_cd', 'mmseg', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'opencd')
# What a config has that prediction does not need, and what names files of another machine.
_LEFT_OUT = ('load_from', 'resume', 'work_dir', 'custom_imports', 'visualizer', 'vis_backends')
_OF_MODEL = ('init_cfg', 'checkpoints', 'routing_file')


@dataclass(frozen=True)
class Facts:
    """What a bundle says about its model, besides how to run it.

    Attributes:
        data: What it was trained on.
        licence: Licence of the weights.
        notes: Anything else.
    """

    data: str = ''
    licence: str = ''
    notes: str = ''


@dataclass
class Contents:
    """What goes into a bundle.

    Attributes:
        card: How the model takes its input.
        cfg: Its config.
        weights: The state dict of each detector; a model that is no cascade has one, ``''``.
        routing: Of a cascade: which detector predicts pairs of which coarse CAR.
        partition: The named CAR ranges.
        calibration: How threshold and temperature were chosen, and the scores on validation.
        golden: A pair, (H, W, C) uint8 each, and its probability, (H, W) float32.
        facts: What else is known.
    """

    card: Card
    cfg: Config
    weights: Mapping[str, Mapping[str, Tensor]]
    routing: Routing | None = None
    partition: CARPartition = field(default_factory=CARPartition)
    calibration: Calibration | None = None
    golden: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    facts: Facts = field(default_factory=Facts)


def write_bundle(path: str | os.PathLike, contents: Contents) -> Path:
    """Write a bundle, whole or not at all.

    Args:
        path: ``NAME.mtkd``.
        contents: What goes into it.

    Raises:
        UserError: Another suffix.
    """
    path = _checked_name(path)
    parts = dict(_parts(contents))
    return _write_parts(path, _card_json(contents, parts), parts)


def _checked_name(path: str | os.PathLike) -> Path:
    path = Path(path)
    if path.suffix != SUFFIX:
        raise UserError(f'bundle {path}: its name ends in {SUFFIX}')
    return path


def _write_parts(path: Path, card: Mapping[str, Any], parts: Mapping[str, bytes]) -> Path:
    with atomic_write(path, 'wb') as file, zipfile.ZipFile(file, 'w') as archive:
        for name, data in {CARD: _text(card), **parts}.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return path


def _parts(contents: Contents) -> Iterator[tuple[str, bytes]]:
    yield CONFIG, _text(encode(sanitised(contents.cfg)))
    for name, state_dict in contents.weights.items():
        tensors = {key: value.detach().cpu().contiguous() for key, value in state_dict.items()}
        # Tensors that share memory are refused by the format.
        yield (
            _weights_name(name),
            safetensors.torch.save({key: value.clone() for key, value in tensors.items()}),
        )
    yield README, _readme(contents).encode()
    if contents.golden is not None:
        for name, array in zip(('a', 'b', 'probability'), contents.golden):
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
            yield f'golden/{name}.npy', buffer.getvalue()


def _weights_name(detector: str) -> str:
    return f'weights.{detector}.safetensors' if detector else 'weights.safetensors'


def _card_json(contents: Contents, parts: Mapping[str, bytes]) -> dict[str, Any]:
    card, calibration = contents.card, contents.calibration
    routing = contents.routing
    return {
        'schema': SCHEMA,
        'schema_version': SCHEMA_VERSION,
        'mtkd_cd_version': __version__,
        'name': card.name,
        'architecture': _architecture(contents.cfg),
        'imports': _own_modules(contents.cfg),
        'input': card.input_as_dict(),
        'threshold': card.threshold,
        'temperature': card.temperature,
        'calibration': calibration.as_dict() if calibration else None,
        'ranges': {
            'thresholds': list(contents.partition.thresholds),
            'names': list(contents.partition.names),
        },
        'cascade': None
        if routing is None
        else {
            'teachers': list(routing.teachers),
            'cuts': list(routing.cuts),
            'detectors': list(routing.detectors),
        },
        'detectors': list(contents.weights),
        'data': contents.facts.data,
        'licence': contents.facts.licence,
        'notes': contents.facts.notes,
        'paper': PAPER,
        'parts': {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
    }


def _own_modules(cfg: Config) -> list[str]:
    """The user's modules that register parts of the model. A bundle names them and imports none."""
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    modules = [imports] if isinstance(imports, str) else list(imports)
    return [module for module in modules if module.partition('.')[0] not in _SCOPES]


def _architecture(cfg: Config) -> dict[str, Any]:
    model = cfg.model
    inner = model.get('origin') or model.get('student') or model
    parts = ('backbone', 'neck', 'decode_head', 'image_encoder')
    return {'detector': _name(inner['type'])} | {
        part: _name(inner[part]['type']) for part in parts if inner.get(part)
    }


def _name(kind: Any) -> str:
    return kind if isinstance(kind, str) else kind.__name__


def _readme(contents: Contents) -> str:
    card, calibration = contents.card, contents.calibration
    lines = [
        f'# {card.name}',
        '',
        f'A change detector in one file, of mtkd-cd {__version__} ({PAPER}).',
        '',
        '```',
        "pip install 'mtkd-cd[geo]'",
        f'mtkd-cd predict A.tif B.tif -m {card.name}{SUFFIX} -o change.tif',
        '```',
        '',
        f'- Bands: {", ".join(card.bands)}; radiometry: {card.radiometry}',
        f'- Ground sample distance: {f"{card.gsd_m} m" if card.gsd_m else "not known"}',
        f'- Training size: {card.training_size} pixels',
        f'- Threshold: {card.threshold:g}; temperature: {card.temperature:g}',
    ]
    if calibration is not None:
        lines += ['', *calibration.lines()]
    else:
        lines += ['', 'Threshold and temperature were not chosen on validation data.']
    if modules := _own_modules(contents.cfg):
        lines += ['', f'Import before it is opened: {", ".join(modules)}']
    for title, text in (('Data', contents.facts.data), ('Licence', contents.facts.licence)):
        if text:
            lines += ['', f'{title}: {text}']
    if contents.facts.notes:
        lines += ['', contents.facts.notes]
    return '\n'.join(lines) + '\n'


class Bundle:
    """An opened bundle, whose parts have the hashes that its card names.

    Args:
        path: The file.
        description: What ``card.json`` says.
        parts: The other parts by name.
    """

    def __init__(
        self, path: Path, description: Mapping[str, Any], parts: Mapping[str, bytes]
    ) -> None:
        self.path = path
        self.description = description
        self._parts = parts

    @classmethod
    def open(cls, path: str | os.PathLike) -> 'Bundle':
        """Read a bundle and check it.

        Raises:
            UserError: The file is missing or no bundle, its schema is not known, a part is missing
                or left over, or has another hash than the card says.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f'bundle {path} does not exist: check the path')
        try:
            with zipfile.ZipFile(path) as archive:
                parts = {name: archive.read(name) for name in archive.namelist()}
            description = json.loads(parts.pop(CARD))
        except KeyError:
            raise UserError(f'bundle {path} has no {CARD}: it is no bundle of mtkd-cd') from None
        except _UNREADABLE as error:
            raise UserError(
                f'bundle {path} cannot be read ({type(error).__name__}: {error}): it is damaged or '
                'no bundle. Get it again'
            ) from None
        _check_schema(path, description)
        listed = description.get('parts')
        if not isinstance(listed, Mapping) or set(listed) != set(parts):
            raise UserError(
                f'bundle {path} holds other parts than its card lists: it was changed or damaged. '
                'Get it again'
            )
        for name, data in parts.items():
            if hashlib.sha256(data).hexdigest() != listed[name]:
                raise UserError(
                    f'bundle {path}: {name} has another SHA-256 than the card says: it was changed '
                    'or damaged. Get it again'
                )
        return cls(path, description, parts)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @cached_property
    def card(self) -> Card:
        """How the model takes its input."""
        try:
            return Card.of(self.description, self.sha256)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from None

    @cached_property
    def cfg(self) -> Config:
        """The config, built of plain values; nothing in it is run.

        Raises:
            UserError: A type that is no name of a registry.
        """
        try:
            cfg = Config(decode(json.loads(self._parts[CONFIG])))
            check_types(cfg._cfg_dict.to_dict())
        except UserError as error:
            raise UserError(f'bundle {self.path}: {error}') from None
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise self._damaged(error) from None
        return cfg

    @property
    def partition(self) -> CARPartition:
        """The named CAR ranges."""
        ranges = self.description['ranges']
        return CARPartition(ranges['thresholds'], ranges['names'])

    @property
    def routing(self) -> Routing | None:
        """Of a cascade: which detector predicts pairs of which coarse CAR."""
        found = self.description.get('cascade')
        if found is None:
            return None
        return Routing(
            self.partition,
            tuple(found['teachers']),
            tuple(found['cuts']),
            tuple(found['detectors']),
        )

    @property
    def golden(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """A pair, (H, W, C) uint8 each, and the probability that its maker got, (H, W)."""
        names = [f'golden/{name}.npy' for name in ('a', 'b', 'probability')]
        if not all(name in self._parts for name in names):
            return None
        a, b, probability = (
            np.load(io.BytesIO(self._parts[name]), allow_pickle=False) for name in names
        )
        return a, b, probability

    @property
    def readme(self) -> str:
        """The text of ``README.md``."""
        return self._parts.get(README, b'').decode(errors='replace')

    def build(self, device: str = 'auto', backend: str = 'torch') -> Model:
        """The model, ready to predict; detectors of a cascade are built when they are needed.

        Args:
            device: ``'auto'``, ``'cpu'``, ``'cuda'``, ``'cuda:1'``.
            backend: ``'torch'``; ``'onnx'`` or ``'openvino'`` of a bundle that holds a graph.

        Raises:
            UserError: The bundle holds no graph for the backend, or weights that do not fit the
                config.
        """
        if backend != 'torch':
            return self._build_graph(backend)
        card, cfg = self.card, self.cfg
        if self.routing is None:
            load = partial(self._predictor, _SINGLE, cfg.model, device)
            return Model(card, {_SINGLE: load}, partition=self.partition, cfg=cfg)
        return cascade_of(
            cfg,
            self.routing,
            partial(self._detector, device=device),
            card=card,
        )

    def _build_graph(self, backend: str) -> Model:
        if GRAPH not in self._parts:
            raise UserError(
                f'bundle {self.path} holds no graph for backend={backend!r}: write one with '
                f'`mtkd-cd export {self.path} -o NAME.onnx` and give that file as the model'
            )
        # Bundles are opened without the packages that run graphs.
        runtime = importlib.import_module('mtkd_cd.export.runtime')
        model = runtime.graph_model(runtime.open_graph(self._parts[GRAPH], backend, self.path))
        model.card = dataclasses.replace(model.card, sha256=self.sha256)
        return model

    def with_graph(self, graph: bytes, path: str | os.PathLike) -> Path:
        """Write a copy that holds an ONNX file, the part ``model.onnx``.

        Args:
            graph: The bytes of a file of :func:`~mtkd_cd.export.exporting.export_model`.
            path: ``NAME.mtkd``.
        """
        parts = {**self._parts, GRAPH: graph}
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
        return _write_parts(Path(path), dict(self.description, parts=hashes), parts)

    def _predictor(self, name: str, model: Mapping[str, Any], device: str) -> TorchPredictor:
        return TorchPredictor(self._detector(name, model, device), self.card.temperature)

    def _detector(self, name: str, model: Mapping[str, Any], device: str) -> nn.Module:
        try:
            detector = build_plain(self.cfg, model)
        except (KeyError, UserError) as error:
            modules = [str(module) for module in self.description.get('imports') or []]
            if all(module in sys.modules for module in modules):
                raise
            reason = error.args[0] if error.args else error
            raise UserError(
                f'bundle {self.path} is of a model with parts of your own, and imports nothing by '
                f'itself ({reason}): import {", ".join(modules)} before it is opened, in Python, '
                'or predict with the config as the model, and --weights'
            ) from None
        try:
            state_dict = safetensors.torch.load(self._parts[_weights_name(name)])
            detector.load_state_dict(state_dict)
        except KeyError:
            raise UserError(f'bundle {self.path} has no weights of the detector {name!r}') from None
        except (RuntimeError, ValueError, safetensors.SafetensorError) as error:
            raise self._damaged(error) from None
        return placed(detector, device)

    def _damaged(self, error: Exception) -> UserError:
        reason = (str(error).splitlines() or [''])[0][:120]
        return UserError(
            f'bundle {self.path} is damaged or not consistent ({type(error).__name__}: {reason}). '
            'Get it again'
        )


def verify_bundle(path: str | os.PathLike, device: str = 'cpu') -> float:
    """Replay a bundle's golden pair.

    Args:
        path: The bundle.
        device: To predict on.

    Returns:
        The largest difference from the probability in the bundle.

    Raises:
        UserError: The bundle is no good, has no golden pair, or predicts something else.
    """
    from mtkd_cd.inference.inferencer import ChangeInferencer

    bundle = Bundle.open(path)
    golden = bundle.golden
    if golden is None:
        raise UserError(f'bundle {path} has no golden pair to compare with')
    a, b, wanted = golden
    result = ChangeInferencer(bundle.build(device))([[a, b]])[0]
    difference = float(np.abs(result.probability - wanted).max())
    if not difference <= GOLDEN_TOLERANCE:
        raise UserError(
            f'bundle {path}: its golden pair gets probabilities that differ by {difference:.2e} '
            f'from those in the file, at most {GOLDEN_TOLERANCE:.0e} is allowed: this '
            'installation computes something else'
        )
    return difference


def _check_schema(path: Path, description: Any) -> None:
    if not isinstance(description, Mapping) or description.get('schema') != SCHEMA:
        raise UserError(f'bundle {path}: its {CARD} is of no bundle of mtkd-cd')
    version = description.get('schema_version')
    if version != SCHEMA_VERSION:
        raise UserError(
            f'bundle {path} has the schema version {version!r}, this mtkd-cd {__version__} knows '
            f'{SCHEMA_VERSION}: install the version that wrote it '
            f'({description.get("mtkd_cd_version")})'
        )


def _text(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + '\n').encode()


def sanitised(cfg: Config) -> dict[str, Any]:
    """A copy of a config without the entries that name files of the machine it comes from."""
    plain = {key: value for key, value in cfg.to_dict().items() if key not in _LEFT_OUT}

    def clean(node: Any) -> Any:
        if isinstance(node, dict):
            kept = {key: clean(value) for key, value in node.items() if key not in _OF_MODEL}
            if isinstance(kept.get('pretrained'), str):
                kept['pretrained'] = None
            return kept
        if isinstance(node, (list, tuple)):
            return type(node)(clean(value) for value in node)
        return node

    if 'model' in plain:
        plain['model'] = clean(plain['model'])
    return in_registries(plain)


def in_registries(node: Any) -> Any:
    """A copy of a config whose types are names in a registry. Pure-Python configs name a class
    together with its module."""
    if isinstance(node, dict):
        node = {key: in_registries(value) for key, value in node.items()}
        if isinstance(node.get('type'), str) and node['type'].count('.') > 1:
            scope, *_, name = node['type'].split('.')
            node['type'] = f'{scope}.{name}' if scope in _SCOPES else name
        return node
    if isinstance(node, (list, tuple)):
        return type(node)(in_registries(value) for value in node)
    return node


def encode(value: Any) -> Any:
    """Turn a config's values into JSON values. Tuples and classes are marked, so that
    :func:`decode` finds them."""
    if isinstance(value, Mapping):
        return {str(key): encode(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return {'__tuple__': [encode(inner) for inner in value]}
    if isinstance(value, list):
        return [encode(inner) for inner in value]
    if isinstance(value, type) or callable(value):
        return value.__name__
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return {'__float__': repr(value)}
    if isinstance(value, (torch.dtype, Path)):
        return str(value)
    return value


def decode(value: Any) -> Any:
    """Undo :func:`encode`. Classes stay names."""
    if isinstance(value, dict):
        if set(value) == {'__tuple__'}:
            return tuple(decode(inner) for inner in value['__tuple__'])
        if set(value) == {'__float__'}:
            return float(value['__float__'])
        return {key: decode(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [decode(inner) for inner in value]
    return value


def check_types(node: Any) -> None:
    """Refuse a config with a ``type`` that no registry knows by that name.

    Raises:
        UserError: Names the type.
    """
    if isinstance(node, dict):
        kind = node.get('type')
        if isinstance(kind, str):
            scope, _, name = kind.rpartition('.')
            if not _PLAIN_TYPE.fullmatch(name) or (scope and scope not in _SCOPES):
                raise UserError(
                    f'its config names the type {kind!r}, which is no name of a registry: the '
                    'bundle is refused'
                )
        for value in node.values():
            check_types(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            check_types(value)


Progress = Callable[[int, int], None]


def create_bundle(
    config: str | os.PathLike | Config,
    weights: str | os.PathLike | None,
    out: str | os.PathLike,
    *,
    facts: Facts | None = None,
    name: str | None = None,
    gsd_m: float | None = None,
    training_size: int | None = None,
    threshold: float | None = None,
    validation: bool = True,
    device: str = 'auto',
    progress: Progress | None = None,
) -> Bundle:
    """Make a bundle of a config and its weights.

    Threshold and temperature are chosen on the config's validation data, see
    :mod:`mtkd_cd.inference.calibration`. The published TinyCD files are recognised, and the
    config's two options that they need are set.

    Args:
        config: A config file or a loaded config, also of a cascade.
        weights: The checkpoint; None: those that the config's training left, or of a cascade those
            that it names.
        out: ``NAME.mtkd``.
        facts: What the bundle says about the model.
        name: What to call it; default: the name of ``out``.
        gsd_m: Ground sample distance of the training images in metres.
        training_size: Side of the training images in pixels; default: what the config crops to.
        threshold: Threshold to write down, instead of choosing one.
        validation: Whether to use the validation data at all.
        device: To predict on.
        progress: Called with (done, all) validation images.

    Returns:
        The bundle, opened again and so checked.

    Raises:
        UserError: The config or the weights are missing or no good, or the validation data are.
    """
    from mtkd_cd.inference.creation import gather_contents

    out = _checked_name(out)
    check_folder(f'bundle {out}', out.parent)  # now, and not after the validation
    contents = gather_contents(
        config,
        weights,
        name=name or Path(out).stem,
        gsd_m=gsd_m,
        training_size=training_size,
        threshold=threshold,
        validation=validation,
        device=device,
        progress=progress,
    )
    contents.facts = facts or Facts()
    write_bundle(out, contents)
    return Bundle.open(out)


__all__ = [
    'ORIGIN',
    'Bundle',
    'Contents',
    'Facts',
    'create_bundle',
    'verify_bundle',
    'write_bundle',
]
