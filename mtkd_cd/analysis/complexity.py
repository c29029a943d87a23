"""Parameters and operations of a detector, counted as in the paper's table 6 (arXiv:2502.13407)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from mmengine.analysis import parameter_count
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from mtkd_cd.core.errors import UserError
from mtkd_cd.paper.published import published_models
from mtkd_cd.registry import MODELS

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Complexity:
    """Size and cost of a detector.

    Attributes:
        parameters: Parameters in millions, without auxiliary heads.
        flops: Multiply-adds of one pair in units of 10^9, without auxiliary heads.
    """

    parameters: float
    flops: float


def published_complexity(name: str) -> Complexity | None:
    """What the paper gives for a model, at 512 x 512; ``None`` for other models."""
    facts = published_models().get(name)
    return Complexity(facts['params_m'], facts['flops_g']) if facts else None


def count_complexity(model: Mapping[str, Any], shape: tuple[int, int] = (512, 512)) -> Complexity:
    """Count the parameters and the operations of a detector at test time.

    ``torch.export`` writes down the operations from shapes alone, so no weights are needed. What
    the output does not depend on is not counted, as in the paper.

    Args:
        model: Config of the detector. Of a distiller the student is counted, of a cascade the
            origin.
        shape: Height and width of the images, in pixels.

    Raises:
        UserError: The network cannot take images of this size; torch is older than 2.6.
    """
    if tuple(map(int, torch.__version__.split('.')[:2])) < (2, 6):
        raise UserError(
            f'torch {torch.__version__} exports other operations than are counted here: '
            "pip install 'torch>=2.6'"
        )
    detector = (
        build_without_weights(model.get('student') or model.get('origin') or model)
        .eval()
        .requires_grad_(False)
    )
    detector.register_module('auxiliary_head', None)
    pair = torch.empty(1, 6, *shape, device='meta')
    program = torch.export.export(detector, (pair,), strict=False)
    flops = sum(
        _flops_of_graph(module.graph)
        for module in program.graph_module.modules()
        if isinstance(module, fx.GraphModule)
    )
    return Complexity(parameter_count(detector)[''] / 1e6, flops / 1e9)


def build_without_weights(model: Mapping[str, Any]) -> nn.Module:
    """Build a model on torch's ``meta`` device: shapes without numbers, no pretrained weights, no
    checkpoints."""
    with (
        DefaultScope.overwrite_default_scope('mtkd_cd'),
        torch.device('meta'),
        _NumbersThatModelsReadBack(),
    ):
        return MODELS.build(_without_files(model)).to('meta')


def _without_files(node: Any) -> Any:
    if isinstance(node, Mapping):
        files = ('init_cfg', 'pretrained', 'checkpoints')
        kept = {key: None if key in files else _without_files(value) for key, value in node.items()}
        return ConfigDict(kept)
    if isinstance(node, list | tuple):
        return type(node)(_without_files(value) for value in node)
    return node


class _NumbersThatModelsReadBack(TorchFunctionMode):
    """Keeps on the CPU what a constructor reads the values of: drop-path rates, a preprocessor's
    mean."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.linspace, torch.tensor):
            kwargs.setdefault('device', 'cpu')
        return func(*args, **kwargs)


def _flops_of_graph(graph: fx.Graph) -> float:
    graph.eliminate_dead_code()
    flops = 0.0
    for node in graph.nodes:
        name = str(node.target).removeprefix('aten.').partition('.')[0]
        if node.op == 'call_function' and name in _FLOPS:
            flops += _FLOPS[name](fx.map_arg(node.args, _shape_of), _shape_of(node))
    return flops


def _shape_of(node: fx.Node) -> Shape:
    return tuple(node.meta['val'].shape)


def _convolution(args: Any, out: Shape) -> float:
    return prod(out) * prod(args[1][1:])


def _transposed_convolution(args: Any, out: Shape) -> float:
    return prod(args[0]) * prod(args[1][1:])


def _product(args: Any, out: Shape) -> float:
    return prod(out) * args[0][-1]


def _einsum(args: Any, out: Shape) -> float:
    """Numpy's estimate, halved. It is read from a text of four digits, as mmengine does."""
    equation, shapes = args[0], args[1]
    arrays = [np.broadcast_to(np.float32(0), shape) for shape in shapes]
    text = str(np.einsum_path(equation.replace(' ', ''), *arrays, optimize='optimal')[1])
    estimate = next(line for line in text.splitlines() if 'optimized flop' in line.lower())
    return float(estimate.rpartition(':')[2]) // 2


def _attention(args: Any, out: Shape) -> float:
    """Both products of q (..., L, E), k (..., S, E) and v (..., S, F)."""
    query, key, value = args[:3]
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _batch_norm(args: Any, out: Shape) -> float:
    has_weight, training = args[1] is not None, args[5]
    return prod(out) * ((4 if training else 1) + has_weight)


def _norm(place_of_weight: int) -> Callable[[Any, Shape], float]:
    def flops(args: Any, out: Shape) -> float:
        has_weight = len(args) > place_of_weight and args[place_of_weight] is not None
        return prod(out) * (4 + has_weight)

    return flops


# What an operation costs, from its arguments (tensors as their shapes) and the shape of its result:
# multiply-adds of products, and the estimates of mmengine.analysis for the rest.
_FLOPS: dict[str, Callable[[Any, Shape], float]] = {
    'conv1d': _convolution,
    'conv2d': _convolution,
    'conv3d': _convolution,
    'conv_transpose2d': _transposed_convolution,
    'linear': _product,
    'matmul': _product,
    'mm': _product,
    'bmm': _product,
    'addmm': lambda args, out: _product(args[1:], out),
    'einsum': _einsum,
    'scaled_dot_product_attention': _attention,
    'batch_norm': _batch_norm,
    'layer_norm': _norm(place_of_weight=2),
    'group_norm': _norm(place_of_weight=2),
    'instance_norm': _norm(place_of_weight=1),
    'upsample_nearest2d': lambda args, out: prod(out),
    'upsample_bilinear2d': lambda args, out: 4 * prod(out),
    'grid_sampler': lambda args, out: 4 * prod(out),
    'adaptive_avg_pool2d': lambda args, out: prod(args[0]),
}
