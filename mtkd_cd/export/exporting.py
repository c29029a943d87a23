"""``mtkd-cd export``: a trained model to a file of another runtime, compared with torch before it
gets its name."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.core.files import atomic_folder, atomic_write, temporary_folder
from mtkd_cd.export.description import KEY, Description, encoded_pipeline
from mtkd_cd.export.graph import OPSET, Dynamic, check_dimensions, onnx_model, traced
from mtkd_cd.export.network import InputKind, PairNetwork, in_band_order
from mtkd_cd.export.norms import average_in_two_steps
from mtkd_cd.export.parity import TOLERANCE, Parity, compare_predictors, made_up_pairs
from mtkd_cd.export.quantise import (
    Loss,
    Pairs,
    loss,
    quantised_onnx,
    quantised_openvino,
    read_windows,
)
from mtkd_cd.export.runtime import (
    CASCADE,
    CASCADE_SCHEMA,
    PT2_KEY,
    GraphPredictor,
    is_exported,
    open_graph,
)
from mtkd_cd.inference.bundle import SUFFIX as BUNDLE
from mtkd_cd.inference.bundle import Bundle
from mtkd_cd.inference.card import Card
from mtkd_cd.inference.inferencer import ChangeInferencer
from mtkd_cd.inference.predictor import Model, TorchPredictor, data_settings

FORMATS = {'onnx': '.onnx', 'pt2': '.pt2', 'openvino': '.xml'}
_BACKENDS = {'.onnx': 'onnx', '.pt2': 'torch', '.xml': 'openvino'}
_PAIRS = 3


@dataclass(frozen=True)
class Options:
    """How a model is exported.

    Attributes:
        size: Side of the graph's input; ``None``: the model's training size.
        dynamic: What is free: ``'batch'``, ``'none'`` (one pair at a time) or ``'all'`` (batch,
            height and width).
        input: ``'normalised'``, or ``'raw'`` for values from 0 to 255.
        channels: 1 for the probability of change, 2 for that of no change before it.
        opset: Of ONNX.
        tolerance: Largest difference of a probability from torch, and share of flipped pixels.
        format: Of the files of a cascade: ``'onnx'``, ``'pt2'`` or ``'openvino'``.
        int8: Whether to write 8-bit integers.
        calibration: Pairs of the validation split, half of them to calibrate with and half to
            compare on: a folder with A/, B/ and perhaps label/, or a CSV file.
        pairs: Pairs on which the file is compared with torch, in the same form; default: made-up
            ones.
        facts: What else the file says of the model; default: data, licence, notes and scores of the
            bundle.
    """

    size: int | None = None
    dynamic: Dynamic = 'batch'
    input: InputKind = 'normalised'
    channels: int = 1
    opset: int = OPSET
    tolerance: float = TOLERANCE
    format: str = 'onnx'
    int8: bool = False
    calibration: str | os.PathLike | None = None
    pairs: str | os.PathLike | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: The file.
        detector: Of a cascade, who it is.
        size_bytes: With the weights that lie beside it.
        parity: How it differs from torch; of 8-bit integers, how the float32 that they come from
            does.
        loss: What 8-bit integers change.
    """

    path: Path
    detector: str
    size_bytes: int
    parity: Parity
    loss: Loss | None = None


def export_model(
    model: Any,
    out: str | os.PathLike,
    *,
    weights: str | os.PathLike | None = None,
    overwrite: bool = False,
    trusted: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> list[Exported]:
    """Export a model, and compare the file with torch on a few pairs before it gets its name.

    Args:
        model: A bundle, a config (with ``weights``), a detector, or a cascade of these.
        out: ``.onnx``, ``.pt2`` or ``.xml`` (OpenVINO, with its weights in ``.bin`` beside it);
            ``.mtkd``: a copy of the bundle with the ONNX file in it; of a cascade a folder, which
            gets a file per detector and the routing.
        weights: The checkpoint of a config.
        overwrite: Whether an existing file is replaced.
        trusted: Whether ``weights`` may hold pickled objects.
        cfg_options: Changes of config entries.
        progress: Called with what is being done.
        options: Fields of :class:`Options`.

    Returns:
        The files.

    Raises:
        UserError: The model is no good or cannot be exported (names the part), the graph is not
            what was asked for, or it differs from torch by more than the tolerance. Nothing is
            written then.
    """
    chosen = Options(**options)
    target = Path(out)
    _check(model, target, chosen, overwrite)
    source = ChangeInferencer(
        model, weights, device='cpu', trusted=trusted, cfg_options=cfg_options
    ).model
    chosen = dataclasses.replace(chosen, facts={**_bundle_facts(model), **chosen.facts})
    is_cascade = source.routing is not None
    suffix = target.suffix.lower()
    if suffix == BUNDLE:
        return [_into_bundle(model, source, target, chosen, progress or _silent)]
    if is_cascade and suffix in _BACKENDS:
        raise UserError(
            f'{out}: a cascade has a file per detector; give a folder, and --format for its files'
        )
    if not is_cascade and suffix not in _BACKENDS:
        raise UserError(
            f'{out}: unknown extension {suffix!r}; use .onnx, .pt2, .xml or .mtkd'
            + ('' if suffix else ' (a folder is for a cascade)')
        )
    tell = progress or _silent
    if not is_cascade:
        with temporary_folder(target) as folder:
            return [_moved(_export_one(source, '', folder / target.name, chosen, tell), target)]
    with atomic_folder(target) as folder:
        files = [
            _export_one(source, name, folder / f'{name}{FORMATS[chosen.format]}', chosen, tell)
            for name in source.names
        ]
        _write_routing(source, folder, files, chosen)
    return [dataclasses.replace(one, path=target / one.path.name) for one in files]


def _bundle_facts(model: Any) -> dict[str, Any]:
    if not isinstance(model, (str, os.PathLike)) or Path(model).suffix.lower() != BUNDLE:
        return {}
    found = Bundle.open(model).description
    facts = {key: found.get(key) for key in ('architecture', 'data', 'licence', 'notes', 'paper')}
    calibration = found.get('calibration')
    if calibration:
        facts['calibration'] = {k: v for k, v in calibration.items() if k != 'curve'}
    return facts


def _silent(text: str) -> None:
    pass


def _into_bundle(
    model: Any, source: Model, target: Path, options: Options, tell: Callable[[str], None]
) -> Exported:
    is_bundle = isinstance(model, (str, os.PathLike)) and Path(model).suffix.lower() == BUNDLE
    if not is_bundle or source.routing is not None:
        raise UserError(
            f'{target}: the bundle of a single detector is copied, with the graph in it; '
            + ('give a folder for a cascade' if source.routing else 'give a bundle as the model')
        )
    with temporary_folder(target) as folder:
        exported = _export_one(source, '', folder / 'model.onnx', options, tell)
        Bundle.open(model).with_graph(exported.path.read_bytes(), target)
    return dataclasses.replace(exported, path=target, size_bytes=target.stat().st_size)


def _check(model: Any, target: Path, options: Options, overwrite: bool) -> None:
    if isinstance(model, (str, os.PathLike)) and is_exported(model):
        raise UserError(f'{model} is exported already: give the bundle or the config')
    for name, value, choices in (
        ('dynamic', options.dynamic, ('batch', 'none', 'all')),
        ('input', options.input, ('normalised', 'raw')),
        ('channels', options.channels, (1, 2)),
        ('format', options.format, tuple(FORMATS)),
    ):
        if value not in choices:
            raise UserError(f'{name}={value!r}: one of {", ".join(map(repr, choices))} is needed')
    if options.int8 != (options.calibration is not None):
        raise UserError(
            '--int8 and --calibration go together: give pairs of the validation split, a folder '
            'with A/, B/ and perhaps label/, or a CSV file'
        )
    if options.int8 and options.dynamic == 'all':
        raise UserError('--int8 needs a fixed height and width: --dynamic batch or none')
    if options.int8 and (target.suffix.lower() == '.pt2' or options.format == 'pt2'):
        raise UserError('--int8 is for .onnx and .xml files, not for .pt2')
    if target.exists() and not overwrite:
        raise UserError(f'{target} exists: choose another name, or pass --overwrite')
    if target.is_dir() and not (target / CASCADE).is_file():
        raise UserError(f'{target} is a folder, and no exported cascade: choose another name')


def describe(source: Model, name: str, options: Options) -> Description:
    """What the file of a detector says of itself."""
    card = source.card
    size = options.size or card.training_size
    if size < 1 or size % card.divisor:
        raise UserError(
            f'--size {size}: {card.name} takes sides in multiples of {card.divisor}, for instance '
            f'{max(1, round(size / card.divisor)) * card.divisor}'
        )
    is_free = options.dynamic == 'all'
    pipeline, scope = encoded_pipeline(source.cfg)
    return Description(
        dataclasses.replace(
            card,
            bands=card.band_order,
            mean=in_band_order(card, card.mean),
            std=in_band_order(card, card.std),
            training_size=size,
            divisor=card.divisor if is_free else size,
        ),
        options.input,
        options.channels,
        None if is_free else size,
        options.dynamic,
        name,
        pipeline=pipeline,
        scope=scope,
        facts={
            **options.facts,
            'ranges': {
                'thresholds': list(source.partition.thresholds),
                'names': list(source.partition.names),
            },
        },
    )


def network_of(source: Model, name: str, options: Options) -> PairNetwork:
    """A detector of a model as the module that is exported."""
    predictor = source.predictor(name)
    if not isinstance(predictor, TorchPredictor):
        raise UserError(f'{source.card.name} has no torch module to export')
    return PairNetwork(predictor, source.card, options.input, options.channels).eval()


def _export_one(
    source: Model, name: str, path: Path, options: Options, tell: Callable[[str], None]
) -> Exported:
    """Write a detector's file under a temporary name, and compare it with torch."""
    label = f'{source.card.name} {name}'.strip()
    description = describe(source, name, options)
    network = network_of(source, name, options)
    size = description.card.training_size
    calibration = None
    trained = data_settings(source.cfg)[0]
    if options.calibration is not None:  # before the minutes that the rest takes
        calibration = read_windows(
            options.calibration, description.card, size, trained_bands=trained
        )
    if options.pairs is None:
        images = made_up_pairs(description.card, size, _PAIRS)
    else:
        images = read_windows(
            options.pairs, description.card, size, _PAIRS, '--pairs', trained
        ).images
    tell(f'{label}: tracing')
    program = traced(network, size, options.dynamic, source.card.divisor)
    if path.suffix == '.pt2':
        predictor = _in_torch(program, description)
        description = _compared(source, name, description, predictor, images, options)
        tell(f'{label}: writing')
        extra = {PT2_KEY: json.dumps(description.as_dict())}
        torch.export.save(program, path, extra_files=extra)
    else:
        tell(f'{label}: converting to ONNX')
        model = onnx_model(program, options.opset)
        del program
        channels = 2 * len(source.card.bands), options.channels
        check_dimensions(model, options.dynamic, channels, size)
        set_metadata(model, description)
        content = model.SerializeToString()
        backend = _BACKENDS[path.suffix]
        tell(f'{label}: comparing with torch')
        predictor = open_graph(content, backend, path.name)
        description = _compared(source, name, description, predictor, images, options)
        if calibration is not None:
            tell(f'{label}: quantising')
            return _write_int8(source, name, path, description, model, calibration)
        if path.suffix == '.onnx':
            set_metadata(model, description)
            path.write_bytes(model.SerializeToString())
        else:
            write_openvino(content, description, path)
    assert description.parity is not None
    return Exported(path, name, _bytes(path), _parity(description.parity))


def _write_int8(
    source: Model, name: str, path: Path, description: Description, model: Any, pairs: Pairs
) -> Exported:
    """Quantise a graph that agrees with torch in float32, and write it."""
    assert description.parity is not None
    calibration, others = pairs.split()
    parity = _parity(description.parity)
    described = dataclasses.replace(description, int8=True)
    if path.suffix == '.onnx':
        result = quantised_onnx(model, calibration, description)
        set_metadata(result, described)
        predictor = open_graph(result.SerializeToString(), 'onnx', path.name)
    else:
        result = quantised_openvino(model.SerializeToString(), calibration, description)
        save_openvino(result, described, path)
        predictor = open_graph(path, 'openvino', path.name)
    found = loss((source.predictor(name), source.card), (predictor, described.card), others)
    described = dataclasses.replace(described, facts={**described.facts, 'int8': found.as_dict()})
    del predictor  # OpenVINO reads the weights from the file, which is written again
    if path.suffix == '.onnx':
        set_metadata(result, described)
        path.write_bytes(result.SerializeToString())
    else:
        save_openvino(result, described, path)
    return Exported(path, name, _bytes(path), parity, found)


def _compared(
    source: Model,
    name: str,
    description: Description,
    predictor: GraphPredictor,
    images: np.ndarray,
    options: Options,
) -> Description:
    """The description with the parity that was found on ``images``, (N, 2C, S, S).

    Raises:
        UserError: The graph differs from torch by more than is allowed.
    """
    card: Card = description.card
    parity = compare_predictors(
        source.predictor(name), predictor, images, (source.card, card), card.threshold
    )
    parity.check(f'{card.name} {name}'.strip(), options.tolerance)
    return dataclasses.replace(description, parity=parity.as_dict())


def _in_torch(program: Any, description: Description) -> GraphPredictor:
    module = program.module()

    def run(pairs: Any) -> Any:
        with torch.no_grad():
            return module(torch.from_numpy(pairs)).numpy()

    return GraphPredictor(run, description)


def set_metadata(model: Any, description: Description) -> None:
    """Write a description into an ``onnx.ModelProto``."""
    del model.metadata_props[:]
    for key, value in description.metadata().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def write_openvino(content: bytes, description: Description, path: Path) -> None:
    """Convert an ONNX file's bytes to OpenVINO's ``.xml`` and ``.bin``, in float32."""
    openvino = require('openvino', 'openvino', 'an .xml file')
    model = openvino.Core().read_model(content)
    average_in_two_steps(model)
    save_openvino(model, description, path)


def save_openvino(model: Any, description: Description, path: Path) -> None:
    """Save an OpenVINO model with a description."""
    openvino = require('openvino', 'openvino', 'an .xml file')
    model.set_rt_info(json.dumps(description.as_dict()), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def _write_routing(source: Model, folder: Path, files: list[Exported], options: Options) -> None:
    routing = source.routing
    assert routing is not None
    content = {
        'schema': CASCADE_SCHEMA,
        'description': describe(source, '', options).as_dict(),
        'ranges': {
            'thresholds': list(source.partition.thresholds),
            'names': list(source.partition.names),
        },
        'routing': {
            'teachers': list(routing.teachers),
            'cuts': list(routing.cuts),
            'detectors': list(routing.detectors),
        },
        'detectors': {
            one.detector: {
                'file': one.path.name,
                'sha256': {
                    part.name: hashlib.sha256(part.read_bytes()).hexdigest()
                    for part in _parts(one.path)
                },
            }
            for one in files
        },
    }
    with atomic_write(folder / CASCADE) as file:
        file.write(json.dumps(content, indent=1) + '\n')


def _parts(path: Path) -> list[Path]:
    """A file, and the weights that OpenVINO keeps beside it."""
    return [path, path.with_suffix('.bin')] if path.suffix == '.xml' else [path]


def _bytes(path: Path) -> int:
    return sum(part.stat().st_size for part in _parts(path))


def _moved(exported: Exported, target: Path) -> Exported:
    # The weights first: a file that is there is complete.
    for part in reversed(_parts(exported.path)):
        os.replace(part, target.with_suffix(part.suffix))
    return dataclasses.replace(exported, path=target)


def _parity(found: Mapping[str, Any]) -> Parity:
    return Parity(found['max_difference'], found['flips'], found['pixels'], tuple(found['batches']))
