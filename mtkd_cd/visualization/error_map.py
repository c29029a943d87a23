"""Masks and their errors as pictures."""

import numpy as np

Colour = tuple[int, int, int]

# RGB. The order is that of 2 * label + prediction; the blue is lighter than (0, 0, 255), which is hard to see on black.
OUTCOME_COLOURS: dict[str, Colour] = {
    'correct rejection': (0, 0, 0),
    'false alarm': (40, 120, 255),
    'missed': (230, 30, 30),
    'hit': (255, 255, 255),
    'ignored': (127, 127, 127),
}
_PALETTE = np.array(list(OUTCOME_COLOURS.values()), np.uint8)


def error_map(prediction: np.ndarray, label: np.ndarray, ignore_index: int = 255) -> np.ndarray:
    """Outcome of each pixel as a colour of :data:`OUTCOME_COLOURS`: red = missed, blue = false alarm, white = hit.

    Args:
        prediction: (H, W): 0 unchanged, 1 changed.
        label: (H, W): 0, 1 or ``ignore_index``.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    outcome = 2 * (label == 1) + (prediction == 1)
    return _PALETTE[np.where(label == ignore_index, len(_PALETTE) - 1, outcome)]


def mask_image(mask: np.ndarray, ignore_index: int = 255) -> np.ndarray:
    """(H, W) uint8: 255 changed, 0 unchanged, 127 ignored; of a mask of 0, 1 and ``ignore_index``."""
    return np.where(mask == ignore_index, 127, 255 * (mask == 1)).astype(np.uint8)
