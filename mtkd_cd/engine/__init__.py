"""Hooks and loops of the training runs."""

from mtkd_cd.engine.hooks import (
    BestWeightsHook,
    ChannelsLastHook,
    StartingWeightsHook,
    StopwatchHook,
    ValidationCurveHook,
    read_curve,
)
from mtkd_cd.engine.optim import BFloat16OptimWrapper, TrainableOptimWrapperConstructor
from mtkd_cd.engine.replay import NumberedSampler, ReplayableIterLoop, SeededDataset

__all__ = [
    'BFloat16OptimWrapper',
    'BestWeightsHook',
    'ChannelsLastHook',
    'NumberedSampler',
    'ReplayableIterLoop',
    'SeededDataset',
    'StartingWeightsHook',
    'StopwatchHook',
    'TrainableOptimWrapperConstructor',
    'ValidationCurveHook',
    'read_curve',
]
