"""Reading an image of a pair again, to draw it."""

import os

import cv2
import numpy as np
from mmengine.fileio import get as read_bytes

from mtkd_cd.core.errors import UserError


def read_photo(
    path: str | os.PathLike, shape: tuple[int, int], backend_args: dict | None = None
) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB.

    Args:
        path: The file.
        shape: (H, W) to resize to.
        backend_args: mmengine's file backend; local files by default.

    Raises:
        UserError: The file is missing or no image.
    """
    try:
        content = np.frombuffer(read_bytes(path, backend_args), np.uint8)
        image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None  # BGR
    except OSError as error:
        raise UserError(f'{path}: cannot be read to draw it: {error}') from error
    if image is None:
        raise UserError(f'{path}: cannot be read as an image to draw it')
    image = image[..., ::-1]
    if image.shape[:2] == shape:
        return image
    return cv2.resize(
        image,
        shape[::-1],
        interpolation=cv2.INTER_AREA if image.shape[0] > shape[0] else cv2.INTER_LINEAR,
    )
