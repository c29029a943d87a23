"""The plan of a run over a pair of rasters: what is checked before anything is predicted, and the
report of what will be done."""

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.radiometry import Identity, Rule, from_spec, needs_rule, no_rule_error
from mtkd_cd.inference.card import Card, check_threshold
from mtkd_cd.inference.grid import Grid, Shift
from mtkd_cd.inference.outputs import RASTERS
from mtkd_cd.inference.probabilities import RoutedModel
from mtkd_cd.inference.raster.files import order_notes
from mtkd_cd.inference.raster.pair import RasterPair
from mtkd_cd.inference.raster.request import OutputOptions, RunOptions
from mtkd_cd.inference.vector import check_polygons
from mtkd_cd.inference.windows import STRIP, Axis, overlap_pixels

_LARGE_SHIFT = 2.0
_GSD_RANGE = (0.67, 1.5)
_AS_IS = (1.0, 1.0)


@dataclass(frozen=True)
class RasterPlan:
    """What a run will do.

    Attributes:
        options: What was asked for.
        rule: Radiometry of both dates, fitted.
        threshold: A pixel has changed if its probability is above it.
        window: Side of the windows in pixels.
        overlap: Pixels that neighbouring windows share at least.
        factors: By how much the grid is made finer for the model, across and down.
        report: What is told of it, as JSON values.
    """

    options: RunOptions
    rule: Rule
    threshold: float
    window: int
    overlap: int
    factors: tuple[float, float]
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def is_resampled(self) -> bool:
        """Whether another resolution than that of the rasters is predicted at."""
        return self.factors != _AS_IS

    def axes(self, grid: Grid) -> tuple[Axis, Axis]:
        """The windows down a grid, and those across it."""
        return (
            Axis(grid.height, self.window, self.overlap),
            Axis(grid.width, self.window, self.overlap),
        )


def plan_run(
    routed: RoutedModel, pair: RasterPair, options: RunOptions, outputs: OutputOptions
) -> RasterPlan:
    """Check what is asked of an opened pair, and settle what will be done with it.

    A shift between the dates that is to be taken out is handed to the pair.

    Raises:
        UserError: What is wrong with the rasters or the options, and what to do.
    """
    card = routed.card
    notes = _checked(routed, pair, options, outputs)
    size = card.training_size if options.window is None else options.window
    if not isinstance(size, int) or size < 1:
        raise UserError(f'window={size!r}: a whole number from 1 up is needed')
    if routed.is_cascade and size != card.training_size:
        notes.append(
            f'window={size}: the cascade picks its detector by the CAR of a window, and its '
            f'thresholds hold for windows of {card.training_size} pixels'
        )
    check_threshold(options.threshold)
    factors, gsd = _resolution(pair.grid, card, options.gsd)
    shift = pair.shift()
    notes += _registration_notes(pair, shift, options.coregister)
    moved = False
    if options.coregister and shift is not None and shift.is_reliable:
        pair.coregister(shift, options.resampling)
        moved = True
    rule = _radiometry(pair, card, options.stretch)
    if _differ_in_type(pair):
        notes.append(
            f'{pair.names[0]} holds {pair.a.dtype} and {pair.names[1]} {pair.b.dtype}, but '
            f'{rule} is for both: are their values on one scale?'
        )
    plan = RasterPlan(
        options,
        rule,
        threshold=card.threshold if options.threshold is None else options.threshold,
        window=size,
        overlap=overlap_pixels(options.overlap, size),
        factors=factors,
    )
    rows, cols = plan.axes(pair.grid.scaled(*factors) if plan.is_resampled else pair.grid)
    plan.report.update(
        a=pair.names[0],
        b=pair.names[1],
        model=card.name,
        device=str(routed.device),
        precision=routed.model.precision,
        grid=_grid_report(pair),
        windows=dict(
            size=[rows.size, cols.size],
            overlap=plan.overlap,
            count=len(rows.starts) * len(cols.starts),
        ),
        gsd=gsd,
        stretch=dict(rule.describe(), text=str(rule)),
        shift=None
        if shift is None
        else dict(dataclasses.asdict(shift), reliable=shift.is_reliable),
        coregistered=moved,
        threshold=plan.threshold,
        warnings=notes,
        memory_bytes=_buffer_bytes(rows, cols, len(card.bands)),
    )
    if options.detector_band and plan.is_resampled:
        raise UserError(
            '--detector-band: detectors are known at the resolution that is predicted at; use '
            '--gsd keep'
        )
    plan.report['disk_bytes'] = _bytes_needed(pair, plan, outputs)
    return plan


def _checked(
    routed: RoutedModel, pair: RasterPair, options: RunOptions, outputs: OutputOptions
) -> list[str]:
    """What is to be said of the files, after a check that model, files and options go together."""
    targets, (a, b) = outputs.targets, pair.names
    notes = list(pair.notes)
    if 'vector' in targets:
        notes += check_polygons(targets['vector'], pair.grid.crs, a, **outputs.shaping)
    for option, given in (
        ('--detector-band', options.detector_band),
        ('--route raster', options.route == 'raster'),
    ):
        if given and not routed.is_cascade:
            raise UserError(f'{option}: only a cascade has several detectors')
    out = targets['change']
    if outputs.cog and not any(path.suffix.lower() in RASTERS for path in targets.values()):
        raise UserError(f'--cog: {out} is no GeoTIFF: write a .tif, or leave it out')
    if options.detector_band and out.suffix.lower() == '.png':
        raise UserError(f'--detector-band: {out} holds one band: write a .tif')
    notes += order_notes(pair.names, outputs.dates_or(pair.dates))
    if os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b):
        notes.append(f'both dates are one file, {a}: nothing can have changed')
    return notes


def _resolution(
    grid: Grid, card: Card, gsd: str | None
) -> tuple[tuple[float, float], dict[str, Any]]:
    """By how much the grid is made finer for the model, across and down, and what to report."""
    metres = grid.gsd()
    report = dict(
        metres=None if metres is None else list(metres), model=card.gsd_m, resampled=False
    )
    if gsd == 'model' and (metres is None or card.gsd_m is None):
        raise UserError(
            "--gsd model: the model's ground sample distance is not known"
            if card.gsd_m is None
            else '--gsd model: the rasters have no CRS that lies on the earth, so that their '
            'pixels have no size'
        )
    if metres is None or card.gsd_m is None:
        return _AS_IS, report
    across, down = (side / card.gsd_m for side in metres)
    if gsd == 'model' and (across, down) != _AS_IS:
        return (across, down), dict(report, resampled=True)
    if gsd is None and not all(_GSD_RANGE[0] <= side <= _GSD_RANGE[1] for side in (across, down)):
        found = ' x '.join(dict.fromkeys(f'{side:.3g}' for side in metres))
        raise UserError(
            f'the ground sample distance is {found} m, but the model was trained at '
            f'{card.gsd_m:.3g} m: resample to the latter, predict and return with --gsd model, or '
            'predict as it is with --gsd keep'
        )
    return _AS_IS, report


def _registration_notes(pair: RasterPair, shift: Shift | None, coregister: bool) -> list[str]:
    """What is to be said of the shift between the dates."""
    if coregister and isinstance(pair.b.dataset, np.ndarray):
        raise UserError('--coregister: pictures cannot be moved; give rasters')
    if shift is None:
        found = 'no window shows a shift'
    elif shift.is_reliable:
        if coregister or shift.pixels <= _LARGE_SHIFT:
            return []
        return [
            f"date B's content lies {shift.right:+.1f} pixels to the right and {shift.down:+.1f} "
            f"below date A's (phase correlation, {shift.agreeing} of {shift.windows} windows "
            'agree): --coregister takes that out'
        ]
    else:
        found = f'only {shift.agreeing} of {shift.windows} windows agree on a shift'
    return [f'--coregister: {found}; date B stays where it is'] if coregister else []


def _radiometry(pair: RasterPair, card: Card, stretch: str | Mapping | Rule | None) -> Rule:
    """The rule for both dates, its percentiles taken of both."""
    rule = from_spec(stretch) if stretch is not None else card.radiometry
    dates = (pair.a, pair.b)
    if isinstance(rule, Identity):
        if any(needs_rule(date.dtype) for date in dates):
            samples = {name: date.sample() for name, date in zip(pair.names, dates)}
            error = no_rule_error('the pair', samples, option="--stretch '{rule}'")
            if _differ_in_type(pair):
                raise UserError(
                    f'{error}. A rule is for both dates: bring them to one type and scale first, '
                    'for instance with gdal_translate -ot -scale'
                )
            raise error
        return rule
    if rule.fitted:
        return rule
    return rule.fit(*(date.sample() for date in dates))


def _differ_in_type(pair: RasterPair) -> bool:
    """Whether the dates hold values that hardly have one scale: bytes and longer integers, or
    integers and fractions. Offsets speak for themselves."""
    kinds = [(date.dtype.kind == 'f', date.dtype.itemsize == 1) for date in (pair.a, pair.b)]
    return kinds[0] != kinds[1] and not (pair.a.offset or pair.b.offset)


def _grid_report(pair: RasterPair) -> dict[str, Any]:
    grid = pair.grid
    return dict(
        crs=None if grid.crs is None else str(grid.crs),
        transform=list(grid.transform)[:6] if grid.transform is not None else None,
        width=grid.width,
        height=grid.height,
        b_warped=pair.warp is not None,
        resampling=None if pair.warp is None else pair.warp.resampling,
    )


def _bytes_needed(pair: RasterPair, plan: RasterPlan, outputs: OutputOptions) -> int:
    """On the disk, at most: maps compress, the warped date does not."""
    pixels = pair.grid.width * pair.grid.height
    needed = pixels // 4
    if 'probability' in outputs.targets or 'vector' in outputs.targets:
        needed += pixels * (4 if outputs.probability_dtype == 'float32' else 1)
    values = len(pair.b.bands) * pair.b.dtype.itemsize
    if pair.warp is not None:
        needed += pixels * (values + 1)
    if plan.is_resampled:
        needed += int(pixels * math.prod(plan.factors) * (2 * values + 4))
    return needed + 2**20


def _buffer_bytes(rows: Axis, cols: Axis, bands: int) -> int:
    """Of the rows that are held, without the network."""
    return rows.size * min(cols.length, STRIP) * 5 + rows.size * cols.size * bands * 2 * 4
