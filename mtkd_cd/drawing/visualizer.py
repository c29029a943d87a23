"""mmengine's visualiser, which every run has and few draw with."""

from typing import Any

import numpy as np
from mmengine.visualization import Visualizer

from mtkd_cd.registry import VISUALIZERS

_MADE_FOR_DRAWING = ('fig_save_canvas', 'fig_save', 'ax_save', 'dpi')


@VISUALIZERS.register_module(name='Visualizer')
class LateVisualizer(Visualizer):
    """mmengine's visualiser, except that its matplotlib figure is made when something is drawn.

    A run that writes scores alone imports no matplotlib: a second of CPU time.

    Args:
        name: Of the run; given by the runner.
        image: (H, W, 3) RGB to draw on.
        **kwargs: As in mmengine.
    """

    def __init__(
        self, name: str = 'visualizer', image: np.ndarray | None = None, **kwargs: Any
    ) -> None:
        super().__init__(name, **kwargs)
        for attribute in _MADE_FOR_DRAWING:
            delattr(self, attribute)
        if image is not None:
            self.set_image(image)

    def _initialize_fig(self, fig_cfg: dict) -> tuple[Any, ...]:
        nothing = _NoFigure()
        return nothing, nothing, nothing

    def __getattr__(self, name: str) -> Any:
        if name not in _MADE_FOR_DRAWING:
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')
        parts = super()._initialize_fig(self.fig_save_cfg)
        self.fig_save_canvas, self.fig_save, self.ax_save = parts
        self.dpi = self.fig_save.get_dpi()
        return getattr(self, name)


class _NoFigure:
    """What mmengine's visualiser asks of its figure when it is made."""

    def get_dpi(self) -> None:
        """No resolution yet."""
