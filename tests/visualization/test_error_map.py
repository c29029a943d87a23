import numpy as np
import pytest

from mtkd_cd.visualization import error_map, mask_image

RED, BLUE, WHITE, BLACK, GRAY = (230, 30, 30), (40, 120, 255), (255, 255, 255), (0, 0, 0), (127, 127, 127)


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
    assert error_map(prediction, label).tolist() == [[list(RED), list(BLUE)], [list(GRAY), list(WHITE)]]


def test_a_mask_is_drawn_black_and_white_with_gray_for_ignored():
    picture = mask_image(np.array([[0, 1, 9]]), ignore_index=9)
    assert picture.tolist() == [[0, 255, 127]]
    assert picture.dtype == np.uint8
