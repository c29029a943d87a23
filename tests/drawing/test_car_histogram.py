"""The histogram of CARs in figures."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mtkd_cd.core.car import CARPartition
from mtkd_cd.drawing.car_histogram import draw_car_histogram


def drawn(cars: list[float]) -> tuple[Figure, list[tuple[float, float]]]:
    """The figure; (left edge, height) of each bar, that of CAR = 0 last."""
    figure = Figure(figsize=(4, 2), dpi=100)
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    draw_car_histogram(axis, {'cars': (np.array(cars), '#0072B2')}, CARPartition())
    return figure, [(bar.get_x(), bar.get_height()) for bar in axis.patches]


def pixels(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def test_bars_hold_all_images_and_none_is_empty():
    _, bars = drawn([0.0, 0.0, 1e-9, 1e-4, 0.03, 0.031, 1.0])
    *changed, unchanged = bars
    assert [height for _, height in changed] == [2, 2, 1]
    assert unchanged[1] == 2
    assert unchanged[0] < changed[0][0] == -4
    assert changed[1][0] <= np.log10(0.03) < np.log10(0.031) <= changed[1][0] + 0.125


@pytest.mark.parametrize('cars', [[0.01], [0.002, 0.3, 0.3, 0.31, 0.9], [0.0]])
def test_bars_without_images_would_show_nothing(cars):
    figure, bars = drawn(cars)
    found = pixels(figure)
    axis = figure.axes[0]
    filled = [left for left, _ in bars]
    empty = [left for left in np.linspace(-4, 0, 33)[:-1] if not np.isclose(left, filled).any()]
    axis.bar(empty, 0, 0.125, align='edge', alpha=0.85, edgecolor='white', linewidth=0.5)
    np.testing.assert_array_equal(pixels(figure), found)
