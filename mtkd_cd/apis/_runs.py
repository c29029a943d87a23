"""One training, one test, and the recipe of both."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtkd_cd.apis._models import as_config
from mtkd_cd.core.files import CONFIGS

if TYPE_CHECKING:
    from mmengine.config import Config

    from mtkd_cd.recipe.results import RecipeResults


def train(
    cfg: Config | str | Path,
    work_dir: str | Path | None = None,
    *,
    resume: bool = False,
    device: str = 'auto',
    launcher: str = 'none',
    amp: bool = False,
    **costs: Any,
) -> dict[str, Any]:
    """Train a config, as ``mtkd-cd train`` does.

    Args:
        cfg: A config of :func:`mtkd_cd.apis.get_config`, which is changed in place, or the path of
            a file.
        work_dir: Folder of the run; default: the config's.
        resume: Go on with the run in the work dir, or start it.
        device: ``auto``, ``cpu`` or ``cuda``.
        launcher: How processes were started: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        amp: Mixed precision: float16 on a GPU, bfloat16 on the CPU.
        costs: ``compile``, ``cache``, ``accumulate``, ``checkpoint_activations``,
            ``teacher_precision``, as :func:`~mtkd_cd.engine.costs.set_costs` takes them.

    Returns:
        The record of the run: ``metric``, ``score`` and ``iter`` of the best weights, which are in
        ``<work_dir>/best.pth``; ``seconds``, ``settings``.

    Raises:
        UserError: The config or its data are no good; the work dir holds another run.
    """
    from mtkd_cd.engine.costs import set_costs
    from mtkd_cd.engine.machine import set_machine
    from mtkd_cd.engine.training import prepare_training, run_training

    cfg = as_config(cfg)
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    set_machine(cfg, device, launcher)
    set_costs(cfg, amp=amp, **costs)
    return run_training(prepare_training(cfg), resume=resume)


def test(
    cfg: Config | str | Path,
    weights: str | Path | None = None,
    *,
    out: str | Path | None = None,
    show_dir: str | Path | None = None,
    work_dir: str | Path | None = None,
    device: str = 'auto',
    launcher: str = 'none',
    precision: str | None = None,
) -> dict[str, float]:
    """Test a config, as ``mtkd-cd test`` does.

    Args:
        cfg: A config of :func:`mtkd_cd.apis.get_config`, or the path of a file.
        weights: A checkpoint; default: the ``best.pth`` that the config's training left, and for a
            cascade those of origin and specialists.
        out: Table of each image to write, ``.json`` or ``.csv``.
        show_dir: Folder for a picture of each image.
        work_dir: Folder of the log; default: ``test`` in the work dir of the training.
        device: ``auto``, ``cpu`` or ``cuda``.
        launcher: How processes were started: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        precision: In what the network computes, ``'float32'`` or ``'bfloat16'``; default: the
            config's ``precision``, else float32.

    Returns:
        The metrics, in percent.

    Raises:
        UserError: The config, its data or a checkpoint are no good.
    """
    from mtkd_cd.core.strategy import BEST
    from mtkd_cd.engine.config import is_cascade, work_dir_of
    from mtkd_cd.engine.costs import set_precision
    from mtkd_cd.engine.machine import set_machine
    from mtkd_cd.engine.testing import run_test

    cfg = copy.deepcopy(as_config(cfg))  # the caller may train on, or test again
    training_dir = work_dir_of(cfg)
    if weights is None and not is_cascade(cfg):
        weights = training_dir / BEST
    cfg.work_dir = str(work_dir or training_dir / 'test')
    set_machine(cfg, device, launcher)
    if precision is not None:
        set_precision(cfg, precision)
    return run_test(cfg, weights, out=out, show_dir=show_dir)


def run_recipe(
    model: str | os.PathLike, strategies: str | Iterable[str] | None = None, **options: Any
) -> RecipeResults:
    """The whole recipe for one model, as ``mtkd-cd recipe`` runs it: origin, specialists, O-P test,
    student, test, one table. Finished steps are skipped, an interrupted one goes on.

    Args:
        model: A name of :func:`mtkd_cd.apis.list_models`, or the path of an origin's config.
        strategies: What to do now: one or several of ``origin``, ``partition``, ``op``,
            ``continued``, ``mtkd``; default: as in the paper.
        options: Fields of :class:`mtkd_cd.recipe.options.RecipeOptions`, for instance
            ``data_root``, ``work_dir``, ``iters``, ``thresholds``.

    Raises:
        UserError: Unknown model, strategy or option value, bad data, a work dir that holds another
            run.
    """
    from mtkd_cd.core.strategy import Strategy
    from mtkd_cd.recipe.options import PAPER_KINDS, RecipeOptions
    from mtkd_cd.recipe.run import run_recipe as run

    named = [strategies] if isinstance(strategies, str) else strategies or PAPER_KINDS
    kinds = [Strategy(kind).kind for kind in named]
    return run(os.fspath(model), RecipeOptions(CONFIGS, **options), kinds)
