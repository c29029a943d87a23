"""Predict changes between two rasters or pictures of one place: a change map on date A's grid and,
as asked, probabilities and polygons. With --pairs, of many places."""

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mtkd_cd.cli.common import (
    add_config_options,
    add_device_argument,
    add_precision_argument,
    add_weights_argument,
    at_least,
)
from mtkd_cd.cli.predict_pairs import (
    add_pairs_arguments,
    predict_pairs,
    refuse_pairs_arguments,
)
from mtkd_cd.core.allocator import pass_over_imports
from mtkd_cd.core.errors import UserError
from mtkd_cd.inference.grid import RESAMPLING
from mtkd_cd.inference.windows import MAX_OVERLAP

if TYPE_CHECKING:
    from mtkd_cd.inference.results import RasterResult


def main(argv: Sequence[str] | None = None) -> int:
    """Predict a pair, or with ``--pairs`` many; 1 if some of them failed."""
    args = _parser().parse_args(argv)
    if args.trust_checkpoint and not args.weights and not args.model.endswith('.py'):
        raise UserError(
            '--trust-checkpoint is about --weights and the files of a config; neither is given'
        )
    _refuse_without_effect(args)
    if args.pairs:
        return predict_pairs(args, raster_options(args), plan_lines)
    refuse_pairs_arguments(args)
    if args.b is None:
        raise UserError('two rasters are needed, date A and date B; or --pairs for many')

    from mtkd_cd.inference.inferencer import ChangeInferencer

    inferencer = ChangeInferencer(
        args.model,
        args.weights,
        device=args.device,
        backend=args.backend,
        trusted=args.trust_checkpoint,
        cfg_options=args.cfg_options or None,
        precision=args.precision,
    )
    pass_over_imports()
    with warnings.catch_warnings():
        # They are printed from the report.
        warnings.simplefilter('ignore', UserWarning)
        result = inferencer.predict_raster(
            args.a,
            args.b,
            args.out,
            progress=_Progress() if sys.stderr.isatty() and not args.dry_run else None,
            **raster_options(args),
        )
    for note in result.report['warnings']:
        print(f'warning: {note}', file=sys.stderr)
    print('\n'.join(plan_lines(result.report) if args.dry_run else _result_lines(result)))
    return 0


def _refuse_without_effect(args: argparse.Namespace) -> None:
    for names, other in (
        (('min_area', 'simplify', 'fill_holes'), 'vector'),
        (('mask_values',), 'mask'),
    ):
        for name in names:
            given = getattr(args, name) is not None and getattr(args, other) is None
            # A list of pairs may name masks.
            if given and not (args.pairs and other == 'mask'):
                option = f'--{name.replace("_", "-")}'
                raise UserError(f'{option} is about --{other}, which is not given')
    if args.prob_dtype != 'uint8' and args.probability is None:
        raise UserError('--prob-dtype is about --probability, which is not given')


def raster_options(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :meth:`~mtkd_cd.inference.inferencer.ChangeInferencer.predict_raster`, besides
    the files."""
    return dict(
        probability=args.probability,
        vector=args.vector,
        mask=args.mask,
        mask_values=args.mask_values,
        overwrite=args.overwrite,
        threshold=args.threshold,
        window=args.window,
        overlap=args.overlap,
        bands=args.bands,
        stretch=args.stretch,
        gsd=args.gsd,
        coregister=args.coregister,
        bbox=args.bbox,
        aoi=args.aoi,
        min_area=args.min_area,
        simplify=args.simplify,
        fill_holes=args.fill_holes,
        batch_size=args.batch_size,
        cog=args.cog,
        dry_run=args.dry_run,
        probability_dtype=args.prob_dtype,
        nodata=args.nodata,
        offset_a=args.offset_a,
        offset_b=args.offset_b,
        edge_buffer=args.edge_buffer,
        resampling=args.resampling,
        assume_aligned=args.assume_aligned,
        route=args.route,
        detector_band=args.detector_band,
        date_a=args.date_a,
        date_b=args.date_b,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('a', nargs='?', help='date A: what GDAL reads, or a picture')
    parser.add_argument('b', nargs='?', help='date B; on another grid it is warped once')
    parser.add_argument(
        '-m',
        '--model',
        required=True,
        help='a bundle, an exported file, the folder of an exported cascade, or a config (then '
        '--weights too)',
    )
    parser.add_argument(
        '-o',
        '--out',
        required=True,
        help='the change map to write, .tif or .png; with --pairs a folder',
    )
    add_weights_argument(parser)
    add_config_options(parser)
    add_raster_arguments(parser)
    add_pairs_arguments(parser)
    parser.add_argument('--backend', choices=['torch', 'onnx', 'openvino'], default='torch')
    add_device_argument(parser)
    add_precision_argument(parser)
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load weights that hold pickled objects: they can run code',
    )
    return parser


def add_raster_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`raster_options` reads."""
    files = parser.add_argument_group('files')
    files.add_argument('--probability', metavar='P.tif', help='write the probability of change')
    files.add_argument(
        '--prob-dtype',
        choices=['uint8', 'float32'],
        default='uint8',
        help='uint8: steps of 1/250, 255 is nodata; float32: NaN is',
    )
    files.add_argument('--vector', metavar='V.gpkg', help='write polygons, also .fgb, .geojson')
    files.add_argument('--min-area', type=float, metavar='M2', help='smallest polygon')
    files.add_argument('--simplify', type=float, metavar='M', help="tolerance of polygons' lines")
    files.add_argument('--fill-holes', type=float, metavar='M2', help='largest hole to fill')
    files.add_argument('--date-a', help="date of A for the polygons; default: the file's tag")
    files.add_argument('--date-b', help='date of B, likewise')
    files.add_argument('--cog', action='store_true', help='cloud-optimised, with overviews')
    files.add_argument('--overwrite', action='store_true', help='replace existing outputs')
    files.add_argument(
        '--dry-run', action='store_true', help='report what would be done, and predict nothing'
    )
    place = parser.add_argument_group('which pixels')
    place.add_argument('--mask', help="raster on A's grid; pixels that are not 0 are left out")
    place.add_argument(
        '--mask-values', type=_integers, metavar='3,8,9', help='leave out these values instead'
    )
    place.add_argument('--nodata', type=float, help='invalid value, for files that declare none')
    place.add_argument(
        '--edge-buffer',
        type=at_least(0),
        default=0,
        metavar='N',
        help='leave out N pixels round invalid ones',
    )
    place.add_argument(
        '--bbox',
        type=float,
        nargs=4,
        metavar=('LEFT', 'BOTTOM', 'RIGHT', 'TOP'),
        help="predict only its pixels; in A's CRS",
    )
    place.add_argument('--aoi', metavar='F.gpkg', help='predict only the pixels in its polygons')
    values = parser.add_argument_group('values and grids')
    values.add_argument(
        '--bands', type=_integers, metavar='3,2,1', help='which bands are red, green, blue'
    )
    values.add_argument(
        '--stretch',
        metavar='RULE',
        help="how values become 0..255: 'linear(low=0, high=3000)', 'percentile(2, 98)'",
    )
    values.add_argument('--offset-a', type=float, default=0.0, help='added to the values of A')
    values.add_argument('--offset-b', type=float, default=0.0, help='added to the values of B')
    values.add_argument(
        '--gsd',
        choices=['keep', 'model'],
        help="predict at the rasters' ground sample distance, or at the model's",
    )
    values.add_argument(
        '--coregister', action='store_true', help='take out the shift between the dates'
    )
    values.add_argument('--resampling', choices=RESAMPLING, help="how B is brought to A's grid")
    values.add_argument(
        '--assume-aligned', action='store_true', help='take equal pixels as equal places'
    )
    work = parser.add_argument_group('prediction')
    work.add_argument('--window', type=at_least(1), help="pixels; default: the model's")
    work.add_argument(
        '--overlap', type=_overlap, default=0.25, help='of windows: 25%%, or pixels; at most 87.5%%'
    )
    work.add_argument('--threshold', type=float, help="default: the model's")
    work.add_argument('--batch-size', type=at_least(1), default=8, help='windows at a time')
    work.add_argument(
        '--route',
        choices=['window', 'raster'],
        default='window',
        help='what picks the detector of a cascade: the CAR of a window, or of the raster',
    )
    work.add_argument(
        '--detector-band', action='store_true', help='add a band: which detector predicted a pixel'
    )


class _Progress:
    """One line on a terminal: how far, how fast, how long."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.shown = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if now - self.shown < 0.2 and done < total:
            return
        self.shown = now
        seconds = max(now - self.start, 1e-6)
        rate = done / seconds
        left = (total - done) / rate
        text = f'{100 * done / total:5.1f} %  {rate / 1e6:.2f} Mpixel/s  {left:.0f} s left'
        print(f'\r{text:<60}', end='' if done < total else '\n', file=sys.stderr, flush=True)


def plan_lines(report: dict[str, Any]) -> list[str]:
    """The lines that a dry run prints."""
    grid, windows = report['grid'], report['windows']
    lines = [
        f'A: {report["a"]}',
        f'B: {report["b"]}'
        + (f', warped to the grid of A ({grid["resampling"]})' if grid['b_warped'] else ''),
        f'model: {report["model"]} on {report["device"]} in {report["precision"]}, threshold '
        f'{report["threshold"]:g}',
        f'grid: {grid["width"]} x {grid["height"]}, {grid["crs"] or "no CRS"}',
        f'windows: {windows["count"]} of {windows["size"][1]} x {windows["size"][0]}, '
        f'overlap {windows["overlap"]}',
        f'memory: {report["memory_bytes"] / 2**20:.0f} MiB of rows and windows, beside the network',
        f'disk: at most {report["disk_bytes"] / 2**20:.0f} MiB',
        f'stretch: {_stretch_text(report["stretch"])}',
        f'ground sample distance: {_gsd_text(report["gsd"])}',
        f'shift of B: {_shift_text(report)}',
    ]
    return lines


def _result_lines(result: 'RasterResult') -> list[str]:
    report = result.report
    car = result.car or 0.0
    area = '' if result.area_m2 is None else f', {result.area_m2:,.0f} m2'
    lines = [
        f'changed: {100 * car:.3f} % of {result.valid_pixels} valid pixels{area}',
        f'stretch: {_stretch_text(report["stretch"])}; shift of B: {_shift_text(report)}',
    ]
    if len(report['detectors']) > 1 or '' not in report['detectors']:
        served = ', '.join(f'{name} {count}' for name, count in report['detectors'].items())
        lines.append(f'windows by detector: {served}')
    lines += [
        f'{name}: {path}'
        for name, path in (
            ('change map', result.change),
            ('probability', result.probability),
            ('polygons', result.vector),
        )
        if path is not None
    ]
    return [*lines, f'{result.seconds:.1f} s']


def _stretch_text(stretch: dict[str, Any]) -> str:
    bounds = stretch.get('bounds')
    if not bounds:
        return stretch['text']
    return f'{stretch["text"]} = ' + ', '.join(f'{low:.5g}..{high:.5g}' for low, high in bounds)


def _gsd_text(gsd: dict[str, Any]) -> str:
    own = 'unknown' if gsd['metres'] is None else ' x '.join(f'{m:.3g}' for m in gsd['metres'])
    model = 'unknown' if gsd['model'] is None else f'{gsd["model"]:.3g} m'
    text = f'{own} m' if gsd['metres'] is not None else own
    return f"{text}, the model's {model}" + (', resampled' if gsd['resampled'] else '')


def _shift_text(report: dict[str, Any]) -> str:
    shift = report['shift']
    if shift is None:
        return 'not measurable'
    text = (
        f'{shift["right"]:+.2f} right, {shift["down"]:+.2f} down (pixels, {shift["agreeing"]} of '
        f'{shift["windows"]} windows agree)'
    )
    if not shift['reliable']:
        return f'not reliable: {text}'
    return text + (', taken out' if report['coregistered'] else '')


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r}: whole numbers with commas between them are needed, for instance 3,2,1'
        ) from None


def _overlap(text: str) -> float:
    percent = text.endswith('%')
    try:
        number = float(text.removesuffix('%'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r}: 25% or a number of pixels is needed') from None
    if percent and not 0 <= number <= 100 * MAX_OVERLAP:
        raise argparse.ArgumentTypeError(f'{text!r}: 0% to {100 * MAX_OVERLAP:g}% is needed')
    return number / 100 if percent else number
