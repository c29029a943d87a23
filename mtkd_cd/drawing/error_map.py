"""Masks, their errors and their outlines as pictures."""

import numpy as np

from mtkd_cd.core.car import IGNORE_INDEX

Colour = tuple[int, int, int]

# RGB. The order is that of 2 * label + prediction; the blue is lighter than (0, 0, 255), which is
# hard to see on black.
OUTCOME_COLOURS: dict[str, Colour] = {
    'correct rejection': (0, 0, 0),
    'false alarm': (40, 120, 255),
    'missed': (230, 30, 30),
    'hit': (255, 255, 255),
    'ignored': (127, 127, 127),
}
# Seen on land and on water, and told apart by colour-blind readers: one is light, the other dark.
OUTLINE_COLOURS: dict[str, Colour] = {
    'outline of the label': (255, 225, 0),
    'outline of the prediction': (213, 0, 200),
}
_PALETTE = np.array(list(OUTCOME_COLOURS.values()), np.uint8)


def error_map(
    prediction: np.ndarray, label: np.ndarray, ignore_index: int = IGNORE_INDEX
) -> np.ndarray:
    """Outcome of each pixel as a colour of :data:`OUTCOME_COLOURS`: red = missed, blue = false
    alarm, white = hit.

    Args:
        prediction: (H, W): 0 unchanged, 1 changed.
        label: (H, W): 0, 1 or ``ignore_index``.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    outcome = 2 * (label == 1) + (prediction == 1)
    return _PALETTE[np.where(label == ignore_index, len(_PALETTE) - 1, outcome)]


def mask_image(mask: np.ndarray, ignore_index: int = IGNORE_INDEX) -> np.ndarray:
    """(H, W) uint8: 255 changed, 0 unchanged, 127 ignored; of a mask of 0, 1 and
    ``ignore_index``."""
    return np.where(mask == ignore_index, 127, 255 * (mask == 1)).astype(np.uint8)


def outline_map(
    image: np.ndarray, prediction: np.ndarray, label: np.ndarray | None = None, zoom: int = 1
) -> np.ndarray:
    """The outlines of masks on an image, in the colours of :data:`OUTLINE_COLOURS`.

    The label is outlined from outside, the prediction from inside, so that both show where they
    agree. Edges of the image are no outline.

    Args:
        image: (H, W, 3) uint8 RGB, left as it is.
        prediction: (H, W): 0 unchanged, 1 changed.
        label: (H, W): 0, 1 or another value for ignored pixels; ``None`` for no outline.
        zoom: Whole factor to enlarge everything by first; the outlines stay as thin.

    Returns:
        (zoom H, zoom W, 3) uint8 RGB.
    """
    import cv2  # here, for it takes long to load and nothing else in this file needs it

    picture = image.repeat(zoom, 0).repeat(zoom, 1)
    thickness = max(1, picture.shape[1] // 256)
    square = np.ones((2 * thickness + 1,) * 2, np.uint8)
    for mask, morph, colour in zip(
        (label, prediction), (cv2.dilate, cv2.erode), OUTLINE_COLOURS.values()
    ):
        if mask is not None:
            changed = (mask == 1).astype(np.uint8).repeat(zoom, 0).repeat(zoom, 1)
            picture[morph(changed, square) != changed] = colour
    return picture
