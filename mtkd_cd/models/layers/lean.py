"""Normalisation and activation as one step of training, which keeps one map in place of two."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

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
        layers = list(self)
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
            if type(first) is nn.BatchNorm2d and type(second) is nn.SiLU and _is_usual(first):
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


def _is_usual(norm: nn.BatchNorm2d) -> bool:
    """Whether it is trained, with weights, running statistics and a momentum."""
    return (
        norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.running_mean is not None
        and norm.momentum is not None
    )


def _batch_norm_silu(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return _BatchNormSiLU.apply(
        x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps
    )


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
        scale = weight * inverse_std
        shift = bias - mean * scale
        normed = torch.addcmul(shift.view(-1, 1, 1), x, scale.view(-1, 1, 1)).to(x.dtype)
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
        of_slope = (gradient * x.clamp(max=0)).sum(dtype=slope.dtype).view(slope.shape)
    if wanted[0]:
        of_x = torch.where(x > 0, gradient, gradient * slope.to(gradient.dtype)).to(x.dtype)
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


def _each_apart(x: Tensor) -> Tensor:
    """(N, C, h, w) to (1, N C, h, w): a batch norm then takes each channel of each image."""
    return x.reshape(1, -1, *x.shape[2:])
