"""Reading an image of a pair again, to draw it."""

import io
import os

import cv2
import numpy as np

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.storage import read_bytes
from mtkd_cd.data.images import read_header, read_image, read_stored
from mtkd_cd.data.radiometry import Percentile


def read_photo(
    path: str | os.PathLike, shape: tuple[int, int], backend_args: dict | None = None
) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB.

    Values of more than 8 bits are stretched between two percentiles of this image, and of many
    bands the first three are shown: for the eye only.

    Args:
        path: The file.
        shape: (H, W) to resize to.
        backend_args: mmengine's file backend; local files by default.

    Raises:
        UserError: The file is missing or no image.
    """
    try:
        content = read_bytes(path, backend_args)
    except OSError as error:
        raise UserError(f'{path}: cannot be read to draw it: {error}') from error
    try:
        image = _picture(path, content)  # BGR
    except (UserError, ValueError) as error:
        raise UserError(f'{path}: cannot be read as an image to draw it: {error}') from error
    image = image[..., ::-1]
    if image.shape[:2] == shape:
        return image
    return cv2.resize(
        image,
        shape[::-1],
        interpolation=cv2.INTER_AREA if image.shape[0] > shape[0] else cv2.INTER_LINEAR,
    )


def _picture(path: str | os.PathLike, content: bytes) -> np.ndarray:
    """(H, W, 3) uint8 BGR."""
    try:
        return read_image(path, content=content).pixels
    except UserError:
        bands = (1, 2, 3) if read_header(io.BytesIO(content)).bands > 3 else None
        stored, valid, _ = read_stored(path, bands, content)
        if stored.dtype == np.uint8 and bands:
            return stored
        known = (
            stored
            if valid is None
            else np.ma.array(stored, mask=np.broadcast_to(~valid[..., None], stored.shape))
        )
        levels = np.nan_to_num(Percentile().fit(known, band_axis=-1).apply(stored, band_axis=-1))
        return np.ascontiguousarray(
            levels.repeat(3 // levels.shape[2], axis=2).round().astype(np.uint8)
        )
