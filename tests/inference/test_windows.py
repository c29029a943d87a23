"""Windows and how they are blended."""

import numpy as np
import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.inference.windows import Axis, WindowPrediction, overlap_pixels, stitch


def blended(predict, height, width, window=64, overlap=16, **options):
    """(H, W) probability and valid pixels of all rows; every pixel is given exactly once."""
    probability = np.full((height, width), np.nan, np.float32)
    valid = np.zeros((height, width), bool)
    count = np.zeros((height, width), int)
    rows, cols = Axis(height, window, overlap), Axis(width, window, overlap)
    for part in stitch(rows, cols, predict, **options):
        place = np.s_[
            part.row : part.row + part.valid.shape[0], part.col : part.col + part.valid.shape[1]
        ]
        probability[place], valid[place] = part.probability, part.valid
        count[place] += 1
    assert (count == 1).all()
    return probability, valid


def constant(value):
    def predict(windows):
        return [
            WindowPrediction(
                np.full((w.height, w.width), value, np.float32), np.ones((w.height, w.width), bool)
            )
            for w in windows
        ]

    return predict


@pytest.mark.parametrize('length', [1, 63, 64, 65, 100, 112, 500])
@pytest.mark.parametrize('overlap', [0, 16, 40, 63])
def test_windows_cover_the_side_and_stay_inside(length, overlap):
    axis = Axis(length, 64, overlap)
    covered = np.zeros(length, int)
    for start in axis.starts:
        assert start >= 0
        assert start + axis.size <= length
        covered[start : start + axis.size] += 1
    assert covered.min() >= 1
    assert list(axis.starts) == sorted(set(axis.starts))
    for first, second in zip(axis.starts, axis.starts[1:]):
        assert first + axis.size - second >= overlap


def test_ramp_of_two_windows_is_the_trapezoid():
    axis = Axis(112, 64, 16)
    assert axis.starts == (0, 48)
    ramp = (np.arange(16) + 0.5) / 16
    np.testing.assert_allclose(axis.weights[1][:16], ramp, rtol=1e-6)
    np.testing.assert_allclose(axis.weights[0][48:], ramp[::-1], rtol=1e-6)
    assert (axis.weights[0][:48] == 1).all()
    assert (axis.weights[1][16:] == 1).all()


@pytest.mark.parametrize('overlap', [0, 16, 48])
@pytest.mark.parametrize('size', [(200, 333), (40, 500), (64, 64), (1, 200)])
def test_a_constant_stays_that_constant_everywhere(size, overlap):
    probability, _ = blended(constant(0.9973), *size, overlap=overlap, strip=128)
    assert np.abs(probability - 0.9973).max() < 1e-6


def test_weights_are_never_zero():
    assert Axis(1000, 64, 40).weights.min() > 0


def test_blend_equals_an_independent_weighted_mean():
    rng = np.random.default_rng(0)
    height, width = 150, 170
    values = {}

    def predict(windows):
        for w in windows:
            values.setdefault((w.row, w.col), rng.random((w.height, w.width)).astype(np.float32))
        return [
            WindowPrediction(values[w.row, w.col], np.ones((w.height, w.width), bool))
            for w in windows
        ]

    probability, _ = blended(predict, height, width)
    total, weights = np.zeros((height, width)), np.zeros((height, width))

    def taper(start, length):
        weight = np.ones(64)
        for i in range(16):
            if start > 0:
                weight[i] *= (i + 0.5) / 16
            if start + 64 < length:
                weight[63 - i] *= (i + 0.5) / 16
        return weight

    for (row, col), value in values.items():
        weight = np.outer(taper(row, height), taper(col, width))
        total[row : row + 64, col : col + 64] += weight * value
        weights[row : row + 64, col : col + 64] += weight
    np.testing.assert_allclose(probability, total / weights, atol=1e-6)


@pytest.mark.parametrize('strip', [16, 100, 128, 1000])
@pytest.mark.parametrize('batch_size', [1, 3, 50])
def test_result_depends_on_neither_strips_nor_batches(strip, batch_size):
    def predict(windows):
        return [
            WindowPrediction(
                np.random.default_rng(w.row * 1000 + w.col).random((64, 64)).astype(np.float32),
                np.ones((64, 64), bool),
            )
            for w in windows
        ]

    whole, _ = blended(predict, 200, 300)
    parts, _ = blended(predict, 200, 300, strip=strip, batch_size=batch_size)
    assert (whole == parts).all()


def test_windows_without_valid_pixels_add_nothing():
    def predict(windows):
        return [
            WindowPrediction(None, np.zeros((64, 64), bool))
            if w.col == 0
            else constant(0.5)([w])[0]
            for w in windows
        ]

    probability, valid = blended(predict, 64, 112)
    assert not valid[:, :48].any()
    assert valid[:, 48:].all()
    assert (probability[:, :48] == 0).all()


def test_detector_of_a_pixel_is_that_of_the_heaviest_window():
    def predict(windows):
        return [
            WindowPrediction(
                np.full((64, 64), 0.5, np.float32), np.ones((64, 64), bool), w.col // 48
            )
            for w in windows
        ]

    rows, cols = Axis(64, 64, 16), Axis(112, 64, 16)
    (part,) = stitch(rows, cols, predict, with_detector=True)
    assert (part.detector[:, :56] == 0).all()
    assert (part.detector[:, 56:] == 1).all()


def test_overlap_is_a_fraction_or_pixels():
    assert overlap_pixels(0.25, 512) == 128
    assert overlap_pixels(100, 512) == 100
    for wrong in (-0.1, 64, 100, float('nan'), float('inf')):
        with pytest.raises(UserError, match='overlap='):
            overlap_pixels(wrong, 64)


def test_windows_step_by_an_eighth_of_themselves_or_more():
    for window in (1, 2, 20, 64, 512):
        pixels = overlap_pixels(0.875, window)
        assert window - pixels >= max(1, window // 8)
    assert overlap_pixels(448, 512) == overlap_pixels(0.875, 512) == 448
    for wrong in (0.99, 508):
        with pytest.raises(UserError, match=r'0 to 448 of the window.s 512.*pixel (10486|16384) t'):
            overlap_pixels(wrong, 512)
    with pytest.raises(UserError, match=r'0 to 0 of the window.s 1 pixels, is needed$'):
        overlap_pixels(1, 1)
