"""Error maps, panels and sheets of them, and the hooks that draw while a model is tested or
trained."""

from mtkd_cd.core.lazy import lazy_names

# Not lazily: one of the names is that of its module.
from mtkd_cd.drawing.error_map import (  # noqa: F401
    OUTCOME_COLOURS,
    error_map,
    mask_image,
    outline_map,
)

_EAGER = ['OUTCOME_COLOURS', 'error_map', 'mask_image', 'outline_map']
__getattr__, __dir__, _LAZY = lazy_names(
    __name__,
    {
        'hook': ('ChangeBoardHook', 'ChangeVisualizationHook'),
        'panel': ('Row', 'Sheet', 'compose_panel', 'png_bytes'),
        'tracking': ('TrackingVisualizer', 'WandbIterVisBackend'),
    },
)
__all__ = [*_EAGER, *_LAZY]
