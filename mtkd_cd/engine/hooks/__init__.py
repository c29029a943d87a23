"""Hooks of the training runs."""

from mtkd_cd.engine.hooks.best_weights import BestWeightsHook
from mtkd_cd.engine.hooks.channels_last import ChannelsLastHook
from mtkd_cd.engine.hooks.starting_weights import StartingWeightsHook
from mtkd_cd.engine.hooks.stopwatch import StopwatchHook
from mtkd_cd.engine.hooks.validation_curve import ValidationCurveHook, read_curve

__all__ = [
    'BestWeightsHook',
    'ChannelsLastHook',
    'StartingWeightsHook',
    'StopwatchHook',
    'ValidationCurveHook',
    'read_curve',
]
