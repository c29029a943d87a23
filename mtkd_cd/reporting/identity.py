"""Names of runs: what a path, or a user's label, says about a run."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from mtkd_cd.core.strategy import TEST_TABLE, strategy_in

_SEED = re.compile(r'seed[-_]?(\d+)')


@dataclass(frozen=True)
class RunIdentity:
    """What a run is: runs that differ in ``seed`` alone are repetitions of one experiment.

    Attributes:
        model: Name of the model's config, ``changer_mitb0``.
        strategy: ``origin``, ``continued``, ``op``, ``mtkd``, with ``@`` and a variant
            (``op@0.1``), or whatever the user says. Of a folder with a label:
            ``<label>:<strategy>``.
        seed: ``None`` where the path names none.
    """

    model: str
    strategy: str
    seed: int | None = None

    def __str__(self) -> str:
        """``fc_ef/op``, ``fc_ef/op, seed 1``."""
        return f'{self.model}/{self.strategy}' + (
            '' if self.seed is None else f', seed {self.seed}'
        )


def identity_of_path(path: str | os.PathLike) -> RunIdentity:
    """From ``.../seed<k>/report/<model>/<strategy>.csv``, where ``seed<k>`` and ``report`` may be
    absent.

    Or from what ``mtkd-cd test`` leaves, ``.../<strategy>/<model>/test/per_image.json``. For a
    specialist's table, ``.../partition/<model>/<range>/test/per_image.json``, the strategy is
    ``partition/<range>``.
    """
    path = Path(os.path.abspath(path))
    seeds = (match for folder in path.parents if (match := _SEED.fullmatch(folder.name)))
    first = next(seeds, None)
    model, strategy = path.parent.name, path.stem
    if path.name == TEST_TABLE and path.parent.name == 'test':
        match path.parts[-5:-2]:
            case [text, of_model, range_name] if _is_specialists(text):
                model, strategy = of_model, f'{text}/{range_name}'
            case [_, text, of_model]:
                model, strategy = of_model, text
    return RunIdentity(model, strategy, None if first is None else int(first[1]))


def _is_specialists(text: str) -> bool:
    strategy = strategy_in(text)
    return strategy is not None and strategy.kind == 'partition'


def relabelled(identity: RunIdentity, label: str, whole_folder: bool) -> RunIdentity:
    """The identity that a user's label makes of one.

    Args:
        identity: What the path says.
        label: For one table ``[MODEL/]STRATEGY[/seed<k>]``, which replaces what it names. For a
            folder anything: it goes before the strategies of the folder's tables.
        whole_folder: Whether the label stands for a folder.
    """
    if whole_folder:
        return replace(identity, strategy=f'{label}:{identity.strategy}')
    *models, strategy = [part for part in label.split('/') if not _SEED.fullmatch(part)] or [
        identity.strategy
    ]
    seeds = [int(match[1]) for part in label.split('/') if (match := _SEED.fullmatch(part))]
    return RunIdentity(
        '/'.join(models) or identity.model, strategy, seeds[-1] if seeds else identity.seed
    )


def base_strategy(strategy: str) -> str:
    """The strategy without a folder's label."""
    return strategy.rpartition(':')[2]


def thresholds_of(strategy: str) -> tuple[float, ...] | None:
    """CAR thresholds that a strategy's name gives: (0.1,) of ``op@0.1+validated``, ``None`` of
    ``op`` and ``op@validated``."""
    found = strategy_in(strategy)
    return found.thresholds if found and found.partition.tag else None
