"""Tiny data sets on disk."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope

import mtkd_cd  # noqa: F401  (registers)

SIZE = 20


def label_with(changed: int) -> np.ndarray:
    """(20, 20) of 0 and 255 with that many changed pixels: CAR = changed / 400."""
    label = np.zeros(SIZE * SIZE, np.uint8)
    label[:changed] = 255
    return label.reshape(SIZE, SIZE)


@pytest.fixture(autouse=True)
def _scope_and_own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    init_default_scope('mtkd_cd')
    # mmengine collects garbage each time that a data set is initialised, which takes longer than all the rest here.
    monkeypatch.setattr('gc.collect', lambda *args: 0)


@pytest.fixture
def write_pairs():
    """Write pairs of 20 x 20 pixels: ``write_pairs(folder, [changed pixels of each], ...)`` returns the file names."""

    def write(folder, changed, folders=('A', 'B', 'label'), suffix='.png', label_suffix=None, white=255, names=None, seed=0):
        rng = np.random.default_rng(seed)
        names = names or [f'{index:03d}' for index in range(len(changed))]
        for name, count in zip(names, changed):
            images = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2)]
            label = label_with(count) // 255 * white
            for sub, array, ending in zip(folders, [*images, label], [suffix, suffix, label_suffix or suffix]):
                path = Path(folder) / sub / f'{name}{ending}'
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), array)
        return [f'{name}{suffix}' for name in names]

    return write
