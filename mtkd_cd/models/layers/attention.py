"""Attention without the matrices that nobody reads."""

from typing import Any

from torch import nn


def discard_attention_weights(network: nn.Module) -> None:
    """Make every ``nn.MultiheadAttention`` of ``network`` keep its attention matrix to itself:
    torch can then use its fused kernel."""
    for module in network.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_pre_hook(_without_weights, with_kwargs=True)


def _without_weights(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, 'need_weights': False}
