"""Activation checkpointing: less memory for more time."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import HOOKS

# What repeated transformer layers are called.
_LAYERS = ('EncoderLayer', 'TransformerLayer')


@HOOKS.register_module()
class ActivationCheckpointingHook(Hook):
    """Keeps the input of each transformer layer alone, and computes the layer again in the backward
    pass (arXiv:1604.06174).

    Gradients stay what they are, dropout too. A layer with batch norm is left out: its running
    statistics would move twice. ``--checkpoint-activations`` adds this hook.

    Raises:
        UserError: The model has no transformer layers; raised when training starts.
    """

    def __init__(self) -> None:
        self._layers: list[nn.Module] = []

    def before_train(self, runner: Runner) -> None:
        """After the weights have been loaded."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._layers = checkpointed_layers(model)
        if not self._layers:
            raise UserError(
                f'--checkpoint-activations: {type(model).__name__} has no transformer layers to '
                'compute again; leave it out'
            )
        for layer in self._layers:
            layer.forward = _again_in_backward(layer, layer.forward)
        runner.logger.info(f'{len(self._layers)} layers are computed again in the backward pass')

    def after_train(self, runner: Runner) -> None:
        """The methods of the classes again."""
        for layer in self._layers:
            layer.__dict__.pop('forward', None)


def checkpointed_layers(model: nn.Module) -> list[nn.Module]:
    """The transformer layers of a model that have no batch norm."""
    return [
        module
        for module in model.modules()
        if type(module).__name__.endswith(_LAYERS)
        and not any(isinstance(part, _BatchNorm) for part in module.modules())
    ]


def _again_in_backward(layer: nn.Module, forward: Callable) -> Callable:
    @wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not (layer.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return wrapped
