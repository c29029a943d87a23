"""Exported files as models of the inferencer: ONNX by onnxruntime or OpenVINO, OpenVINO's own
files, ``.pt2`` by torch."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.export.description import KEY, Description, from_dict, from_metadata
from mtkd_cd.export.norms import average_in_two_steps
from mtkd_cd.inference.predictor import Model
from mtkd_cd.models.mtkd.routing import ORIGIN, Routing

CASCADE = 'cascade.json'
CASCADE_SCHEMA = 'mtkd-cd exported cascade'
PT2_KEY = f'{KEY}.json'
_SUFFIXES = {'onnx': ('.onnx',), 'openvino': ('.onnx', '.xml'), 'torch': ('.pt2',)}
Run = Callable[[np.ndarray], np.ndarray]


class GraphPredictor:
    """A graph behind the inferencer's method.

    Args:
        run: (N, 2C, H, W) float32 to (N, channels, H, W).
        description: How the graph is fed.
    """

    def __init__(self, run: Run, description: Description) -> None:
        self.description = description
        self._run = run
        shape = (1, -1, 1, 1)
        self._mean, self._std = (
            np.array(numbers, np.float32).reshape(shape)
            for numbers in (description.card.mean, description.card.std)
        )

    def probability(self, pairs: Tensor) -> Tensor:
        """(N, H, W) float32 probability of change.

        Raises:
            UserError: The graph's height and width are fixed, and the pairs have others; or it
                cannot run on them.
        """
        found = self.description
        height, width = pairs.shape[2:]
        if found.size is not None and (height, width) != (found.size, found.size):
            raise UserError(
                f'{found.card.name}: its graph takes {found.size} x {found.size} pixels, not '
                f'{height} x {width}: predict with --window {found.size}, or export it with --size'
            )
        inputs = np.ascontiguousarray(pairs.detach().cpu().numpy(), np.float32)
        if found.input == 'raw':
            inputs = inputs * self._std + self._mean
        try:
            if found.dynamic == 'none':
                maps = np.concatenate([self._run(inputs[i : i + 1]) for i in range(len(inputs))])
            else:
                maps = self._run(inputs)
        except MemoryError:
            raise
        except Exception as error:  # of any runtime
            raise UserError(
                f'{found.card.name}: its graph cannot run on {len(inputs)} pairs of {height} x '
                f'{width} pixels ({_reason(error)}): predict with another --window, or export the '
                'model again'
            ) from None
        return torch.from_numpy(np.ascontiguousarray(maps[:, -1], np.float32))


def is_exported(model: str | os.PathLike) -> bool:
    """Whether this is the name of an exported file, or the folder of an exported cascade."""
    path = Path(model)
    return path.suffix.lower() in ('.onnx', '.xml', '.pt2') or (path / CASCADE).is_file()


def open_exported(
    path: str | os.PathLike,
    backend: str = 'torch',
    options: Mapping[str, Any] | None = None,
) -> Model:
    """An exported file, or an exported cascade, as a model.

    Args:
        path: ``.onnx``, ``.xml``, ``.pt2``, or the folder of a cascade.
        backend: ``'onnx'`` (onnxruntime), ``'openvino'``, or ``'torch'``: whatever the file is for.
        options: Fields of the card, in the place of those in the file.

    Raises:
        UserError: The file is missing, damaged, for another backend or does not say how it is fed;
            a package is missing.
    """
    path = Path(path)
    if path.is_dir() or path.name == CASCADE:
        return _open_cascade(path if path.is_dir() else path.parent, backend, options)
    if not path.is_file():
        raise UserError(f'model {path} does not exist: check the path')
    backend, suffix = _backend_of(path, backend), path.suffix.lower()
    content = path.read_bytes() if suffix == '.onnx' else path
    model = graph_model(open_graph(content, backend, path, options))
    # Maps say which file they were made with: one bundle has many.
    weights = path.with_suffix('.bin')
    files = [path, weights] if suffix == '.xml' and weights.is_file() else [path]
    model.card = dataclasses.replace(model.card, sha256=_digest(files))
    return model


def open_graph(
    content: bytes | Path,
    backend: str,
    name: str | os.PathLike,
    options: Mapping[str, Any] | None = None,
) -> GraphPredictor:
    """A predictor of an ONNX file's bytes, or of a ``.xml`` or ``.pt2`` file.

    Args:
        content: The bytes or the file.
        backend: ``'onnx'``, ``'openvino'`` or ``'torch'``.
        name: For errors.
        options: Fields of the card.
    """
    if backend == 'onnx':
        return _onnxruntime(content, name, options)
    if backend == 'openvino':
        return _openvino(content, name, options)
    return _torch(content, name, options)


def graph_model(predictor: GraphPredictor) -> Model:
    """The model of a single graph."""
    description = predictor.description
    partition = CARPartition()
    ranges = description.facts.get('ranges')
    if ranges:
        partition = CARPartition(ranges['thresholds'], ranges['names'])
    return Model(
        description.card,
        {'': lambda: predictor},
        partition=partition,
        cfg=description.cfg,
        device='cpu',
    )


def _onnxruntime(
    content: bytes | Path, name: str | os.PathLike, options: Mapping[str, Any] | None
) -> GraphPredictor:
    runtime = require('onnxruntime', 'export', "backend='onnx'")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3
    given = content if isinstance(content, bytes) else os.fspath(content)
    try:
        session = runtime.InferenceSession(given, settings, providers=['CPUExecutionProvider'])
    except Exception as error:  # onnxruntime has a class of its own for each of its codes
        raise _unreadable(name, error) from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    size = _check_graph(
        name,
        [one.shape for one in inputs],
        [one.shape for one in outputs],
        [one.type for one in inputs],
    )
    metadata = session.get_modelmeta().custom_metadata_map
    description = from_metadata(metadata, name, options, size, inputs[0].shape[1])
    entry = inputs[0].name
    return GraphPredictor(lambda pairs: session.run(None, {entry: pairs})[0], description)


def _openvino(
    content: bytes | Path, name: str | os.PathLike, options: Mapping[str, Any] | None
) -> GraphPredictor:
    openvino = require('openvino', 'openvino', "backend='openvino'")
    core = openvino.Core()
    metadata: Mapping[str, str]
    try:
        if isinstance(content, bytes):
            onnx = require('onnx', 'openvino', 'an ONNX file')
            model = core.read_model(content)
            average_in_two_steps(model)
            props = onnx.load_model_from_string(content).metadata_props
            metadata = {one.key: one.value for one in props}
        else:
            model = core.read_model(os.fspath(content))
            if Path(content).suffix.lower() == '.onnx':  # an .xml file is taken as it was written
                average_in_two_steps(model)
            metadata = (
                {KEY: model.get_rt_info([KEY]).astype(str)} if model.has_rt_info([KEY]) else {}
            )
        settings = {
            'INFERENCE_NUM_THREADS': torch.get_num_threads(),
            # Some processors compute in bfloat16 by default.
            'INFERENCE_PRECISION_HINT': 'f32',
            'PERFORMANCE_HINT': 'LATENCY',
        }
        run = _OpenVINO(model, partial(core.compile_model, device_name='CPU', config=settings))
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(name, error) from None
    inputs = [_shape_of(one) for one in model.inputs]
    outputs = [_shape_of(one) for one in model.outputs]
    kinds = [str(one.element_type) for one in model.inputs]
    size = _check_graph(name, inputs, outputs, kinds)
    description = from_metadata(metadata, name, options, size, inputs[0][1])
    return GraphPredictor(run, description)


class _OpenVINO:
    """Runs an OpenVINO model. Sides that may vary are fixed at those of the first pairs, which is
    faster; pairs of other sides run in a second compiled model, whose sides vary.

    Args:
        model: An ``openvino.Model`` with one input.
        compile: From such a model to an ``openvino.CompiledModel``.
    """

    def __init__(self, model: Any, compile: Callable[[Any], Any]) -> None:
        self._model = model
        self._compile = compile
        self._shape: tuple[int, ...] | None = None
        self._fixed = None if model.is_dynamic() else compile(model).create_infer_request()
        self._varying: Any = None

    def __call__(self, pairs: np.ndarray) -> np.ndarray:
        if self._fixed is None:
            fixed = self._model.clone()
            fixed.reshape(pairs.shape)
            self._fixed = self._compile(fixed).create_infer_request()
            self._shape = pairs.shape
        request = self._fixed
        if self._shape is not None and pairs.shape != self._shape:
            if self._varying is None:
                self._varying = self._compile(self._model).create_infer_request()
            request = self._varying
        return np.array(request.infer([pairs])[0])


def _shape_of(port: Any) -> list[Any]:
    """Sides of an input or output of OpenVINO's; ``None`` for one that may vary."""
    return [side.get_length() if side.is_static else None for side in port.get_partial_shape()]


def _torch(
    content: bytes | Path, name: str | os.PathLike, options: Mapping[str, Any] | None
) -> GraphPredictor:
    if isinstance(content, bytes):
        raise UserError(f'{name}: torch runs .pt2 files')
    extra = {PT2_KEY: ''}
    try:
        program = torch.export.load(os.fspath(content), extra_files=extra)
    except Exception as error:
        raise _unreadable(name, error) from None
    text = extra[PT2_KEY]
    description = from_metadata({KEY: text} if text else {}, name, options)
    module = program.module()

    def run(pairs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(pairs)).numpy()

    return GraphPredictor(run, description)


def _check_graph(
    name: str | os.PathLike,
    inputs: list[Any],
    outputs: list[Any],
    kinds: list[str],
) -> int | None:
    """The side of the input, ``None`` if it is free.

    Raises:
        UserError: It is no graph from a pair to its change.
    """
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(
            f'{name} has {len(inputs)} inputs and {len(outputs)} outputs: one input (N, 2C, H, W), '
            'both dates one after another, and one output (N, 1 or 2, H, W) are needed'
        )
    (shape,), (result,) = inputs, outputs
    fits = len(shape) == 4 and isinstance(shape[1], int) and shape[1] % 2 == 0
    if not fits or len(result) != 4 or result[1] not in (1, 2):
        raise UserError(
            f'{name} makes {_text(result)} of {_text(shape)}: an input (N, 2C, H, W), both dates '
            'one after another, and an output (N, 1 or 2, H, W) are needed'
        )
    if not any(kind in kinds[0] for kind in ('float', 'f32')) or 'float16' in kinds[0]:
        raise UserError(f'{name} takes {kinds[0]}: float32 is needed')
    if isinstance(shape[2], int) != isinstance(shape[3], int) or shape[2] != shape[3]:
        if isinstance(shape[2], int) or isinstance(shape[3], int):
            raise UserError(f'{name} takes {_text(shape)}: height and width must be equal')
        return None
    return shape[2] if isinstance(shape[2], int) else None


def _backend_of(path: Path, backend: str) -> str:
    """What runs a file: the wanted backend, if it can; for ``'torch'`` whatever does."""
    suffix = path.suffix.lower()
    if backend == 'torch' and suffix != '.pt2':
        backend = 'onnx' if suffix == '.onnx' else 'openvino'
    if suffix not in _SUFFIXES[backend]:
        raise UserError(
            f'model {path}: backend={backend!r} runs {" and ".join(_SUFFIXES[backend])}; export '
            'the model with `mtkd-cd export`'
        )
    return backend


def _text(shape: Any) -> str:
    return ' x '.join('?' if one is None else str(one) for one in shape)


def _unreadable(name: str | os.PathLike, error: Exception) -> UserError:
    return UserError(
        f'model {name} cannot be read ({_reason(error)}): it is damaged, or of another kind than '
        'its suffix says'
    )


def _reason(error: Exception) -> str:
    first = (str(error).splitlines() or [''])[0][:160]
    return f'{type(error).__name__}: {first}'


def _open_cascade(folder: Path, backend: str, options: Mapping[str, Any] | None) -> Model:
    try:
        found = json.loads((folder / CASCADE).read_text())
    except FileNotFoundError:
        raise UserError(
            f'model {folder} is a folder without {CASCADE}: give an exported file, or the folder '
            'of an exported cascade'
        ) from None
    except ValueError as error:
        raise UserError(f'{folder / CASCADE} is no JSON file ({error})') from None
    if not isinstance(found, Mapping) or found.get('schema') != CASCADE_SCHEMA:
        raise UserError(f'{folder / CASCADE} is of no cascade that mtkd-cd exported')
    try:
        partition = CARPartition(found['ranges']['thresholds'], found['ranges']['names'])
        routing = Routing(
            partition,
            tuple(found['routing']['teachers']),
            tuple(found['routing']['cuts']),
            tuple(found['routing']['detectors']),
        )
        parts = {str(name): dict(part) for name, part in found['detectors'].items()}
        described = from_dict(found['description'], folder / CASCADE)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{folder / CASCADE} is damaged ({type(error).__name__}: {error}). Export the cascade '
            'again'
        ) from None
    for name in dict.fromkeys((ORIGIN, *routing.detectors)):
        if name not in parts:
            raise UserError(f'{folder / CASCADE} names no file of the detector {name!r}')
        _backend_of(folder / str(parts[name].get('file')), backend)  # before the first image
    origin = from_metadata({KEY: json.dumps(described.as_dict())}, folder, options)

    def load(name: str) -> GraphPredictor:
        part = parts[name]
        path = folder / Path(str(part['file'])).name
        for file, digest in dict(part['sha256']).items():
            _check_part(folder / Path(str(file)).name, digest)
        model = open_exported(path, backend)
        predictor = model.predictor()
        assert isinstance(predictor, GraphPredictor)
        return predictor

    names = dict.fromkeys((ORIGIN, *routing.detectors))
    return Model(
        dataclasses.replace(origin.card, sha256=_digest([folder / CASCADE])),
        {name: partial(load, name) for name in names},
        routing,
        partition,
        origin.cfg,
        device='cpu',
    )


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with open(file, 'rb') as content:
            while block := content.read(2**22):
                digest.update(block)
    return digest.hexdigest()


def _check_part(path: Path, digest: str) -> None:
    if not path.is_file():
        raise UserError(f'{path} of the exported cascade does not exist: export it again')
    if _digest([path]) != digest:
        raise UserError(
            f'{path} has another SHA-256 than {CASCADE} says: it was changed or damaged. Export '
            'the cascade again'
        )
