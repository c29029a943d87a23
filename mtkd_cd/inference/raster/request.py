"""What is asked of a pair of rasters: how it is read."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class PairOptions:
    """How two rasters become a pair.

    Attributes:
        bands: Band numbers of the files, from 1, in the order of the card's ``band_order``.
        trained_bands: Numbers of the bands that the model learned from, which are read where
            ``bands`` is ``None`` and a file has other bands than red, green and blue.
        band_names: What the model calls these bands.
        mask: Raster on A's grid whose pixels are left out where it is not 0.
        mask_values: Leave out the pixels where it has one of these values instead.
        nodata: Value of invalid pixels in files that declare none.
        bbox: (left, bottom, right, top) in A's CRS. Only that window is predicted.
        aoi: File of polygons; only their bounds are predicted, and nothing outside of them.
        assume_aligned: Whether rasters of equal size lie on one grid, whatever they say.
        resampling: Rule by which B is brought to A's grid; ``None``: bilinear, or average if B is
            more than twice as fine.
        edge_buffer: Valid pixels within that many pixels of an invalid one are left out too.
        offset_a: Added to the values of A.
        offset_b: Added to the values of B.
    """

    bands: tuple[int, ...] | None = None
    trained_bands: tuple[int, ...] | None = None
    band_names: tuple[str, ...] = ('red', 'green', 'blue')
    mask: str | os.PathLike | None = None
    mask_values: tuple[int, ...] | None = None
    nodata: float | None = None
    bbox: tuple[float, float, float, float] | None = None
    aoi: str | os.PathLike | None = None
    assume_aligned: bool = False
    resampling: str | None = None
    edge_buffer: int = 0
    offset_a: float = 0.0
    offset_b: float = 0.0
