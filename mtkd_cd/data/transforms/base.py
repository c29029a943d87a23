"""What the transforms of image pairs share: ``results['img']`` is the list of both dates,
``results['seg_fields']`` names the labels."""

from collections.abc import Callable

import numpy as np
from mmcv.transforms import BaseTransform

from mtkd_cd.core.errors import UserError

ArrayFunction = Callable[[np.ndarray], np.ndarray]

PADDINGS = ('padded', 'label_padded')  # what `MultiImgPad` notes: of the images, of the labels


class MultiImgTransform(BaseTransform):
    """Base of the transforms; shows its settings when printed."""

    def __repr__(self) -> str:
        settings = ', '.join(
            f'{key}={value!r}' for key, value in vars(self).items() if not key.startswith('_')
        )
        return f'{type(self).__name__}({settings})'


def map_images(results: dict, function: ArrayFunction) -> None:
    """Replace each date's image by ``function(image)`` and keep ``img_shape``, (h, w), true."""
    results['img'] = [function(image) for image in results['img']]
    results['img_shape'] = results['img'][0].shape[:2]


def map_labels(results: dict, function: ArrayFunction) -> None:
    """Replace each label that is there by ``function(label)``."""
    for key in results.get('seg_fields', ()):
        results[key] = function(results[key])


def map_all(results: dict, function: ArrayFunction) -> None:
    """Apply one function to both dates and the labels."""
    map_images(results, function)
    map_labels(results, function)


def check_probability(name: str, value: float) -> float:
    """Return ``value`` if it is a number in [0, 1].

    Raises:
        UserError: It is not; names the argument.
    """
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise UserError(f'{name}={value!r}: a probability, a number between 0 and 1, is needed')
    return value


def to_pair(name: str, value: object) -> tuple:
    """(value, value) for a number, the tuple of a sequence of two.

    Raises:
        UserError: It is neither; names the argument.
    """
    if isinstance(value, (int, float, np.number)):
        return value, value
    if (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(item, (int, float, np.number)) for item in value)
    ):
        return tuple(value)
    raise UserError(f'{name}={value!r}: a number or two of them are needed')
