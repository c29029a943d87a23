"""``torch.compile`` for what of a detector is a function of tensors alone."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mtkd_cd.registry import HOOKS


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles the features and the decode head of the detector in training.

    Losses, and of a distiller the choice of the teachers, stay Python. Names in the state dict stay
    as they are, and so do results up to rounding. ``--compile`` adds this hook.

    Args:
        **options: Of ``torch.compile``.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def before_train(self, runner: Runner) -> None:
        """After the weights have been loaded."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.extract_feat = torch.compile(model.extract_feat, **self.options)
        model.decode_head.forward = torch.compile(model.decode_head.forward, **self.options)
        runner.logger.info('Features and decode head are compiled: the first steps take minutes')

    def after_train(self, runner: Runner) -> None:
        """The methods of the class again."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.__dict__.pop('extract_feat', None)
        model.decode_head.__dict__.pop('forward', None)
