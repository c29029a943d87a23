"""Pairs of files and a model that costs nothing and counts its calls."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from mtkd_cd.demo.served import Served
from mtkd_cd.inference.card import Card
from mtkd_cd.inference.inferencer import ChangeInferencer
from mtkd_cd.inference.predictor import Model

rasterio = pytest.importorskip('rasterio')


class Difference:
    """Probability from the mean absolute difference of the dates, each pixel for itself."""

    def __init__(self) -> None:
        self.calls = 0

    def probability(self, pairs: Tensor) -> Tensor:
        self.calls += 1
        a, b = pairs.chunk(2, 1)
        return 1 - torch.exp(-(a - b).abs().mean(1))


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same of (H, W, 3) bytes, computed independently."""
    return 1 - np.exp(-np.abs(a.astype(np.float64) - b).mean(2) / 50)


def served_by(network: Difference) -> Served:
    """A model with a validation on which precision is the threshold and recall one minus it."""
    card = Card('toy', mean=(100.0,) * 6, std=(50.0,) * 6, training_size=64, threshold=0.4)
    inferencer = ChangeInferencer(Model(card, {'': lambda: network}), device='cpu')
    cuts = np.linspace(0, 1, 101)
    return Served(inferencer, np.stack([cuts, cuts, 1 - cuts], 1), images=12)


@pytest.fixture
def network() -> Difference:
    return Difference()


@pytest.fixture
def served(network) -> Served:
    return served_by(network)


@pytest.fixture
def inferencer(served) -> ChangeInferencer:
    return served.inferencer


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    """(96, 120, 3) RGB bytes of both dates, with blocks of change of many strengths."""
    rng = np.random.default_rng(5)
    a = np.kron(rng.integers(60, 160, (12, 15, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    b = a.copy()
    for strength in range(5, 90, 5):
        row, col = rng.integers(0, 88), rng.integers(0, 112)
        b[row : row + 7, col : col + 7] += np.uint8(strength)
    return a, b


@pytest.fixture
def write_png(tmp_path) -> Callable[..., Path]:
    """``write_png(name, (H, W, 3) RGB)``."""

    def write(name: str, image: np.ndarray) -> Path:
        cv2.imwrite(str(tmp_path / name), image[:, :, ::-1])
        return tmp_path / name

    return write


@pytest.fixture
def write_tif(tmp_path) -> Callable[..., Path]:
    """``write_tif(name, (H, W, C), crs=..., origin=..., pixel=10.0, **profile)``."""

    def write(
        name, image, crs='EPSG:32632', origin=(500_000.0, 4_800_000.0), pixel=10.0, **profile
    ) -> Path:
        height, width, count = image.shape
        place = {}
        if crs is not None:
            place = dict(crs=crs, transform=rasterio.transform.from_origin(*origin, pixel, pixel))
        settings = dict(
            driver='GTiff', width=width, height=height, count=count, dtype=image.dtype.name
        )
        with rasterio.open(tmp_path / name, 'w', **settings, **place, **profile) as file:
            file.write(image.transpose(2, 0, 1))
        return tmp_path / name

    return write


@pytest.fixture
def folder(tmp_path) -> Path:
    """Of a prediction."""
    path = tmp_path / 'prediction'
    path.mkdir()
    return path
