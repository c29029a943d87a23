"""Which models there are, and their configs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtkd_cd.core.files import CONFIGS

if TYPE_CHECKING:
    from mmengine.config import Config


def list_models() -> list[str]:
    """The names of the 21 benchmark models, sorted: what :func:`get_config` and the command
    ``mtkd-cd recipe`` take."""
    return sorted(path.stem for path in (CONFIGS / 'origin').glob('*.py'))


def get_config(
    model: str | os.PathLike,
    strategy: str = 'origin',
    *,
    range: str | None = None,
    fold: int | None = None,
    thresholds: float | Sequence[float] | None = None,
    routing: str | None = None,
    teachers: str | None = None,
    **options: Any,
) -> Config:
    """The config that the recipe runs a model with.

    Args:
        model: A name of :func:`list_models`, or the path of an origin's config.
        strategy: ``origin``, ``continued``, ``partition``, ``op`` or ``mtkd``, or a variant such as
            ``op@0.1+validated``.
        range: CAR range of a specialist (``strategy='partition'``); default: the first.
        fold: The fold that a specialist does not see (``strategy='partition@folds5'``); default: 0.
        thresholds: CAR thresholds, in the place of those of ``strategy``.
        routing: How an image finds its specialist, in the place of that of ``strategy``.
        teachers: Another model whose detectors teach, in the place of that of ``strategy``.
        options: Further fields of :class:`mtkd_cd.recipe.options.RecipeOptions`, for instance
            ``data_root``, ``iters``, ``image_size``, ``work_dir``, ``cfg_options``.

    Returns:
        The whole config, its ``work_dir`` the place where the recipe would keep the files.

    Raises:
        UserError: Unknown model, strategy, range or option value.
    """
    from mtkd_cd.core.strategy import Strategy
    from mtkd_cd.recipe.configs import step_config
    from mtkd_cd.recipe.options import RecipeOptions
    from mtkd_cd.recipe.steps import Step, fold_of_step

    named = Strategy.parse(strategy)
    recipe = RecipeOptions(
        CONFIGS,
        routing=routing or named.routing,
        teachers=teachers or named.teachers or None,
        **{
            'thresholds': thresholds or named.thresholds,
            'match': named.match,
            'folds': named.folds or None,
            **options,
        },
    )
    wanted = recipe.strategy(named.kind)
    if wanted.kind == 'partition' and range is None:
        range = wanted.partition.names[0]
    step = Step(wanted, 'train', range, fold_of_step(wanted, fold))
    return step_config(step, os.fspath(model), recipe)


def as_config(cfg: Config | str | Path) -> Config:
    """Return a config unchanged, or load the config of a file."""
    from mtkd_cd.engine.config import load_config

    return load_config(cfg) if isinstance(cfg, (str, Path)) else cfg
