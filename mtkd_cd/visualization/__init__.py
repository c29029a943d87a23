"""Error maps and panels, and the hook that writes them."""

from mtkd_cd.visualization.error_map import OUTCOME_COLOURS, error_map, mask_image
from mtkd_cd.visualization.hook import ChangeVisualizationHook
from mtkd_cd.visualization.panel import compose_panel, png_bytes

__all__ = ['OUTCOME_COLOURS', 'ChangeVisualizationHook', 'compose_panel', 'error_map', 'mask_image', 'png_bytes']
