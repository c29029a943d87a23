"""The figures that the benchmark's paper printed (arXiv:2502.13407), to stand beside what was
measured: never mixed with it."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mtkd_cd.core.strategy import strategy_in

JL1_CD, SYSU_CD = 'JL1-CD', 'SYSU-CD'
# What can be seen of JL1-CD's test set in a per-image table: so many images of so many pixels.
_JL1_CD_SHAPE = (1000, 512 * 512)


def published_models() -> Mapping[str, Mapping[str, Any]]:
    """``method``, ``backbone``, ``params_m`` and ``flops_g`` (10^9, at 512 x 512) of each of the 21
    models, in the paper's order."""
    return _printed()['models']


def published_scores(dataset: str, model: str, strategy: str) -> Mapping[str, float]:
    """Printed scores in percent by name; those that the paper does not give are absent, all of them
    for an unknown model.

    Args:
        dataset: :data:`JL1_CD` or :data:`SYSU_CD`.
        model: Name of its config.
        strategy: ``origin``, ``op``, ``mtkd``, or ``op@0.1`` and ``mtkd@0.1``, the paper's two
            teachers. Others have none.
    """
    found = strategy_in(strategy)
    key = {'': '{}', '0.1': '{}_2'}.get(found.variant, '').format(found.kind) if found else ''
    return _printed()[dataset].get(model, {}).get(key, {})


def model_title(model: str) -> str:
    """The paper's name of a model it has, ``Changer (MiT-b0)``; any other name as it is."""
    known = published_models().get(model)
    if known is None:
        return model
    return (
        known['method']
        if known['backbone'].startswith('CNN')
        else f'{known["method"]} ({known["backbone"]})'
    )


def published_dataset(name: str | None, num_images: int, num_pixels: int) -> tuple[str, bool]:
    """Which of the paper's data sets to show beside the evaluated one, and whether they may be the
    same.

    Args:
        name: What the user calls the evaluated data set; ``None`` where only the tables tell.
        num_images: In the evaluated set.
        num_pixels: Of each image; 0 if they differ.

    Returns:
        Its name, and whether the figures are of the evaluated images as far as can be told.
    """
    if name is None:
        return JL1_CD, (num_images, num_pixels) == _JL1_CD_SHAPE
    plain = ''.join(filter(str.isalnum, name)).lower()
    known = {JL1_CD: ('jl1cd', 'jl1cdtest'), SYSU_CD: ('sysucd', 'sysu', 'sysucdtest')}
    return next(
        ((dataset, True) for dataset, spellings in known.items() if plain in spellings),
        (JL1_CD, False),
    )


@cache
def _printed() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name('published.json').read_text(encoding='utf-8'))
