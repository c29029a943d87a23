"""Frozen detectors made ready: what never trains again runs without its batch norms, in the memory
order and precision that are fastest."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from mmcv.cnn.bricks import wrappers
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mtkd_cd.core.precision import FULL, Precision, as_precision
from mtkd_cd.models.graphs import Graphs
from mtkd_cd.models.layers import AnyOrderGELU, AnyOrderInstanceNorm, FusedAttention

_Module = TypeVar('_Module', bound=nn.Module)

# Sides of the images on which a network's batch norms are traced, the next where a network cannot
# take the one before: enough for six and for seven halvings.
_PROBE_SIDES = (64, 128)
# Parameters above which they are traced without numbers. For fewer a pass with numbers takes less
# than torch does to load `torch._dynamo`, which its `cat` without numbers asks for.
_LARGE = 30_000_000
# Layers that compute what their weights say and no more: their subclasses may standardise weights.
_CONVOLUTIONS: tuple[type, ...] = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    wrappers.Conv2d,
    wrappers.ConvTranspose2d,
)
# Layers whose weights are kept in lower precision.
_LOW_PRECISION_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, FusedAttention)
_BATCH_NORMS: tuple[type, ...] = (nn.BatchNorm2d, nn.SyncBatchNorm)
# What code asks of a tensor without reading its numbers.
_QUESTIONS = {
    *(
        getattr(Tensor, name).__get__
        for name in ('shape', 'dtype', 'device', 'ndim', 'is_cuda', 'requires_grad', 'layout')
    ),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point),
}
# The methods through which a detector in mmseg's form is asked for numbers.
PREPARED_METHODS = ('forward', 'predict', 'inference', 'whole_inference')


def prepare(
    detector: _Module,
    *,
    fold: bool = True,
    channels_last: bool = True,
    precision: Precision = FULL,
    compiled: bool = False,
    graphs: bool = False,
) -> _Module:
    """A copy of a detector for prediction alone, in eval mode and without gradients.

    In float32 the copy gives the detector's numbers within 1e-5 of the largest. It shares with the
    detector every tensor that it need not change. The detector, its state dict and its mode stay as
    they are. Prepare a new copy once the detector has other weights or is on another device.

    Args:
        detector: A detector in mmseg's form, of any scope, on the device that it is to run on.
        fold: Fold the batch norms that follow a convolution into it.
        channels_last: Keep the convolutions' weights as (out, height, width, in) in memory, but for
            parts with ``channels_last = False``, and replace instance norms by some that keep the
            maps in that order.
        precision: ``'bfloat16'`` computes convolutions and matrix products in it. Maps come back
            as float32.
        compiled: Compile features and head with ``torch.compile``; the first batch then takes a
            minute or so.
        graphs: On a GPU, replay ``forward(inputs, mode='tensor')`` as a CUDA graph for each shape
            that comes often, see :class:`~mtkd_cd.models.graphs.Graphs`. Hooks of layers are then
            not called.

    Returns:
        The copy, of the same class. Its results are inference tensors: clone one that is to take
        part in a gradient.

    Raises:
        UserError: An unknown precision.
    """
    precision = as_precision(precision)
    prepared = _copy_with(detector, {tensor: tensor for tensor in _tensors(detector)}).eval()
    with torch.no_grad():
        if fold:
            fold_batch_norms(prepared)
        modules = list(prepared.modules())
        if channels_last:
            kept = _parts_that_stay(prepared)
            reordered = [module for module in modules if module not in kept]
            _replace_weights(reordered, _in_channels_last, nn.Conv2d, nn.ConvTranspose2d)
            _replace(prepared, nn.InstanceNorm2d, lambda norm: AnyOrderInstanceNorm(norm.eps))
        if precision == 'bfloat16':
            _replace_weights(modules, Tensor.bfloat16, *_LOW_PRECISION_LAYERS)
            _replace(prepared, nn.GELU, lambda gelu: AnyOrderGELU(gelu.approximate))
    if compiled:
        _compile(prepared)
    device = next(_tensors(prepared)).device
    for name in PREPARED_METHODS:
        if hasattr(prepared, name):
            setattr(prepared, name, _Entrance(getattr(prepared, name), device.type, precision))
    if graphs and device.type == 'cuda':
        prepared.forward = _Replayed(prepared.forward)
    return prepared


class Prepared:
    """A detector and its prepared copy. The copy is made when it is first asked for, and made again
    once the detector has other weights or is on another device. This is no ``nn.Module``, for the
    copy belongs in no state dict.

    Args:
        detector: The detector.
        options: Arguments of :func:`prepare`.
    """

    def __init__(self, detector: nn.Module, **options: Any) -> None:
        self._detector = detector
        self._options = options
        self._made_from: list | None = None
        self._parts: list[Mapping[str, Any]] = []
        self._copy: Any = None

    @property
    def detector(self) -> Any:
        """The prepared copy."""
        if self._made_from is None or self._state() != self._made_from:
            self._copy = prepare(self._detector, **self._options)
            # Looked at for every batch: walking the modules anew would take longer.
            self._parts = [
                part
                for module in self._detector.modules()
                for part in (module._parameters, module._buffers, module._modules)
                if part
            ]
            self._made_from = self._state()
        return self._copy

    def _state(self) -> list:
        """What is another list when a tensor or a module is another one or has other numbers."""
        return [_state(value) for part in self._parts for value in part.values()]

    def __reduce__(self) -> tuple:
        """Copy and pickle without the copy."""
        return _prepared_with, (self._detector, self._options)


def _prepared_with(detector: nn.Module, options: Mapping[str, Any]) -> Prepared:
    return Prepared(detector, **options)


def _state(value: Tensor | nn.Module | None) -> Any:
    """What changes when a tensor gets other numbers, in place or not, or is another one."""
    if not isinstance(value, Tensor):
        return id(value)
    tensor = value
    version = 0 if tensor.is_inference() else tensor._version
    return id(tensor), tensor.data_ptr(), version


def fold_batch_norms(detector: nn.Module) -> int:
    """Fold each batch norm in eval mode into the convolution before it, in place.

    Which convolution that is, and that nothing else reads its output or its weights, is seen from
    one forward pass, which a large network makes without numbers.

    Args:
        detector: A detector in mmseg's form whose weights may be replaced.

    Returns:
        The number of batch norms folded.
    """
    modules = dict(detector.named_modules())
    pairs = _pairs(detector)
    for conv_name, norm_name in pairs:
        _fold(modules[conv_name], modules[norm_name])
    norms = {modules[norm_name] for _, norm_name in pairs}
    for parent in modules.values():
        for name, child in parent.named_children():
            if child in norms:
                setattr(parent, name, nn.Identity())
    return len(pairs)


def _fold(conv: Any, norm: Any) -> None:
    """Let ``conv`` compute what ``norm`` made of its output, rounded once from float64."""
    transposed = isinstance(conv, nn.ConvTranspose2d)
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        shift = shift * norm.weight.double() + norm.bias.double()
        scale = scale * norm.weight.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    weight = conv.weight.double()
    if transposed:  # (in, out / groups, h, w), the groups one after another along both axes
        grouped = weight.unflatten(0, (conv.groups, -1))
        weight = (grouped * scale.view(conv.groups, 1, -1, 1, 1)).flatten(0, 1)
    else:
        weight = weight * scale.view(-1, 1, 1, 1)
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(dtype), requires_grad=False)


def _pairs(detector: nn.Module) -> list[tuple[str, str]]:
    """The names of every convolution and the batch norm that alone reads it."""
    channels = 2 * getattr(detector, 'backbone_inchannels', 3)
    tensors = list(_tensors(detector))
    first = next(detector.parameters())
    is_large = sum(parameter.numel() for parameter in detector.parameters()) > _LARGE
    places = [(first.device, side) for side in _PROBE_SIDES]
    if is_large:
        places.insert(0, (torch.device('meta'), _PROBE_SIDES[-1]))
    for device, side in places:
        placed = {
            t: torch.empty_like(t, device=device) if device.type == 'meta' else t for t in tensors
        }
        network = _copy_with(detector, placed).eval()
        trace = _Trace(network)
        images = torch.zeros((1, channels, side, side), device=device, dtype=first.dtype)
        try:
            with torch.no_grad(), trace:
                network.forward(images, mode='tensor')  # past hooks that watch the detector
        except Exception as error:  # of any layer, of any scope
            problem = error
        else:
            return trace.pairs()
    print_log(
        f'{type(detector).__name__}: batch norms are not folded, as it cannot take images of '
        f'{side} x {side}: {problem}',
        logger='current',
    )
    return []


class _Trace(TorchFunctionMode):
    """Watches which layers read what the convolutions of a network give.

    Args:
        network: The network; gets hooks.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._made_by: dict[int, str] = {}  # by the id of a convolution's output
        self._kept: list[Tensor] = []  # so that no id is used twice
        self._readers: defaultdict[str, set[str | None]] = defaultdict(set)
        self._read: defaultdict[str, set[str | None]] = defaultdict(set)
        self._weights: dict[int, str] = {}
        self._inside: str | None = None
        for name, module in network.named_modules():
            if _is_hooked(module):  # its weights may be made anew in each call
                continue
            if type(module) in _CONVOLUTIONS:
                self._weights |= {id(parameter): name for parameter in module.parameters()}
                module.register_forward_pre_hook(self._enter(name))
                module.register_forward_hook(self._leave_convolution(name))
            elif type(module) in _BATCH_NORMS and module.running_mean is not None:
                module.register_forward_pre_hook(self._enter_norm(name))
                module.register_forward_hook(self._leave)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func not in _QUESTIONS:
            for leaf in tree_leaves((args, kwargs)):
                made_by, owner = self._made_by.get(id(leaf)), self._weights.get(id(leaf))
                if made_by is not None:
                    self._readers[made_by].add(self._inside)
                if owner is not None and self._inside != owner:
                    self._readers[owner].add(None)
        return func(*args, **kwargs or {})

    def pairs(self) -> list[tuple[str, str]]:
        """Convolutions with one reader, a batch norm that reads nothing else."""
        pairs = []
        for conv, readers in self._readers.items():
            (reader,) = readers if len(readers) == 1 else (None,)
            if reader is not None and self._read[reader] == {conv}:
                pairs.append((conv, reader))
        return pairs

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple) -> None:
            self._inside = name

        return hook

    def _enter_norm(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple) -> None:
            self._inside = name
            self._read[name].add(self._made_by.get(id(args[0])))

        return hook

    def _leave(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        self._inside = None

    def _leave_convolution(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            self._inside = None
            self._made_by[id(output)] = name
            self._kept.append(output)

        return hook


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _Entrance:
    """A method of a prepared detector: in inference mode, in the chosen precision."""

    def __init__(self, method: Callable[..., Any], device: str, precision: Precision) -> None:
        self._method = method
        self._device = device
        self._low = precision == 'bfloat16'

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode():
            if not self._low:
                return self._method(*args, **kwargs)
            with torch.autocast(self._device, torch.bfloat16):
                return tree_map_only(Tensor, _as_float32, self._method(*args, **kwargs))


class _Replayed:
    """The ``forward`` of a prepared detector, its change maps from CUDA graphs."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward
        self._change_maps = Graphs(partial(forward, mode='tensor'))

    def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs != dict(mode='tensor'):
            return self._forward(inputs, *args, **kwargs)
        with torch.inference_mode():
            return self._change_maps(inputs)


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _in_channels_last(weight: Tensor) -> Tensor:
    return weight.to(memory_format=torch.channels_last) if weight.dim() == 4 else weight


def _parts_that_stay(network: nn.Module) -> set[nn.Module]:
    """The modules of parts that say ``channels_last = False``: they are slower in that order."""
    parts = [part for part in network.modules() if getattr(part, 'channels_last', True) is False]
    return {module for part in parts for module in part.modules()}


def _replace_weights(
    modules: Iterable[nn.Module], change: Callable[[Tensor], Tensor], *kinds: type[nn.Module]
) -> None:
    for module in modules:
        if isinstance(module, kinds):
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(change(parameter), requires_grad=False))


def _replace(network: nn.Module, kind: type[nn.Module], build: Callable[[Any], nn.Module]) -> None:
    """Put another layer in the place of each of a kind that has neither weights nor hooks."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            has_weights = any(True for _ in _tensors(child))
            if type(child) is kind and not has_weights and not _is_hooked(child):
                setattr(parent, name, build(child))


def _compile(detector: Any) -> None:
    """Compile what is a function of tensors alone: features and change map."""
    detector.extract_feat = torch.compile(detector.extract_feat, dynamic=True)
    detector.decode_head.forward = torch.compile(detector.decode_head.forward, dynamic=True)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _copy_with(module: _Module, tensors: dict[Tensor, Tensor]) -> _Module:
    """A copy of the modules that holds other tensors, or the same ones."""
    return copy.deepcopy(module, {id(old): new for old, new in tensors.items()})
