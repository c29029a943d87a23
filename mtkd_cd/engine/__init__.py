"""Hooks and loops of the training runs."""

from mtkd_cd.engine.hooks import BestWeightsHook, StartingWeightsHook, StopwatchHook
from mtkd_cd.engine.optim import TrainableOptimWrapperConstructor
from mtkd_cd.engine.replay import NumberedSampler, ReplayableIterLoop, SeededDataset

__all__ = [
    'BestWeightsHook',
    'NumberedSampler',
    'ReplayableIterLoop',
    'SeededDataset',
    'StartingWeightsHook',
    'StopwatchHook',
    'TrainableOptimWrapperConstructor',
]
