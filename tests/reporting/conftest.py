"""Small per-image tables with known scores."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from mtkd_cd.evaluation import ImageTable

PIXELS = 1000
# Changed pixels of the labels of eight images: three small, three medium, two large under the
# default thresholds; one equals a threshold.
CHANGED = (0, 10, 50, 60, 100, 200, 300, 800)


def make_table(
    hits: Sequence[float] = (0.5,) * 8,
    false_alarms: int = 0,
    changed: Sequence[int] = CHANGED,
    files: Sequence[str] | None = None,
    coarse: Sequence[tuple[float, str]] | None = None,
) -> ImageTable:
    """A table of images of 1000 pixels: ``hits`` is the share of the changed pixels that were
    found."""
    changed = np.array(changed)
    tp = np.round(changed * np.array(hits)).astype(int)
    counts = np.stack(
        [tp, np.full(len(tp), false_alarms), changed - tp, PIXELS - changed - false_alarms], 1
    )
    cars, ranges = zip(*(coarse or [(None, None)] * len(changed)))
    return ImageTable(
        list(files or (f'{i}.png' for i in range(len(changed)))), counts, list(cars), list(ranges)
    )


@pytest.fixture
def table() -> Callable[..., ImageTable]:
    """``table(hits=...)`` makes one."""
    return make_table


@pytest.fixture
def save(tmp_path) -> Callable[..., Path]:
    """``save('seed0/report/fc_ef/op.csv', hits=...)`` writes a table below the test's folder
    ``runs``."""

    def write(place: str, **kwargs) -> Path:
        path = tmp_path / 'runs' / place
        make_table(**kwargs).save(path)
        return path

    return write


@pytest.fixture(scope='session')
def runs_of_three_strategies(tmp_path_factory) -> Path:
    """fc_ef under origin, O-P and MTKD with seeds 0 and 1, and one model that the paper does not
    know. Read only."""
    root = tmp_path_factory.mktemp('three') / 'runs'
    rng = np.random.default_rng(0)
    names = ('small', 'small', 'medium', 'small', 'medium', 'large', 'large', 'large')
    coarse = list(zip((0.0, 0.02, 0.06, 0.01, 0.1, 0.3, 0.3, 0.7), names))
    for model in ('fc_ef', 'my_net'):
        for seed in (0, 1):
            for strategy, gain in (('origin', 0.4), ('op', 0.5), ('mtkd', 0.6)):
                extra = {'coarse': coarse} if strategy == 'op' else {}
                make_table(hits=gain + rng.uniform(0, 0.3, 8), **extra).save(
                    root / f'seed{seed}/report/{model}/{strategy}.csv'
                )
    return root
