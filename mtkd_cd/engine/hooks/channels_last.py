"""Convolutions in the memory order that is fast with low precision."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtkd_cd.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keeps 4-d weights as (out, height, width, in) in memory during training; a distiller's
    teachers too.

    Convolutions then give activations in the same order, whatever order the images come in. Shapes,
    names and values stay as they are, and so do results up to rounding. ``--amp`` adds this hook.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Before a resumed run validates."""
        runner.model.to(memory_format=torch.channels_last)

    def before_train(self, runner: Runner) -> None:
        """After the weights have been initialised and teachers loaded."""
        runner.model.to(memory_format=torch.channels_last)
