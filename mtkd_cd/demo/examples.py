"""Pairs to try the page with: made-up scenes, since no image may be given away."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mtkd_cd.core.extras import require
from mtkd_cd.data.radiometry import Identity
from mtkd_cd.data.synthetic import make_scene
from mtkd_cd.inference.card import RGB, Card

_SIZE = 256
_SCENES = ((8, 0.2), (11, 0.12), (5, 0.25))  # seed, CAR
_METRES = 1.0  # of a pixel of these scenes
_PLACE = ('EPSG:32632', 691_000.0, 5_335_000.0)


@dataclass(frozen=True)
class Example:
    """A pair of files.

    Attributes:
        title: For the page.
        a: Image of date A.
        b: Of date B.
        thumbnail: Both side by side.
    """

    title: str
    a: Path
    b: Path
    thumbnail: Path


def make_examples(card: Card, folder: Path) -> list[Example]:
    """Write the examples; none for a model that takes other than red, green and blue bytes.

    Args:
        card: Of the model: the first example is a GeoTIFF of its ground sample distance.
        folder: Where to write.
    """
    if set(card.bands) != set(RGB) or not isinstance(card.radiometry, Identity):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    examples = []
    for number, (seed, car) in enumerate(_SCENES, 1):
        scene = make_scene(seed, _SIZE, car)[:2]
        suffix = '.tif' if number == 1 else '.png'
        paths = [folder / f'example{number}_{date}{suffix}' for date in 'AB']
        for path, image in zip(paths, scene):
            if suffix == '.tif':
                _write_geotiff(path, image, card.gsd_m or _METRES)
            else:
                cv2.imwrite(str(path), image[:, :, ::-1])
        thumbnail = folder / f'example{number}.png'
        gap = np.full((_SIZE, 8, 3), 255, np.uint8)
        cv2.imwrite(str(thumbnail), np.concatenate([scene[0], gap, scene[1]], 1)[:, :, ::-1])
        title = 'GeoTIFF' if suffix == '.tif' else 'PNG'
        examples.append(Example(f'{number}: {title}', paths[0], paths[1], thumbnail))
    return examples


def _write_geotiff(path: Path, image: np.ndarray, metres: float) -> None:
    rasterio = require('rasterio', 'geo', 'an example')
    crs, left, top = _PLACE
    height, width, count = image.shape
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        width=width,
        height=height,
        count=count,
        dtype='uint8',
        crs=crs,
        transform=rasterio.transform.from_origin(left, top, metres, metres),
        compress='deflate',
        photometric='RGB',
    ) as file:
        file.write(image.transpose(2, 0, 1))
