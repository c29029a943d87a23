"""The visualiser, backend and hook that Open-CD's configs name, over those of this package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from mmengine.visualization import LocalVisBackend
from mmengine.visualization.vis_backend import force_init_env

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.drawing.error_map import mask_image
from mtkd_cd.drawing.hook import ChangeVisualizationHook
from mtkd_cd.drawing.panel import png_bytes
from mtkd_cd.drawing.visualizer import LateVisualizer
from mtkd_cd.registry import HOOKS, VISBACKENDS, VISUALIZERS


@VISBACKENDS.register_module()
class CDLocalVisBackend(LocalVisBackend):
    """mmengine's local backend, which writes ``vis_data/vis_image/<name>.png``.

    A name keeps its folders, and a file is complete or not there.
    """

    @force_init_env
    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Write an (H, W) or (H, W, 3) RGB uint8 picture."""
        with atomic_write(Path(self._img_save_dir, f'{name}.png'), 'wb') as file:
            file.write(png_bytes(image))


@VISUALIZERS.register_module()
class CDLocalVisualizer(LateVisualizer):
    """mmengine's visualiser under the name and with the arguments of Open-CD's.

    Args:
        name: Of the run; given by the runner.
        image: As in mmengine.
        vis_backends: As in mmengine.
        save_dir: As in mmengine.
        classes: Taken and not used: a binary map needs no names.
        palette: Taken and not used.
        dataset_name: Taken and not used.
        alpha: Share of the mask in ``add_datasample``, the rest is the image.
        **kwargs: As in mmengine.
    """

    def __init__(
        self,
        name: str = 'visualizer',
        image: np.ndarray | None = None,
        vis_backends: Sequence[dict] | None = None,
        save_dir: str | None = None,
        classes: Sequence[str] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        dataset_name: str | None = None,
        alpha: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, image, vis_backends=vis_backends, save_dir=save_dir, **kwargs)
        self.alpha = alpha

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        image_from_to: Sequence[np.ndarray] = (),
        data_sample: BaseDataElement | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
        **kwargs: Any,
    ) -> None:
        """Write label and prediction, those that are there, side by side over an image.

        Args:
            name: Of the picture.
            image: (H, W, 3) RGB uint8.
            image_from_to: Taken and not used: there are no semantic maps.
            data_sample: With ``gt_sem_seg``, ``pred_sem_seg``, or both, of the image's size.
            draw_gt: Whether to draw the label.
            draw_pred: Whether to draw the prediction.
            show: Open a window.
            wait_time: Seconds that it stays.
            out_file: Write a PNG here, and not to the backends.
            step: Given to the backends.
            **kwargs: Taken and not used.

        Raises:
            UserError: There is neither label nor prediction.
        """
        wanted = [('gt_sem_seg', draw_gt), ('pred_sem_seg', draw_pred)]
        maps = [
            data_sample.get(key).data.cpu().numpy().squeeze(0)
            for key, draw in wanted
            if draw and data_sample is not None and key in data_sample
        ]
        if not maps:
            raise UserError(f'{name}: there is neither a label nor a prediction to draw')
        tiles = [self._blend(image, mask_image(found)) for found in maps]
        picture = np.concatenate(tiles, axis=1)
        if show:
            self.show(picture, win_name=name, wait_time=wait_time)
        if out_file is not None:
            with atomic_write(out_file, 'wb') as file:
                file.write(png_bytes(picture))
        else:
            self.add_image(name, picture, step)

    def _blend(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        colours = np.repeat(mask[..., None], 3, axis=2)
        return np.uint8(np.rint(image * (1 - self.alpha) + colours * self.alpha))


@HOOKS.register_module()
class CDVisualizationHook(ChangeVisualizationHook):
    """:class:`~mtkd_cd.drawing.hook.ChangeVisualizationHook` with Open-CD's name and arguments.

    Draws where a test tool sets ``draw=True``, into the folder that it gives the visualiser. Every
    picture has its prediction's own size and keeps its image's folders.

    Args:
        img_shape: Taken and not used.
        draw_on_from_to_img: Taken and not used.
        draw: Whether to draw.
        interval: Draw every ``interval``-th image.
        show: Taken and not used.
        wait_time: Taken and not used.
        backend_args: mmengine's file backend of the images.
    """

    def __init__(
        self,
        img_shape: Sequence[int] | None = None,
        draw_on_from_to_img: bool = False,
        draw: bool = False,
        interval: int = 50,
        show: bool = False,
        wait_time: float = 0.0,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(interval=interval, backend_args=backend_args, draw=draw)
