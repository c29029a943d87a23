"""Rasters that the tests write, and models that cost nothing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mtkd_cd.inference.card import Card
from mtkd_cd.inference.inferencer import ChangeInferencer
from mtkd_cd.inference.predictor import Model
from mtkd_cd.inference.results import RasterResult

rasterio = pytest.importorskip('rasterio')

UTM = 'EPSG:32632'
ORIGIN = (500_000.0, 4_800_000.0)
MEAN, STD = (100.0,) * 6, (50.0,) * 6


class Difference:
    """Probability from the mean absolute difference of the dates at the pixel: each pixel for
    itself."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.inputs: list[Tensor] = []

    def probability(self, pairs: Tensor) -> Tensor:
        self.shapes.append(tuple(pairs.shape))
        self.inputs.append(pairs.clone())
        a, b = pairs.chunk(2, 1)
        return 1 - torch.exp(-(a - b).abs().mean(1))


class Constant:
    """The same probability everywhere."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.calls = 0

    def probability(self, pairs: Tensor) -> Tensor:
        self.calls += 1
        return torch.full((len(pairs), *pairs.shape[2:]), self.value)


class Context:
    """A convolutional network of random weights: a pixel depends on its surroundings and on where
    the window ends."""

    def __init__(self, channels: int = 6) -> None:
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 8, 7, padding=3),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 7, padding=3),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 1, 7, padding=3),
        )

    def probability(self, pairs: Tensor) -> Tensor:
        with torch.no_grad():
            return (4 * self.layers(pairs)[:, 0]).sigmoid()


def model_of(predictor, **card) -> Model:
    """A model of one predictor."""
    settings = dict(name='toy', mean=MEAN, std=STD, training_size=64, divisor=32)
    return Model(Card(**{**settings, **card}), {'': lambda: predictor})


@pytest.fixture
def inferencer_of() -> Callable[..., ChangeInferencer]:
    """``inferencer_of(predictor, **card)``."""
    return lambda predictor, **card: ChangeInferencer(model_of(predictor, **card), device='cpu')


@pytest.fixture
def predict(inferencer_of, tmp_path, read) -> Callable[..., tuple[np.ndarray, RasterResult]]:
    """``predict(a, b, gsd_m=None, **options)`` two files by the difference; gives the float
    probability and the result."""

    def run(a, b, gsd_m=None, **options):
        result = inferencer_of(Difference(), gsd_m=gsd_m).predict_raster(
            a,
            b,
            tmp_path / 'o.tif',
            probability=tmp_path / 'p.tif',
            probability_dtype='float32',
            overwrite=True,
            **options,
        )
        return read(tmp_path / 'p.tif'), result

    return run


@pytest.fixture
def write_raster(tmp_path) -> Callable[..., Path]:
    """``write_raster(name, (C, H, W) array, pixel=10.0, origin=..., crs=UTM, **profile)``."""

    def write(name, array, pixel=10.0, origin=ORIGIN, crs=UTM, transform=None, **profile) -> Path:
        path = tmp_path / name
        if transform is None and crs is not None:
            transform = rasterio.transform.from_origin(*origin, pixel, pixel)
        settings = dict(
            driver='GTiff',
            width=array.shape[2],
            height=array.shape[1],
            count=array.shape[0],
            dtype=array.dtype.name,
            crs=crs,
        )
        if transform is not None:
            settings['transform'] = transform
        with rasterio.open(path, 'w', **{**settings, **profile}) as file:
            file.write(array)
        return path

    return write


@pytest.fixture
def scene() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """(3, H, W) uint8 of A and of B: smooth land, and some blocks that changed."""

    def make(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(40, 200, (3, height // 8 + 2, width // 8 + 2))
        land = np.repeat(np.repeat(coarse, 8, 1), 8, 2)[:, :height, :width].astype(np.uint8)
        after = land.copy()
        for _ in range(max(3, height * width // 3000)):
            row, col = rng.integers(0, height), rng.integers(0, width)
            after[:, row : row + 12, col : col + 12] = rng.integers(0, 256)
        return land, after

    return make


@pytest.fixture
def read() -> Callable[[Path], np.ndarray]:
    """The first band of a raster."""

    def first_band(path: Path) -> np.ndarray:
        with rasterio.open(path) as file:
            return file.read(1)

    return first_band


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What :class:`Difference` makes of (3, H, W) values from 0 to 255, computed independently."""
    return 1 - np.exp(-np.abs(a.astype(np.float64) - b).mean(0) / STD[0])
