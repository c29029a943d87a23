"""Two layers as one step of training, which keeps one map less for the gradient."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mtkd_cd.models.layers.reorder import may_reorder


class LeanSequential(nn.Sequential):
    """A sequence that keeps less for the gradient where a batch norm is followed by a SiLU, or a
    PReLU by an instance norm. The map between the two is not kept but made again for the gradient,
    in one pass. A PReLU alone gets a faster backward pass.

    Parameters, names of the layers and results are those of ``nn.Sequential``, gradients within
    rounding. In evaluation, without gradients, and where a layer is of another class or has hooks,
    it is one.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        return self.go_on(x, 0)

    def go_on(self, x: Tensor, start: int) -> Tensor:
        """Give the result of the layers from ``start`` on, in training."""
        layers = list(self)[start:]
        while layers:
            count, step = self._next_step(*layers[:2])
            x = step(x)
            del layers[:count]
        return x

    def _next_step(
        self, first: nn.Module, second: nn.Module | None = None
    ) -> tuple[int, Callable[[Tensor], Tensor]]:
        """How many layers come next, and what computes them."""
        if second is not None and may_reorder(self, first, second):
            if _is_usual(first) and type(second) is nn.SiLU:
                return 2, partial(_batch_norm_silu, first)
            if _has_one_slope(first) and _is_plain_instance_norm(second):
                return 2, lambda x: _PReLUInstanceNorm.apply(x, first.weight, second.eps)
        if _has_one_slope(first) and may_reorder(self, first):
            return 1, lambda x: _PReLU.apply(x, first.weight)
        return 1, first


def _has_one_slope(layer: nn.Module) -> bool:
    return type(layer) is nn.PReLU and layer.num_parameters == 1


def _is_plain_instance_norm(norm: nn.Module) -> bool:
    return type(norm) is nn.InstanceNorm2d and norm.weight is None and norm.running_mean is None


def _is_usual(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether it is a batch norm that is trained, with weights, running statistics and a
    momentum."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.running_mean is not None
        and norm.momentum is not None
    )


def _batch_norm_silu(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return _BatchNormSiLU.apply(x, *_of_trained(norm))


def _of_trained(norm: nn.BatchNorm2d) -> tuple:
    """What torch's function takes of a batch norm; the batch is counted."""
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps


def _normed_again(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse_std: Tensor
) -> Tensor:
    """What a batch norm gave, from its input and the statistics that it used."""
    scale = weight * inverse_std
    shift = bias - mean * scale
    return torch.addcmul(shift.view(-1, 1, 1), x, scale.view(-1, 1, 1)).to(x.dtype)


class _BatchNormSiLU(torch.autograd.Function):
    """Keeps the input of the batch norm and its statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        normed, mean, inverse_std = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, True, momentum, eps
        )
        ctx.save_for_backward(x, weight, bias, mean, inverse_std)
        ctx.eps = eps
        return F.silu(normed, inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse_std = ctx.saved_tensors
        normed = _normed_again(x, weight, bias, mean, inverse_std)
        gradient = torch.ops.aten.silu_backward(gradient, normed)
        del normed
        gradients = torch.ops.aten.native_batch_norm_backward(
            *(gradient, x, weight, None, None, mean, inverse_std, True, ctx.eps),
            list(ctx.needs_input_grad[:3]),
        )
        wanted = zip(gradients, ctx.needs_input_grad)
        return *(one if is_wanted else None for one, is_wanted in wanted), *[None] * 4


class _PReLU(torch.autograd.Function):
    """A PReLU with one slope for all channels; torch's own backward pass takes half as long
    again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.prelu(x, slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, slope = ctx.saved_tensors
        return _prelu_backward(gradient, x, slope, ctx.needs_input_grad)


def _prelu_backward(
    gradient: Tensor, x: Tensor, slope: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of ``x`` and of the one slope, where they are wanted."""
    of_x = of_slope = None
    if wanted[1]:
        negative = x.clamp(max=0).to(gradient.dtype).mul_(gradient)
        of_slope = negative.sum(dtype=slope.dtype).view(slope.shape)
        del negative
    if wanted[0]:
        factor = torch.where(x > 0, 1.0, slope.to(gradient.dtype))
        of_x = factor.mul_(gradient).to(x.dtype)
    return of_x, of_slope


class _PReLUInstanceNorm(torch.autograd.Function):
    """Keeps the input of the PReLU, which has one slope for all channels, and the statistics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor, eps: float) -> Tensor:
        active = F.prelu(x, slope)
        normed, mean, inverse_std = torch.native_batch_norm(
            _each_apart(active), None, None, None, None, True, 0.0, eps
        )
        ctx.save_for_backward(x, slope, mean, inverse_std)
        ctx.eps, ctx.dtype = eps, active.dtype
        return normed.view(active.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, slope, mean, inverse_std = ctx.saved_tensors
        # As autocast did, which is over.
        active = F.prelu(x.to(ctx.dtype), slope.to(ctx.dtype))
        gradient, _, _ = torch.ops.aten.native_batch_norm_backward(
            *(_each_apart(gradient), _each_apart(active), None, None, None),
            *(mean, inverse_std, True, ctx.eps, [True, False, False]),
        )
        del active
        return *_prelu_backward(gradient.view(x.shape), x, slope, ctx.needs_input_grad), None


def is_plain_conv(layer: nn.Module) -> bool:
    """Whether this is torch's own convolution, whose class nothing has changed, padded by numbers
    of zeros."""
    return (
        type(layer) in (nn.Conv2d, nn.ConvTranspose2d)
        and layer.padding_mode == 'zeros'
        and not isinstance(layer.padding, str)
    )


def norm_relu_conv(
    part: nn.Module,
    x: Tensor,
    norm: nn.Module,
    dropout: nn.Module,
    conv: nn.Module,
) -> Tensor:
    """Normalise, drop channels, activate, convolve: ``conv(relu(dropout(norm(x))))``.

    In training the map that the convolution takes is not kept but made again for the gradient, in
    one pass. Where a layer is of another class or has hooks, they run one by one.

    Args:
        part: The module whose layers they are.
        x: (N, C, h, w).
        norm: Usually a batch norm.
        dropout: Usually an ``nn.Dropout2d``.
        conv: Usually a convolution, padded with zeros or transposed.

    Returns:
        (N, D, h', w'), what ``conv`` gives.
    """
    if not (
        _is_usual(norm)
        and type(dropout) is nn.Dropout2d
        and dropout.training
        and 0 <= dropout.p < 1
        and is_plain_conv(conv)
        and torch.is_grad_enabled()
        and may_reorder(part, norm, dropout, conv)
    ):
        # Channels are dropped before the ReLU, with the same result: autograd then keeps one map
        # of the two.
        return conv(F.relu(dropout(norm(x)), inplace=True))
    assert isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d))
    kept = None
    if dropout.p:  # drawn as torch draws it
        share = 1 - dropout.p
        kept = x.new_empty(*x.shape[:2], 1, 1).bernoulli_(share).div_(share)
    transposed = isinstance(conv, nn.ConvTranspose2d)
    places = (conv.stride, conv.padding, conv.dilation)
    settings = (*places, transposed, conv.output_padding, conv.groups)
    return _NormReLUConv.apply(x, kept, *_of_trained(norm), conv.weight, conv.bias, settings)


class _NormReLUConv(torch.autograd.Function):
    """Keeps the input of the batch norm, its statistics, and which channels are dropped."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kept: Tensor | None,
        norm_weight: Tensor,
        norm_bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
        weight: Tensor,
        bias: Tensor | None,
        settings: tuple,
    ) -> Tensor:
        active, mean, inverse_std = torch.native_batch_norm(
            x, norm_weight, norm_bias, running_mean, running_var, True, momentum, eps
        )
        if kept is not None:
            active.mul_(kept)
        active.relu_()
        ctx.save_for_backward(x, kept, norm_weight, norm_bias, mean, inverse_std, weight)
        ctx.settings, ctx.eps = settings, eps
        ctx.bias_shape = None if bias is None else bias.shape
        stride, padding, dilation, transposed, output_padding, groups = settings
        if transposed:
            return F.conv_transpose2d(
                active, weight, bias, stride, padding, output_padding, groups, dilation
            )
        return F.conv2d(active, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, kept, norm_weight, norm_bias, mean, inverse_std, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        of_norm = [wanted[0], wanted[2], wanted[3]]
        active = _normed_again(x, norm_weight, norm_bias, mean, inverse_std)
        if kept is not None:
            active.mul_(kept)
        active.relu_()
        # In the precision of the pass forwards, where autocast is over.
        gradient, for_weight, for_bias = torch.ops.aten.convolution_backward(
            *(gradient, active.to(gradient.dtype), weight.to(gradient.dtype), ctx.bias_shape),
            *(*ctx.settings, [any(of_norm), wanted[8], wanted[9]]),
        )
        found: list[Tensor | None] = [None] * 3
        if any(of_norm):
            gradient = torch.ops.aten.threshold_backward(gradient.to(x.dtype), active, 0)
            del active
            if kept is not None:
                gradient.mul_(kept)
            found = torch.ops.aten.native_batch_norm_backward(
                *(gradient, x, norm_weight, None, None, mean, inverse_std, True, ctx.eps), of_norm
            )
        for_x, for_norm_weight, for_norm_bias = (
            one if is_wanted else None for one, is_wanted in zip(found, of_norm)
        )
        return (
            *(for_x, None, for_norm_weight, for_norm_bias, None, None, None, None),
            for_weight.to(weight.dtype) if wanted[8] else None,
            for_bias.to(weight.dtype) if wanted[9] else None,
            None,
        )


def gated_conv(x: Tensor, gate: Tensor, conv: nn.Conv2d) -> Tensor:
    """Give ``conv(x * gate)``. The product is not kept but made again for the gradient.

    Args:
        x: (N, C, h, w).
        gate: The same, or 1 along any of the sides.
        conv: A plain one, see :func:`is_plain_conv`.

    Returns:
        The convolution's (N, D, h', w').
    """
    settings = (conv.stride, conv.padding, conv.dilation, conv.groups)
    return _GatedConv.apply(x, gate, conv.weight, conv.bias, settings)


class _GatedConv(torch.autograd.Function):
    """Keeps what came, without the product."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor | None, settings: tuple
    ) -> Tensor:
        ctx.save_for_backward(x, gate, weight)
        ctx.settings = settings
        ctx.bias_shape = None if bias is None else bias.shape
        return F.conv2d(x * gate, weight, bias, *settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, weight = ctx.saved_tensors
        of_x, of_gate, of_weight, of_bias = ctx.needs_input_grad[:4]
        stride, padding, dilation, groups = ctx.settings
        # In the precision of the pass forwards, where autocast is over.
        product, cast_weight = (x * gate).to(gradient.dtype), weight.to(gradient.dtype)
        of_product, for_weight, for_bias = torch.ops.aten.convolution_backward(
            *(gradient, product, cast_weight, ctx.bias_shape, stride, padding, dilation),
            *(False, [0, 0], groups, [of_x or of_gate, of_weight, of_bias]),
        )
        del product
        for_gate = None
        if of_gate:
            for_gate = (of_product * x).sum_to_size(gate.shape).to(gate.dtype)
        return (
            (of_product * gate).to(x.dtype) if of_x else None,
            for_gate,
            for_weight.to(weight.dtype) if of_weight else None,
            for_bias.to(weight.dtype) if of_bias else None,
            None,
        )


def _each_apart(x: Tensor) -> Tensor:
    """(N, C, h, w) to (1, N C, h, w): a batch norm then takes each channel of each image."""
    return x.reshape(1, -1, *x.shape[2:])
