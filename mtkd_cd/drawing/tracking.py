"""Curves and pictures of a run in TensorBoard and WandB, by mmengine's visualiser."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.visualization import WandbVisBackend
from mmengine.visualization.vis_backend import force_init_env

from mtkd_cd.core.errors import UserError
from mtkd_cd.drawing.visualizer import LateVisualizer
from mtkd_cd.registry import VISBACKENDS, VISUALIZERS

_BACKENDS = {'tensorboard': 'TensorboardVisBackend', 'wandb': 'mtkd_cd.WandbIterVisBackend'}


@VISUALIZERS.register_module()
class TrackingVisualizer(LateVisualizer):
    """mmengine's visualiser with trackers by their names, so that one can be turned on from the
    command line.

    ``--cfg-options visualizer.type=TrackingVisualizer visualizer.trackers=tensorboard,wandb``;
    mmengine's own wants a list of dicts, which ``--cfg-options`` cannot write. What mmengine writes
    anyway, ``vis_data/scalars.json``, is written too.

    Args:
        name: Of the run; given by the runner.
        trackers: ``'tensorboard'``, ``'wandb'``, or both.
        wandb: Arguments of ``wandb.init``: ``project`` (default ``mtkd-cd``), ``entity``, ``tags``,
            ... ``WANDB_MODE=offline`` in the environment keeps a run on this machine.
        **kwargs: As in mmengine.

    Raises:
        UserError: An unknown tracker, or one whose package is not installed.
    """

    def __init__(
        self,
        name: str = 'visualizer',
        trackers: str | Sequence[str] = ('tensorboard',),
        wandb: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        backends: list[dict[str, Any]] = [{'type': 'LocalVisBackend'}]
        for tracker in (trackers,) if isinstance(trackers, str) else trackers:
            if tracker not in _BACKENDS:
                raise UserError(
                    f'visualizer.trackers={trackers!r}: a tracker is one of {", ".join(_BACKENDS)}'
                )
            if find_spec(tracker) is None:
                raise UserError(
                    f'visualizer.trackers={trackers!r}: {tracker} is not installed: pip install '
                    f'{tracker}'
                )
            options = (
                {'init_kwargs': {'project': 'mtkd-cd', 'name': name, **(wandb or {})}}
                if tracker == 'wandb'
                else {}
            )
            backends.append({'type': _BACKENDS[tracker], **options})
        super().__init__(name=name, vis_backends=backends, **kwargs)


@VISBACKENDS.register_module()
class WandbIterVisBackend(WandbVisBackend):
    """mmengine's WandB backend, except that everything is drawn over the iteration and that no
    source code is uploaded.

    WandB counts calls, mmengine's backend drops the iteration; and it uploads every ``*.py`` below
    the current folder.

    Raises:
        UserError: WandB cannot begin a run, for instance without a key.
    """

    def _init_env(self) -> None:
        errors = import_module('wandb.errors')
        try:
            super()._init_env()
        except errors.Error as error:
            raise UserError(
                f'visualizer.trackers: WandB says: {error} Or set WANDB_MODE=offline, which keeps '
                'the run on this machine'
            ) from error
        self._wandb.define_metric('iter')
        self._wandb.define_metric('*', step_metric='iter')

    @force_init_env
    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config."""
        self._wandb.config.update(config.to_dict(), allow_val_change=True)

    @force_init_env
    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Record an (H, W, 3) RGB picture."""
        self._log({name: self._wandb.Image(image)}, step)

    @force_init_env
    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Record one number."""
        self._log({name: value}, step)

    @force_init_env
    def add_scalars(
        self,
        scalar_dict: Mapping[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Record numbers of one iteration."""
        self._log(scalar_dict, step)

    def _log(self, content: Mapping[str, Any], step: int) -> None:
        self._wandb.log({**content, 'iter': step}, commit=self._commit)

    def close(self) -> None:
        """End the run, so that the next one of this process gets its own."""
        if hasattr(self, '_wandb'):
            self._wandb.finish()
