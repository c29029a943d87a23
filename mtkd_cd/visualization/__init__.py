"""Error maps, panels and sheets of them, and the hooks that draw while a model is tested or trained."""

from mtkd_cd.visualization.error_map import OUTCOME_COLOURS, error_map, mask_image, outline_map
from mtkd_cd.visualization.hook import ChangeVisualizationHook
from mtkd_cd.visualization.panel import Row, Sheet, compose_panel, png_bytes

__all__ = [
    'OUTCOME_COLOURS',
    'ChangeVisualizationHook',
    'Row',
    'Sheet',
    'compose_panel',
    'error_map',
    'mask_image',
    'outline_map',
    'png_bytes',
]
