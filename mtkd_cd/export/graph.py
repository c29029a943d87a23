"""A network as torch's exported program and as an ONNX graph, with the dimensions that were asked
for.

torch.onnx falls back silently where it fails: to a graph of fixed dimensions, to other tracers. So
the program is traced here, which fails loudly, and the finished graph is read back.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.export.network import PairNetwork

Dynamic = Literal['batch', 'none', 'all']
INPUT, OUTPUT = 'pair', 'probability'
OPSET = 18
MAX_OPSET = 20
# QGIS Deepness pins onnxruntime <= 1.17, which refuses the version 10 that torch writes.
IR_VERSION = 9
# (backbone, head) of the models whose height and width were tested free: tinycd, fc_siam_diff,
# bit_r18.
_FREE_SIZE = {('TinyCD', 'IdentityHead'), ('FC_Siam_diff', 'FCNHead'), ('ResNetV1c', 'BITHead')}


def traced(network: PairNetwork, size: int, dynamic: Dynamic, divisor: int = 1) -> ExportedProgram:
    """The network as torch's exported program.

    Args:
        network: In evaluation mode, on the CPU.
        size: Side of the images.
        dynamic: What is free: the batch, nothing (one pair), or batch, height and width.
        divisor: What free sides are multiples of.

    Raises:
        UserError: A part that cannot be exported (says which and why), or no free size.
    """
    parts = architecture(network.detector)
    if dynamic == 'all' and parts not in _FREE_SIZE:
        raise UserError(
            f'--dynamic all: with a {parts[0]} backbone and a {parts[1]} head, height and width '
            'have not been tested free (tinycd, fc_siam_diff and bit_r18 have); use --dynamic '
            'batch, and --size for the side'
        )
    channels = len(network.order)
    example = torch.zeros(1 if dynamic == 'none' else 2, channels, size, size)
    shapes: Any = None
    if dynamic != 'none':
        free = {0: Dim('batch', min=1)}
        if dynamic == 'all':
            sides = {2: Dim('rows', min=2), 3: Dim('cols', min=2)}
            free |= {axis: divisor * side for axis, side in sides.items()}
        shapes = dict(pair=free)
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(
                network.eval(), (example,), dynamic_shapes=shapes, strict=False
            )
    except Exception as error:
        raise UserError(_refusal(error, network, dynamic)) from error


def onnx_model(program: ExportedProgram, opset: int = OPSET) -> Any:
    """An ``onnx.ModelProto`` of a program of :func:`traced`, with its dimensions named.

    Raises:
        UserError: An operator that ONNX has not, an opset above 20, a missing package, or
            dimensions other than the program's.
    """
    if not OPSET <= opset <= MAX_OPSET:
        raise UserError(f'--opset {opset}: {OPSET} to {MAX_OPSET} can be written')
    for package in ('onnx', 'onnxscript'):
        require(package, 'export', 'ONNX')
    try:
        with torch.no_grad(), _quiet():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise UserError(f'ONNX cannot express the model: {_cause(error)}') from error
    assert converted is not None
    model = converted.model_proto
    model.ir_version = IR_VERSION
    _name_dimensions(model, program)
    return model


def dimensions(value: Any) -> list[int | str]:
    """Of an input or output of an ONNX graph: numbers, and names of free ones."""
    return [
        dim.dim_value if dim.HasField('dim_value') else dim.dim_param
        for dim in value.type.tensor_type.shape.dim
    ]


def check_dimensions(model: Any, dynamic: Dynamic, channels: tuple[int, int], size: int) -> None:
    """Compare a graph's dimensions with those that were asked for.

    Args:
        model: The ``onnx.ModelProto``.
        dynamic: What is to be free.
        channels: Of input and output.
        size: The side, where it is not free.

    Raises:
        UserError: They are others; says which.
    """
    batch = 1 if dynamic == 'none' else 'batch'
    sides = ['height', 'width'] if dynamic == 'all' else [size, size]
    for value, count in zip((model.graph.input[0], model.graph.output[0]), channels):
        found, wanted = dimensions(value), [batch, count, *sides]
        if found != wanted:
            raise UserError(
                f'--dynamic {dynamic}: the exporter wrote a graph whose {value.name} is '
                f'{_text(found)} instead of {_text(wanted)}; use --dynamic none'
            )


def architecture(detector: nn.Module) -> tuple[str, str]:
    """Class names of backbone (or image encoder) and head."""
    body = getattr(detector, 'backbone', None) or getattr(detector, 'image_encoder', None)
    return type(body).__name__, type(getattr(detector, 'decode_head', None)).__name__


def _name_dimensions(model: Any, program: ExportedProgram) -> None:
    """Call the free dimensions batch, height and width, in the input and in the output."""
    (value,) = model.graph.input
    names = {}
    for dim, name in zip(value.type.tensor_type.shape.dim, ('batch', '', 'height', 'width')):
        if not dim.HasField('dim_value'):
            names[dim.dim_param] = name
    for one in (value, *model.graph.output):
        for dim in one.type.tensor_type.shape.dim:
            if not dim.HasField('dim_value') and dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
    # Names of inner values would contradict the new ones, and nothing needs them.
    del model.graph.value_info[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on packages that it does not need, and on its own internals."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            yield
        finally:
            logger.setLevel(level)


def _refusal(error: Exception, network: PairNetwork, dynamic: Dynamic) -> str:
    part = _failing_part(error, network)
    backbone, head = architecture(network.detector)
    where = f'its part {part}' if part else f'its {backbone} backbone or {head} head'
    text = f'the model cannot be exported, because of {where}: {_cause(error)}'
    if dynamic != 'none':
        text += '. --dynamic none may do'
    return text


def _failing_part(error: BaseException, network: nn.Module) -> str:
    """The innermost module that was running, ``decode_head.fusion (SpatialFusion)``."""
    names = {id(module): name for name, module in network.named_modules() if name}
    found, trace = '', error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_locals.get('self')
        if isinstance(module, nn.Module) and id(module) in names:
            found = f'{names[id(module)].removeprefix("detector.")} ({type(module).__name__})'
        trace = trace.tb_next
    return found


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip(' -') for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith('Constraints violated'):
        del lines[0]  # the next says which dimension became a constant
    return f'{type(error).__name__}: {lines[0][:200]}' if lines else type(error).__name__


def _text(dims: list[int | str]) -> str:
    return ' x '.join(map(str, dims))
