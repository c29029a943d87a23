"""Both dates in one raster, for tools that take one image only, such as QGIS Deepness."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.data.radiometry import Rule, from_spec, needs_rule, no_rule_error
from mtkd_cd.inference.card import RGB
from mtkd_cd.inference.outputs import RASTERS, Staged, check_outputs
from mtkd_cd.inference.raster.opening import open_pair
from mtkd_cd.inference.raster.request import PairOptions
from mtkd_cd.inference.windows import BLOCK, Window


def stack_pair(
    a: str | os.PathLike,
    b: str | os.PathLike,
    out: str | os.PathLike,
    *,
    rule: Rule | str = 'identity',
    band_names: Sequence[str] = RGB,
    bands: Sequence[int] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Write the bands of A, then those of B, as uint8 on A's grid.

    Values are brought to 0..255 by the radiometry rule, percentiles taken over both dates, and
    rounded. B is warped as a prediction does it. Pixels that are invalid in either date are 0 in
    all bands, and masked in the file's mask.

    Args:
        a: Date A.
        b: Date B.
        out: The raster, ``.tif``.
        rule: Radiometry.
        band_names: The model's bands, in the order of its ``band_order``.
        bands: Band numbers of the files in that order.
        overwrite: Whether an existing file is replaced.
        options: Further fields of :class:`~mtkd_cd.inference.raster.request.PairOptions`.

    Raises:
        UserError: A file that is missing or no raster, a type that needs a rule, an existing
            output.
    """
    rasterio = require('rasterio', 'geo', 'a raster')
    targets = dict(change=Path(out))
    if Path(out).suffix.lower() not in RASTERS:
        raise UserError(f'{out}: unknown extension; use {", ".join(RASTERS)}')
    check_outputs(targets, [a, b], overwrite)
    rule = from_spec(rule)
    chosen = PairOptions(
        bands=None if bands is None else tuple(bands), band_names=tuple(band_names), **options
    )
    with open_pair(a, b, chosen) as pair, Staged(targets) as staged:
        for note in pair.notes:
            warnings.warn(note, stacklevel=2)
        dates = pair.a, pair.b
        if rule.name == 'identity':
            if any(needs_rule(date.dtype) for date in dates):
                samples = {name: date.sample() for name, date in zip(pair.names, dates)}
                raise no_rule_error('the pair', samples, option="--stretch '{rule}'")
        elif not rule.fitted:
            rule = rule.fit(*(date.sample() for date in dates))
        pair.bring_to_grid(staged.temporary('b'))
        grid, count = pair.grid, len(pair.a.bands)
        place = {} if grid.transform is None else dict(transform=grid.transform)
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                staged.paths['change'],
                'w',
                driver='GTiff',
                width=grid.width,
                height=grid.height,
                count=2 * count,
                dtype='uint8',
                crs=grid.crs,
                tiled=True,
                blockxsize=BLOCK,
                blockysize=BLOCK,
                compress='deflate',
                BIGTIFF='IF_SAFER',
                # Six bands are no picture: without this, the fourth would be its opacity.
                photometric='MINISBLACK',
                alpha='no',
                **place,
            ) as file,
        ):
            for date, name in enumerate('AB'):
                for band, title in enumerate(chosen.band_names or ()):
                    file.set_band_description(1 + date * count + band, f'{name} {title}')
            file.update_tags(MTKD_CD_STRETCH=str(rule), MTKD_CD_INPUTS=' '.join(pair.names))
            for row in range(0, grid.height, BLOCK):
                for col in range(0, grid.width, BLOCK):
                    height, width = min(BLOCK, grid.height - row), min(BLOCK, grid.width - col)
                    found_a, found_b, valid, _ = pair.read(Window(row, col, height, width))
                    values = np.concatenate([rule.apply(found_a), rule.apply(found_b)])
                    levels = np.where(valid, np.rint(values), 0).astype(np.uint8)
                    window = rasterio.windows.Window(col, row, width, height)
                    file.write(levels, window=window)
                    file.write_mask(valid, window=window)
        staged.commit()
    return Path(out)
