"""Pictures of images while a model is tested or validated: what went in, what came out, what was
wrong."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, barrier, get_dist_info, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer

from mtkd_cd.core.car import IGNORE_INDEX
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import OutputFolder, check_not_read
from mtkd_cd.drawing.error_map import error_map, mask_image
from mtkd_cd.drawing.panel import compose_panel, png_bytes
from mtkd_cd.drawing.photo import read_photo
from mtkd_cd.evaluation.counts import at_size_of, confusion_counts
from mtkd_cd.evaluation.image_names import Paths, image_name, image_names, image_paths
from mtkd_cd.evaluation.scores import image_scores, predicted_cars, true_cars
from mtkd_cd.registry import HOOKS

PICTURES = ('A', 'B', 'label', 'prediction', 'error_map', 'panels')


class _DrawingHook(Hook, ABC):
    """Counts and names the images that pass, and draws those that its heir wants.

    Args:
        ignore_index: Label value of pixels that don't count.
        backend_args: mmengine's file backend of the images; local files by default.
    """

    def __init__(self, ignore_index: int, backend_args: dict | None) -> None:
        self.ignore_index = ignore_index
        self.backend_args = backend_args
        self._names: dict[Paths, str] = {}
        self._num_seen = 0
        self._num_images = 0

    @abstractmethod
    def _wants(self, index: int) -> bool:
        """Whether to draw the image at this position of the data set."""

    def _start(self, dataset: Any) -> None:
        """Name the images, which takes the whole list of them."""
        self._num_seen = 0
        self._num_images = len(dataset)
        paths = (
            [image_paths(dataset.get_data_info(index)) for index in range(len(dataset))]
            if hasattr(dataset, 'get_data_info')
            else []
        )
        self._names = dict(zip(paths, image_names(paths)))

    def _draw(
        self, outputs: Sequence[BaseDataElement] | None
    ) -> Iterator[tuple[int, str, dict[str, np.ndarray]]]:
        """Position in the data set, name and pictures (those that there are, and their panel) of
        each wanted image of a batch."""
        rank, world_size = get_dist_info()
        for sample in outputs or ():
            index = (
                self._num_seen * world_size + rank
            )  # as mmengine's samplers deal the images; past the end they repeat some
            self._num_seen += 1
            if index < self._num_images and self._wants(index):
                yield index, *self._pictures(sample, index)

    def _pictures(self, sample: BaseDataElement, index: int) -> tuple[str, dict[str, np.ndarray]]:
        prediction = sample.pred_sem_seg.data.cpu().squeeze(0)
        label = None
        if 'gt_sem_seg' in sample:
            label = sample.gt_sem_seg.data.cpu().squeeze(0)
            prediction = at_size_of(prediction, label)
            label = label.numpy()
        prediction = prediction.numpy()

        paths = image_paths(sample.metainfo)
        dates = image_paths({'img_path': sample.get('img_path')})
        pictures = {
            date: read_photo(path, prediction.shape, self.backend_args)
            for date, path in zip('AB', dates)
        }
        if label is not None:
            pictures['label'] = mask_image(label, self.ignore_index)
        pictures['prediction'] = mask_image(prediction, self.ignore_index)
        if label is not None:
            pictures['error_map'] = error_map(prediction, label, self.ignore_index)

        name = self._names.get(paths) or (image_name(paths) if paths else f'image{index:05d}')
        tiles = {title.replace('_', ' '): picture for title, picture in pictures.items()}
        pictures['panels'] = compose_panel(
            tiles, f'{name}\n{self._caption(sample, prediction, label)}'
        )
        return name, pictures

    def _caption(
        self, sample: BaseDataElement, prediction: np.ndarray, label: np.ndarray | None
    ) -> str:
        truth = np.zeros_like(prediction) if label is None else label
        counts = confusion_counts(prediction, truth, self.ignore_index)[None]
        parts = [f'predicted CAR {predicted_cars(counts)[0]:.2%}']
        if label is not None:
            scores = {name: values[0] for name, values in image_scores(counts).items()}
            parts = [
                f'CAR {true_cars(counts)[0]:.2%}',
                *parts,
                f'IoU of change {scores["IoU_changed"]:.1f}',
                f'mIoU {scores["mIoU"]:.1f}',
            ]
        if 'coarse_car' in sample:
            parts.append(f'range {sample.range} (coarse CAR {sample.coarse_car:.2%})')
        return '    '.join(parts)


@HOOKS.register_module()
class ChangeVisualizationHook(_DrawingHook):
    """While testing, writes for each image pair ``A``, ``B``, ``label``, ``prediction`` and
    ``error_map``, and all of them in one panel.

    The files are ``OUT_DIR/<one of those, or panels>/<name>.png`` where ``<name>`` keeps the
    folders below the data set's date folders, so that images of equal base names don't overwrite
    each other. ``prediction`` and ``label`` are one-channel 0 / 255 (127 where the label is
    ignored). Everything is at the label's size; without a label there is no ``label`` and no
    ``error_map``. Error map: red = missed, blue = false alarm, white = hit, black = correct
        rejection, gray = ignored.

    Args:
        out_dir: Folder to write to. None: ``vis_image`` in the folder of the runner's visualizer,
            which foreign test tools set to their ``--show-dir``.
        interval: Draw every ``interval``-th image of the data set.
        max_images: Draw so many at most; ``None`` for no limit.
        ignore_index: Label value of pixels that don't count.
        backend_args: mmengine's file backend of the images; local files by default.
        draw: Whether to draw at all; foreign test tools set it.
        show: Taken from foreign test tools and not used.
        wait_time: Taken from foreign test tools and not used.

    Raises:
        UserError: ``interval`` below 1 or ``max_images`` negative; while testing, an image that
            cannot be read again, or no folder to write to, or one that the images are read from, or
            that holds other files of these names.
    """

    def __init__(
        self,
        out_dir: str | os.PathLike | None = None,
        interval: int = 1,
        max_images: int | None = None,
        ignore_index: int = IGNORE_INDEX,
        backend_args: dict | None = None,
        draw: bool = True,
        show: bool = False,
        wait_time: float = 0.0,
    ) -> None:
        _check_choice(interval, max_images)
        super().__init__(ignore_index, backend_args)
        self.out_dir = None if out_dir is None else Path(out_dir)
        self._output: OutputFolder | None = None
        self.draw = draw
        self.interval = interval
        self.max_images = max_images

    def _wants(self, index: int) -> bool:
        return (
            self.draw
            and index % self.interval == 0
            and (self.max_images is None or index // self.interval < self.max_images)
        )

    def before_test_epoch(self, runner: Runner) -> None:
        """Look at the names of the images, and find the folder; the pictures of an earlier test in
        it go."""
        dataset = runner.test_loop.dataloader.dataset
        self._start(dataset)
        if not self.draw:
            return
        if self.out_dir is None:
            self.out_dir = _picture_folder(runner.visualizer)
        self._output = open_picture_folder(
            self.out_dir, [path for one in self._names for path in one]
        )
        if is_main_process():
            self._output.clear()
        barrier()

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Draw the images of a batch."""
        if self._output is None:
            return
        for _, name, pictures in self._draw(outputs):
            for folder, picture in pictures.items():
                with self._output.open(Path(folder, name).with_suffix('.png')) as file:
                    file.write(png_bytes(picture))


@HOOKS.register_module()
class ChangeBoardHook(_DrawingHook):
    """At each validation, shows the panels of the same few images in whatever the runner's
    visualizer writes to (TensorBoard, WandB, ...).

    The panel is that of :class:`ChangeVisualizationHook`, its tag ``val_<name of the image>``
    without suffix and with ``_`` for ``/``, its step the iteration. Scores of all images, and those
    of each CAR range, get there as curves by mmengine's ``LoggerHook``: see docs/visualization.md.

    Args:
        indices: Positions of the images in the validation set.
        interval: Instead: every ``interval``-th image. Without both, images spread evenly over the
            set.
        max_images: So many at most.
        ignore_index: Label value of pixels that don't count.
        backend_args: mmengine's file backend of the images; local files by default.

    Raises:
        UserError: Both ``indices`` and ``interval``; ``interval`` below 1 or ``max_images``
            negative; while validating, an index beyond the validation set, or an image that cannot
            be read again.
    """

    def __init__(
        self,
        indices: Sequence[int] | None = None,
        interval: int | None = None,
        max_images: int = 8,
        ignore_index: int = IGNORE_INDEX,
        backend_args: dict | None = None,
    ) -> None:
        if indices is not None and interval is not None:
            raise UserError(
                f'indices={indices} and interval={interval} both say which images to show: leave '
                'one out'
            )
        _check_choice(1 if interval is None else interval, max_images)
        super().__init__(ignore_index, backend_args)
        self.indices = (indices,) if isinstance(indices, int) else indices
        self.interval = interval
        self.max_images = max_images
        self._chosen: frozenset[int] = frozenset()
        self._panels: list[tuple[int, str, np.ndarray]] = []

    def _wants(self, index: int) -> bool:
        return index in self._chosen

    def before_val_epoch(self, runner: Runner) -> None:
        """Choose the images; it is the same choice at each validation."""
        self._start(runner.val_loop.dataloader.dataset)
        self._chosen = frozenset(self._choose(self._num_images)[: self.max_images])
        self._panels = []

    def _choose(self, num_images: int) -> Sequence[int]:
        if self.indices is None:
            return range(
                0, num_images, self.interval or max(1, -(-num_images // max(self.max_images, 1)))
            )
        beyond = [index for index in self.indices if not 0 <= index < num_images]
        if beyond:
            raise UserError(
                f'ChangeBoardHook.indices={list(self.indices)}: the validation set has '
                f'{num_images} images, 0 to {num_images - 1}'
            )
        return self.indices

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Draw the chosen images of a batch."""
        self._panels += [
            (index, name, pictures['panels']) for index, name, pictures in self._draw(outputs)
        ]

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Show the panels of all processes, in the order of the data set."""
        # Asking the runner for its iteration would build the training loop, where there is only
        # validation.
        step = runner.iter if isinstance(runner._train_loop, BaseLoop) else 0
        panels = [panel for part in all_gather_object(self._panels) for panel in part]
        for _, name, panel in sorted(panels, key=lambda panel: panel[0]):
            runner.visualizer.add_image(
                f'val_{Path(name).with_suffix("").as_posix().replace("/", "_")}', panel, step
            )
        self._panels = []


def open_picture_folder(folder: str | os.PathLike, images: Sequence[str]) -> OutputFolder:
    """A folder for the pictures of a test.

    Args:
        folder: The folder.
        images: Files that are read.

    Raises:
        UserError: It, or one of its folders, is one that the images are read from.
    """
    reads = {os.path.dirname(image) for image in images}
    for place in (folder, *(Path(folder, name) for name in PICTURES)):
        check_not_read(place, reads)
    return OutputFolder(folder, 'pictures')


def _picture_folder(visualizer: Visualizer) -> Path:
    for backend in visualizer._vis_backends.values():
        if getattr(backend, '_save_dir', None):
            return Path(backend._save_dir, 'vis_image')
    raise UserError(
        'ChangeVisualizationHook has no out_dir, and the visualizer has no backend with a folder: '
        'set out_dir'
    )


def _check_choice(interval: int, max_images: int | None) -> None:
    if interval < 1 or (max_images is not None and max_images < 0):
        raise UserError(
            f'interval={interval}, max_images={max_images}: draw every n-th image (n >= 1), and 0 '
            'or more of them'
        )
