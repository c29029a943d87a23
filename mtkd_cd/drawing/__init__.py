"""Error maps, panels and sheets of them, and the hooks that draw while a model is tested or
trained."""

from mtkd_cd.drawing.error_map import OUTCOME_COLOURS, error_map, mask_image, outline_map
from mtkd_cd.drawing.hook import ChangeBoardHook, ChangeVisualizationHook
from mtkd_cd.drawing.panel import Row, Sheet, compose_panel, png_bytes
from mtkd_cd.drawing.tracking import TrackingVisualizer, WandbIterVisBackend

__all__ = [
    'OUTCOME_COLOURS',
    'ChangeBoardHook',
    'ChangeVisualizationHook',
    'Row',
    'Sheet',
    'TrackingVisualizer',
    'WandbIterVisBackend',
    'compose_panel',
    'error_map',
    'mask_image',
    'outline_map',
    'png_bytes',
]
