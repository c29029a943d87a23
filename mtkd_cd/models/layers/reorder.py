"""When linear layers may run in another order than that in which the architecture is drawn."""

import torch
from torch import nn


def may_reorder(part: nn.Module, *layers: nn.Module) -> bool:
    """Whether a part of a network may compute the same in a cheaper order.

    In training and in inference mode it may. Elsewhere, where FLOPs are counted, graphs exported
    and predictions compiled, the layers run as they are drawn. So they do where something watches
    the part or a layer, or changes what it computes.

    Args:
        part: A module.
        layers: Those of its layers that would not be called.
    """
    return (part.training or _is_inference_mode()) and not any(map(_is_watched, (part, *layers)))


def _is_inference_mode() -> bool:
    # torch.compile cannot follow the second question: it would cut its graph there.
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def _is_watched(module: nn.Module) -> bool:
    """Whether a module has hooks, or a method in the place of its ``forward``: activations that are
    computed again."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or 'forward' in vars(module)
    )
