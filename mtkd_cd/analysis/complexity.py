"""Parameters and operations of a detector, counted as in the paper's table 6 (arXiv:2502.13407)."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer, parameter_count
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import nn
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode

from mtkd_cd.paper.published import published_models
from mtkd_cd.registry import MODELS

_CONVOLUTION, _TRACED_CONVOLUTION = (
    torch.ops.aten.convolution.default,
    torch.ops.aten._convolution.default,
)
_internals: Any = torch._C


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
    """Count what a detector is and does at test time, from shapes alone: it takes the memory of a
    model without weights.

    Args:
        model: Config of the detector. Of a distiller the student is counted, of a cascade the
            origin.
        shape: Height and width of the images.

    Raises:
        UserError: The network cannot take images of this size.
    """
    detector = (
        build_without_weights(model.get('student') or model.get('origin') or model)
        .eval()
        .requires_grad_(False)
    )
    detector.register_module('auxiliary_head', None)
    analyzer = FlopAnalyzer(detector, torch.empty(1, 6, *shape, device='meta'))
    analyzer.set_op_handle('aten::scaled_dot_product_attention', _attention_flops)
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    logging.getLogger('torch.jit').setLevel(logging.ERROR)
    with _ShapesAlone():
        flops = analyzer.total()
    return Complexity(parameter_count(detector)[''] / 1e6, flops / 1e9)


def build_without_weights(model: Mapping[str, Any]) -> nn.Module:
    """Build a model on torch's ``meta`` device: shapes without numbers, no pretrained weights, no
    checkpoints."""
    with DefaultScope.overwrite_default_scope('mtkd_cd'), _MetaDevice():
        return MODELS.build(_without_files(model)).to('meta')


def _without_files(node: Any) -> Any:
    if isinstance(node, Mapping):
        files = ('init_cfg', 'pretrained', 'checkpoints')
        kept = {key: None if key in files else _without_files(value) for key, value in node.items()}
        return ConfigDict(kept)
    if isinstance(node, list | tuple):
        return type(node)(_without_files(value) for value in node)
    return node


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """The two products that fused attention of q (..., L, E), k (..., S, E) and v (..., S, F)
    consists of."""
    query, key, value = (tensor.type().sizes() for tensor in inputs[:3])
    pairs = torch.Size(query[:-1]).numel() * key[-2]
    return pairs * (query[-1] + value[-1])


class _MetaDevice(DeviceContext):
    """New tensors are on the meta device, except for those that models read back: drop-path rates,
    a preprocessor's mean."""

    def __init__(self) -> None:
        super().__init__('meta')

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.linspace, torch.tensor):
            return func(*args, **kwargs or {})
        return super().__torch_function__(func, types, args, kwargs)


class _ShapesAlone(TorchDispatchMode):
    """Lets torch's tracer, which mmengine counts with, work on the meta device.

    There, operations are Python functions in which the tracer must not see each size as a tensor.
    Convolutions need more: the tracer records ``_convolution``, an inner step that the meta device
        skips.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        trace = _internals._get_tracing_state()
        excluded = _internals._dispatch_tls_is_dispatch_key_excluded('Tracer')
        _internals._dispatch_tls_set_dispatch_key_excluded('Tracer', False)
        try:
            if trace is not None and func is _CONVOLUTION:
                with self:
                    return _TRACED_CONVOLUTION(
                        *args, False, False, True, True
                    )  # how cuDNN is to do it, which is of no account here
            _internals._set_tracing_state(None)
            if func is _TRACED_CONVOLUTION:
                return _CONVOLUTION(*args[:9])
            return func(*args, **kwargs or {})
        finally:
            _internals._set_tracing_state(trace)
            _internals._dispatch_tls_set_dispatch_key_excluded('Tracer', excluded)
