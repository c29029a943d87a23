"""One run over a pair of rasters, from its plan to the written files and the result."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.core.precision import as_record
from mtkd_cd.inference.grid import Grid, Warp, pixel_ratio
from mtkd_cd.inference.map_files import MapWriter, to_cog
from mtkd_cd.inference.outputs import Staged
from mtkd_cd.inference.probabilities import RoutedModel
from mtkd_cd.inference.raster.pair import RasterPair
from mtkd_cd.inference.raster.plan import RasterPlan
from mtkd_cd.inference.raster.request import OutputOptions
from mtkd_cd.inference.raster.rows import Progress, WindowedPair
from mtkd_cd.inference.results import RasterResult
from mtkd_cd.inference.vector import write_polygons
from mtkd_cd.inference.windows import BLOCK, STRIP, Rows, Window
from mtkd_cd.version import __version__


@dataclass
class RasterRun:
    """One run.

    Attributes:
        routed: The model on its device.
        pair: Both dates.
        plan: What is done.
        outputs: What is written.
        progress: Called with (done, all) pixels.
        served: How many windows each detector has served.
    """

    routed: RoutedModel
    pair: RasterPair
    plan: RasterPlan
    outputs: OutputOptions
    progress: Progress | None = None
    served: dict[str, int] = field(default_factory=dict)

    def result(self) -> RasterResult:
        """Predict the pair and write what is asked for, all of it or nothing.

        Raises:
            UserError: No pixel is valid in both dates.
        """
        targets, asks_polygons = self.outputs.targets, 'vector' in self.outputs.targets
        with Staged(targets) as staged:
            self.pair.bring_to_grid(staged.temporary('b'))
            probability = staged.paths.get('probability')
            if asks_polygons and probability is None:
                probability = staged.temporary('probability')
            traced = staged.paths['change']
            if asks_polygons and traced.suffix.lower() == '.png':
                traced = staged.temporary('traced')  # a PNG has no place on the ground
            writer = self._write_maps(staged, probability, traced)
            if self.outputs.cog and targets['change'].suffix.lower() != '.png':
                to_cog(staged.paths['change'], 'mode')
            if self.outputs.cog and 'probability' in targets:
                to_cog(staged.paths['probability'], 'average')
            if asks_polygons:
                date_a, date_b = self.outputs.dates_or(self.pair.dates)
                write_polygons(
                    traced,
                    probability,
                    staged.paths['vector'],
                    detector=self.routed.card.name,
                    date_a=date_a,
                    date_b=date_b,
                    **self.outputs.shaping,
                )
            staged.commit()
        return self._result(writer)

    def _write_maps(self, staged: Staged, probability: Path | None, traced: Path) -> MapWriter:
        plan, pair = self.plan, self.pair
        writer = MapWriter(
            pair.grid,
            staged.paths['change'],
            probability,
            self.outputs.probability_dtype if 'probability' in self.outputs.targets else 'uint8',
            plan.threshold,
            self.routed.model.names if plan.options.detector_band else None,
            traced,
        )
        try:
            for rows in self._rows(staged):
                writer.write(rows)
            if not writer.valid_pixels:
                raise UserError(
                    f'no pixel is valid in both {pair.names[0]} and {pair.names[1]}'
                    + (' outside of the mask' if pair.mask is not None else '')
                    + ': check their nodata values with gdalinfo'
                )
            writer.tag({**self._tags(writer.car), **self.outputs.tags})
        except BaseException:
            writer.abandon()
            raise
        writer.close()
        return writer

    def _result(self, writer: MapWriter) -> RasterResult:
        targets, report = self.outputs.targets, self.plan.report
        areas = self.pair.grid.pixel_areas()
        report.update(
            detectors=dict(self.served),
            car=writer.car,
            changed_pixels=writer.changed_pixels,
            valid_pixels=writer.valid_pixels,
        )
        return RasterResult(
            targets['change'],
            targets.get('probability'),
            targets.get('vector'),
            report,
            car=writer.car,
            area_m2=None if areas is None else float((writer.changed_by_row * areas).sum()),
            changed_pixels=writer.changed_pixels,
            valid_pixels=writer.valid_pixels,
            range=self.routed.range_of(writer.car),
            detectors=tuple(self.served),
        )

    def _rows(self, staged: Staged) -> Iterator[Rows]:
        """Finished rows on the pair's grid, whatever resolution is predicted at."""
        if not self.plan.is_resampled:
            yield from self._predicted(self.pair)
            return
        first = staged.targets['change']
        working = self.pair.resampled(
            self.plan.factors, first.parent, f'.{first.stem}.{os.getpid()}'
        )
        path = staged.temporary('working')
        writer = MapWriter(working.grid, None, path, 'float32', self.plan.threshold)
        try:
            for rows in self._predicted(working):
                # Interpolation must not meet holes: what is not known is left out on A's grid.
                rows.valid[:] = True
                writer.write(rows)
        except BaseException:
            writer.abandon()
            raise
        writer.close()
        yield from _returned(path, self.pair)

    def _predicted(self, pair: RasterPair) -> Iterator[Rows]:
        return WindowedPair(self.routed, pair, self.plan, self.served, self.progress).rows()

    def _tags(self, car: float) -> dict[str, Any]:
        plan, pair = self.plan, self.pair
        model, card, report = self.routed.model, self.routed.card, plan.report
        shift = report['shift']
        return dict(
            version=__version__,
            model=card.name,
            bundle_sha256=card.sha256,
            precision=as_record(model.precision),
            input_a=pair.names[0],
            input_b=pair.names[1],
            threshold=plan.threshold,
            window=plan.window,
            overlap=plan.overlap,
            stretch=plan.rule.describe(),
            shift=None if shift is None else [shift['right'], shift['down']],
            coregistered=report['coregistered'],
            gsd=report['gsd'],
            car=car,
            detectors=list(model.names) if self.routed.is_cascade else None,
            served=list(self.served) if self.routed.is_cascade else None,
        )


def _returned(path: Path, pair: RasterPair) -> Iterator[Rows]:
    """The probability that was predicted at another resolution, on the pair's grid."""
    rasterio = require('rasterio', 'geo', 'a raster')
    grid = pair.grid
    with rasterio.open(path) as source:
        ratio = pixel_ratio(Grid.of(source), grid)
        rule = 'average' if max(ratio) < 0.5 else 'bilinear'
        warp = Warp(grid, rule, ratio, float('nan'))
        with warp.open(source) as warped:
            for left in range(0, grid.width, STRIP):
                width = min(STRIP, grid.width - left)
                for top in range(0, grid.height, BLOCK):
                    window = Window(top, left, min(BLOCK, grid.height - top), width)
                    place = rasterio.windows.Window(left, top, width, window.height)
                    probability = warped.read(1, window=place)
                    kept = pair.read(window)[3]
                    yield Rows(top, left, np.nan_to_num(probability), kept, None)
