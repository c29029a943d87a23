"""Hooks and loops of the training runs."""

from mtkd_cd.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        'hooks': (
            'BestWeightsHook',
            'ChannelsLastHook',
            'DivergenceHook',
            'ExactResumeHook',
            'SharedBuffersHook',
            'StartingWeightsHook',
            'OptimizerByNameHook',
            'StopwatchHook',
            'TerminationHook',
            'ValidationCurveHook',
            'read_curve',
        ),
        'optim': ('BFloat16OptimWrapper', 'TrainableOptimWrapperConstructor'),
        'replay': ('NumberedSampler', 'ReplayableIterLoop', 'SeededDataset'),
    },
)
