import numpy as np
import pytest

from mtkd_cd.drawing import error_map, mask_image, outline_map
from mtkd_cd.drawing.error_map import OUTLINE_COLOURS

RED, BLUE, WHITE, BLACK, GRAY = (
    (230, 30, 30),
    (40, 120, 255),
    (255, 255, 255),
    (0, 0, 0),
    (127, 127, 127),
)


@pytest.mark.parametrize(
    ('label', 'prediction', 'colour'),
    [(1, 0, RED), (0, 1, BLUE), (1, 1, WHITE), (0, 0, BLACK), (255, 0, GRAY), (255, 1, GRAY)],
)
@pytest.mark.parametrize('dtype', [np.uint8, np.int64, np.float32])
def test_each_outcome_has_its_colour(label, prediction, colour, dtype):
    picture = error_map(np.full((2, 3), prediction, dtype), np.full((2, 3), label, np.uint8))
    assert picture.shape == (2, 3, 3)
    assert picture.dtype == np.uint8
    assert {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()} == {colour}


def test_pixels_stay_in_their_place():
    label, prediction = np.array([[1, 0], [255, 1]]), np.array([[0, 1], [1, 1]])
    assert error_map(prediction, label).tolist() == [
        [list(RED), list(BLUE)],
        [list(GRAY), list(WHITE)],
    ]


def test_a_mask_is_drawn_black_and_white_with_gray_for_ignored():
    picture = mask_image(np.array([[0, 1, 9]]), ignore_index=9)
    assert picture.tolist() == [[0, 255, 127]]
    assert picture.dtype == np.uint8


def _square(size, start, stop):
    mask = np.zeros((size, size), np.uint8)
    mask[start:stop, start:stop] = 1
    return mask


@pytest.mark.parametrize('zoom', [1, 3])
def test_outlines_of_label_and_prediction_lie_on_both_sides_of_a_common_edge(zoom):
    image = np.full((12, 12, 3), 90, np.uint8)
    picture = outline_map(image, _square(12, 4, 8), _square(12, 4, 8), zoom)
    ring, core = (
        _square(12 * zoom, 4 * zoom - 1, 8 * zoom + 1),
        _square(12 * zoom, 4 * zoom + 1, 8 * zoom - 1),
    )
    square = _square(12 * zoom, 4 * zoom, 8 * zoom)
    label, prediction = OUTLINE_COLOURS.values()
    assert ((picture == label).all(-1) == (ring > square)).all()
    assert ((picture == prediction).all(-1) == (square > core)).all()
    assert (picture[(ring == 0) | (core == 1)] == 90).all()
    assert (image == 90).all()


def test_the_edge_of_the_image_is_no_outline():
    everything = np.ones((8, 8), np.uint8)
    assert (outline_map(np.zeros((8, 8, 3), np.uint8), everything, everything) == 0).all()


def test_ignored_pixels_and_a_missing_label_have_no_outline():
    image, nothing = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    assert (outline_map(image, nothing, 255 * _square(8, 2, 5)) == 0).all()
    assert (outline_map(image, nothing) == 0).all()
