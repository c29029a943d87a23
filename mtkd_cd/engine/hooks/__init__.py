"""Hooks of the training runs."""

from mtkd_cd.engine.hooks.best_weights import BestWeightsHook
from mtkd_cd.engine.hooks.channels_last import ChannelsLastHook
from mtkd_cd.engine.hooks.checkpointing import ActivationCheckpointingHook
from mtkd_cd.engine.hooks.compile import CompileHook
from mtkd_cd.engine.hooks.divergence import DivergenceHook
from mtkd_cd.engine.hooks.exact_resume import ExactResumeHook
from mtkd_cd.engine.hooks.optimizer_by_name import OptimizerByNameHook
from mtkd_cd.engine.hooks.shared_buffers import SharedBuffersHook
from mtkd_cd.engine.hooks.starting_weights import StartingWeightsHook
from mtkd_cd.engine.hooks.stopwatch import StopwatchHook
from mtkd_cd.engine.hooks.termination import TerminationHook
from mtkd_cd.engine.hooks.validation_curve import ValidationCurveHook, read_curve

__all__ = [
    'ActivationCheckpointingHook',
    'BestWeightsHook',
    'ChannelsLastHook',
    'CompileHook',
    'DivergenceHook',
    'ExactResumeHook',
    'OptimizerByNameHook',
    'SharedBuffersHook',
    'StartingWeightsHook',
    'StopwatchHook',
    'TerminationHook',
    'ValidationCurveHook',
    'read_curve',
]
