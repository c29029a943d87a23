"""The change map and the probability as files: written by rows, read back, made cloud-optimised."""

import contextlib
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mtkd_cd.core.extras import require
from mtkd_cd.inference.grid import Grid, reading
from mtkd_cd.inference.windows import BLOCK, NO_DETECTOR, Rows

NODATA = 255
# Of a probability in the written bytes.
PROBABILITY_STEP = 1 / 250
_COLUMNS = 2048  # that are rounded at a time


class MapWriter:
    """The change map and the probability, written by rows as they are finished.

    Args:
        grid: Grid of both.
        change: File of the change map: 0, 1, and 255 where nothing is known.
        probability: File of the probability.
        probability_dtype: ``'uint8'``, in steps of 1/250, 255 where nothing is known; or
            ``'float32'`` with NaN there.
        threshold: A pixel has changed if its probability is above it.
        detectors: Names of the detectors, for a second band of the change map that numbers the one
            that predicted each pixel.
        traced: The change map once more, as a GeoTIFF, beside one that is a PNG; else ``change``
            itself.
    """

    def __init__(
        self,
        grid: Grid,
        change: Path | None,
        probability: Path | None,
        probability_dtype: str,
        threshold: float,
        detectors: Sequence[str] | None = None,
        traced: Path | None = None,
    ) -> None:
        self.grid = grid
        self.threshold = threshold
        self.changed_by_row = np.zeros(grid.height, np.int64)
        self.valid_pixels = 0
        self.probability_dtype = probability_dtype
        self.detectors = detectors
        self._buffers: dict[str, np.ndarray] = {}
        self._row = self._col = self._filled = 0
        self._stack = ExitStack()
        self._picture: tuple[Path, np.ndarray] | None = None
        self._text: dict[str, str] = {}
        self._files: dict[str, Any] = {}
        try:
            if change is not None and change.suffix.lower() == '.png':
                self._picture = change, np.zeros((grid.height, grid.width), np.uint8)
                change = None if traced == change else traced
            if change is not None:
                self._files['change'] = self._create(change, 'uint8', NODATA, 2 if detectors else 1)
            if probability is not None:
                nodata = NODATA if probability_dtype == 'uint8' else math.nan
                file = self._create(probability, probability_dtype, nodata, 1)
                if probability_dtype == 'uint8':
                    file.scales = (PROBABILITY_STEP,)
                file.set_band_description(1, 'probability of change')
                self._files['probability'] = file
            if 'change' in self._files:
                self._files['change'].set_band_description(1, 'change')
                if detectors:
                    self._files['change'].set_band_description(2, 'detector')
        except BaseException:
            self._stack.close()
            raise

    def _create(self, path: Path, dtype: str, nodata: float, count: int) -> Any:
        rasterio = require('rasterio', 'geo', 'writing a raster')
        place = {} if self.grid.transform is None else dict(transform=self.grid.transform)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
            return self._stack.enter_context(
                rasterio.open(
                    path,
                    'w',
                    driver='GTiff',
                    width=self.grid.width,
                    height=self.grid.height,
                    count=count,
                    dtype=dtype,
                    nodata=nodata,
                    crs=self.grid.crs,
                    tiled=True,
                    blockxsize=BLOCK,
                    blockysize=BLOCK,
                    compress='deflate',
                    interleave='band',
                    BIGTIFF='IF_SAFER',
                    **place,
                )
            )

    def write(self, rows: Rows) -> None:
        """Take finished rows; they are written when a row of blocks is complete."""
        height, width = rows.valid.shape
        if rows.col != self._col:
            self._col, self._row, self._filled = rows.col, 0, 0
        done = 0
        while done < height:
            count = min(BLOCK - self._filled, height - done)
            for left in range(0, width, _COLUMNS):
                self._take(rows, slice(done, done + count), slice(left, left + _COLUMNS))
            self._filled += count
            done += count
            if self._filled == BLOCK or self._row + self._filled == self.grid.height:
                self._flush(width)

    def _take(self, rows: Rows, part: slice, columns: slice) -> None:
        """Put some pixels into the buffers, few enough for temporaries to be small."""
        probability, valid = rows.probability[part, columns], rows.valid[part, columns]
        changed = (probability > self.threshold) & valid
        top = rows.row + part.start
        self.valid_pixels += int(valid.sum())
        self.changed_by_row[top : top + len(changed)] += changed.sum(1)
        if self._picture is not None:
            left = rows.col + columns.start
            place = np.s_[top : top + len(changed), left : left + changed.shape[1]]
            self._picture[1][place] = changed * np.uint8(255)
        bands = {}
        if 'change' in self._files:
            bands['change'] = [np.where(valid, changed, NODATA)]
            if rows.detector is not None:
                bands['change'].append(np.where(valid, rows.detector[part, columns], NO_DETECTOR))
        if 'probability' in self._files:
            bands['probability'] = [self._stored(probability, valid)]
        for key, arrays in bands.items():
            for band, array in enumerate(arrays):
                buffer = self._buffer(key, len(arrays), rows.valid.shape[1])
                buffer[band, self._filled : self._filled + len(array), columns] = array

    def _buffer(self, key: str, bands: int, width: int) -> np.ndarray:
        found = self._buffers.get(key)
        if found is None or found.shape != (bands, BLOCK, width):
            dtype = self._files[key].dtypes[0]
            found = self._buffers[key] = np.empty((bands, BLOCK, width), dtype)
        return found

    def _flush(self, width: int) -> None:
        if self._files:
            windows = require('rasterio.windows', 'geo', 'writing a raster')
            window = windows.Window(self._col, self._row, width, self._filled)
            for key, file in self._files.items():
                file.write(self._buffers[key][:, : self._filled], window=window)
        self._row += self._filled
        self._filled = 0

    def _stored(self, probability: np.ndarray, valid: np.ndarray) -> np.ndarray:
        if self.probability_dtype != 'uint8':
            return np.where(valid, probability, np.float32(math.nan))
        steps = np.clip(np.rint(probability / np.float32(PROBABILITY_STEP)), 0, 250)
        return np.where(valid, steps, NODATA)

    def tag(self, tags: Mapping[str, Any]) -> None:
        """Write what is known of the run into every file."""
        text = {
            f'MTKD_CD_{key.upper()}': value if isinstance(value, str) else json.dumps(value)
            for key, value in tags.items()
            if value is not None
        }
        self._text = text
        for file in self._files.values():
            file.update_tags(**text)

    @property
    def changed_pixels(self) -> int:
        """How many of the pixels so far have changed."""
        return int(self.changed_by_row.sum())

    @property
    def car(self) -> float:
        """Changed share of the valid pixels so far, of which there must be one."""
        return self.changed_pixels / self.valid_pixels

    def close(self) -> None:
        """Finish the files."""
        self._stack.close()
        if self._picture is not None:
            path, array = self._picture
            info = PngInfo()
            for key, value in self._text.items():
                info.add_text(key, value)
            Image.fromarray(array).save(path, pnginfo=info)

    def abandon(self) -> None:
        """Close the files as they are, unfinished."""
        with contextlib.suppress(Exception):
            self._stack.close()


def read_map(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8 of 0 and 1, and the (H, W) pixels that are known, of a written change map."""
    if path.suffix.lower() == '.png':
        change = np.asarray(Image.open(path)) > 0
        return change.astype(np.uint8), np.ones(change.shape, bool)
    values = _first_band(path)
    return (values == 1).astype(np.uint8), values != NODATA


def read_probability(path: Path) -> np.ndarray:
    """(H, W) float32 of a written probability, NaN where it is not known."""
    values = _first_band(path)
    if values.dtype != np.uint8:
        return values
    scaled = values.astype(np.float32) * np.float32(PROBABILITY_STEP)
    return np.where(values == NODATA, np.float32(math.nan), scaled)


def _first_band(path: Path) -> np.ndarray:
    rasterio = require('rasterio', 'geo', 'a raster')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as file, reading(file):
            return file.read(1)


def to_cog(path: Path, resampling: str) -> None:
    """Make a tiled GeoTIFF a cloud-optimised one with overviews, in its place."""
    shutil_ = require('rasterio.shutil', 'geo', 'writing a raster')
    copy = path.with_name(f'{path.stem}.cog{path.suffix}')
    try:
        shutil_.copy(
            path,
            copy,
            driver='COG',
            compress='deflate',
            blocksize=BLOCK,
            overview_resampling=resampling,
            overviews='IGNORE_EXISTING',
            bigtiff='IF_SAFER',
        )
        os.replace(copy, path)
    finally:
        copy.unlink(missing_ok=True)
