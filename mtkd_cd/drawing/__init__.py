"""Error maps, panels and sheets of them, and the hooks that draw while a model is tested or
trained."""

from mtkd_cd.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        'error_map': ('OUTCOME_COLOURS', 'error_map', 'mask_image', 'outline_map'),
        'hook': ('ChangeBoardHook', 'ChangeVisualizationHook'),
        'panel': ('Row', 'Sheet', 'compose_panel', 'png_bytes'),
        'tracking': ('TrackingVisualizer', 'WandbIterVisBackend'),
    },
)
