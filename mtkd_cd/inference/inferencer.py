"""Prediction for users: pairs of images to change maps, pairs of rasters to georeferenced ones."""

import copy
import dataclasses
import importlib
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import Compose
from mmengine.registry import DefaultScope
from torch import Tensor

from mtkd_cd.core.car import change_area_ratio
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.core.files import CONFIGS, OutputFolder
from mtkd_cd.core.precision import FULL, as_precision, as_record
from mtkd_cd.data.images import sample_values
from mtkd_cd.data.radiometry import Identity, Rule, from_spec, needs_rule, no_rule_error
from mtkd_cd.engine.record import name_of
from mtkd_cd.inference.card import RGB, Card
from mtkd_cd.inference.grid import RESAMPLING, Grid, Shift, Warp, pixel_ratio
from mtkd_cd.inference.map_files import NODATA, MapWriter, read_map, read_probability, to_cog
from mtkd_cd.inference.outputs import RASTERS, Staged, check_outputs, check_space
from mtkd_cd.inference.predictor import (
    Detector,
    Model,
    Predictor,
    TorchPredictor,
    choose_device,
    data_settings,
    model_from_config,
    model_from_detector,
    radiometry_of,
    tested_data,
)
from mtkd_cd.inference.raster.files import order_notes
from mtkd_cd.inference.raster.opening import open_pair
from mtkd_cd.inference.raster.pair import RasterPair
from mtkd_cd.inference.raster.request import PairOptions
from mtkd_cd.inference.windows import (
    BLOCK,
    STRIP,
    Axis,
    Rows,
    Window,
    WindowPrediction,
    overlap_pixels,
    stitch,
)
from mtkd_cd.models.mtkd.routing import ORIGIN
from mtkd_cd.registry import TRANSFORMS
from mtkd_cd.version import __version__

BUNDLE = '.mtkd'
VECTORS = ('.gpkg', '.fgb', '.geojson', '.parquet')
_LARGE_SHIFT = 2.0
_GSD_RANGE = (0.67, 1.5)
_AS_IS = (1.0, 1.0)
Image = Any  # a path or an (H, W, C) array; numpy's and os's types do not meet in a check
Progress = Callable[[int, int], None]


@dataclass
class PairResult:
    """What was predicted of a pair of images.

    Attributes:
        change: (H, W) uint8: 0, 1; 0 where nothing is known.
        probability: (H, W) float32, NaN where nothing is known.
        valid: (H, W) bool: where both files have data.
        car: Changed share of the valid pixels.
        range: The named CAR range that it lies in.
        detector: Name of the detector that predicted the pair; ``''`` where the model is no
            cascade.
        report: Further facts.
    """

    change: np.ndarray
    probability: np.ndarray
    valid: np.ndarray
    car: float
    range: str
    detector: str = ''
    report: dict[str, Any] = field(default_factory=dict)


@dataclass
class RasterResult:
    """What was predicted of a pair of rasters.

    Attributes:
        change: The change map; ``None`` after a dry run.
        probability: The probability, if it was asked for.
        vector: The polygons, if they were asked for.
        report: What was found in the inputs, and what was done: ``grid``, ``windows``, ``gsd``,
            ``shift``, ``stretch``, ``warnings`` and more, as JSON values.
        car: Changed share of the valid pixels.
        area_m2: Changed square metres, geodesic; ``None`` without a CRS that lies on the earth.
        changed_pixels: Number of changed pixels.
        valid_pixels: Number of valid pixels.
        range: The named CAR range of the scene.
        detectors: Of a cascade: the detectors that predicted.
        seconds: How long it took.
    """

    change: Path | None
    probability: Path | None
    vector: Path | None
    report: dict[str, Any]
    car: float | None = None
    area_m2: float | None = None
    changed_pixels: int = 0
    valid_pixels: int = 0
    range: str | None = None
    detectors: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def detector(self) -> str:
        """Name of the detector that predicted; of a cascade all that did, separated by commas."""
        return ', '.join(self.detectors)

    def read(self) -> PairResult:
        """Read the written files as whole arrays, for rasters that fit into memory.

        ``probability`` is NaN where it is not known, and everywhere if it was not asked for.

        Raises:
            UserError: It was a dry run.
        """
        if self.change is None:
            raise UserError('a dry run writes no map that could be read')
        change, valid = read_map(self.change)
        probability = np.full(change.shape, np.nan, np.float32)
        if self.probability is not None:
            probability = read_probability(self.probability)
        return PairResult(
            change,
            probability,
            valid,
            self.car or 0.0,
            self.range or '',
            self.detector,
            self.report,
        )


@dataclass(frozen=True)
class _Settings:
    """One run over a raster."""

    rule: Rule
    threshold: float
    window: int
    overlap: int
    batch_size: int
    strip: int
    route: str
    with_detector: bool


class ChangeInferencer:
    """Predicts changes between pairs of images or rasters.

    Args:
        model: A bundle (``.mtkd``), an exported network (``.onnx``, ``.xml``, ``.pt2``, a folder of
            a cascade), a config file or a loaded config (with ``weights``), a detector of
            :func:`~mtkd_cd.apis.init_model`, or a :class:`~mtkd_cd.inference.predictor.Model`.
        weights: The checkpoint of a config; default: what its training left.
        device: ``'auto'``, ``'cpu'``, ``'cuda'``, ``'cuda:1'``.
        backend: ``'torch'``, ``'onnx'`` (onnxruntime) or ``'openvino'``; the latter two, and
            ``.pt2`` files, run on the CPU.
        trusted: Whether ``weights`` may hold pickled objects. Only for files of your own.
        cfg_options: Changes of config entries; of an exported network, fields of its card
            (``mean``, ``std``, ``training_size``, ...).
        precision: ``'bfloat16'`` lets networks of torch compute in it; results stay float32. What
            a config says about the precision of its test does not count.

    Raises:
        UserError: The model is missing or no good; no such device, backend or precision; another
            precision than float32 for an exported network.
    """

    def __init__(
        self,
        model: Any,
        weights: str | os.PathLike | None = None,
        device: str = 'auto',
        backend: str = 'torch',
        *,
        trusted: bool = False,
        cfg_options: Mapping[str, Any] | None = None,
        precision: str = FULL,
    ) -> None:
        wanted = as_precision(precision)
        self.device = choose_device(device)
        self.model = _open_model(model, weights, device, backend, trusted, cfg_options)
        if wanted != self.model.precision:
            self.model = self.model.in_precision(wanted)
        if self.model.device is not None:
            if device not in ('auto', self.model.device):
                raise UserError(
                    f'device={device!r}: an exported network runs on the {self.model.device}'
                )
            self.device = torch.device(self.model.device)

    @property
    def card(self) -> Card:
        """How the model takes its input."""
        return self.model.card

    @property
    def trained_bands(self) -> tuple[int, ...] | None:
        """Numbers of the bands that the model learned from, where that is known."""
        return data_settings(self.model.cfg)[0] or self.card.numbers

    def __call__(
        self,
        pairs: Sequence[Sequence[Image]],
        out_dir: str | os.PathLike | None = None,
        batch_size: int = 8,
        channel_order: str = 'rgb',
        threshold: float | None = None,
    ) -> list[PairResult]:
        """Predict pairs of images through the test pipeline of the model's config.

        Args:
            pairs: [A, B] each: paths of images, read with the bands and the radiometry of the
                config's test data; or (H, W, C) arrays of the model's bands, uint8 as they are,
                other types by the radiometry. Masked pixels of ``numpy.ma`` arrays have no data.
            out_dir: Folder for the change maps, 0 and 255, as ``<name of A>.png``; arrays are
                called by their position. Maps of an earlier call are written over, files of others
                are not.
            batch_size: Pairs of one size that go through the network together. One gives the maps
                of a test bit for bit; more may move a probability by 1e-5.
            channel_order: Order of the channels of arrays, ``'rgb'`` or ``'bgr'``.
            threshold: Threshold instead of the card's.

        Returns:
            One result per pair, in their order, at the size of the images.

        Raises:
            UserError: An image is missing or no good, the dates differ in size; or ``out_dir`` is
                one that the images are read from, or has a file of a map's name that is not ours.
        """
        if channel_order not in ('rgb', 'bgr'):
            raise UserError(f"channel_order={channel_order!r}: 'rgb' or 'bgr' is needed")
        check_threshold(threshold)
        if batch_size < 1:
            raise UserError(f'batch_size={batch_size}: at least 1 is needed')
        pairs = list(pairs)
        if len(pairs) == 2 and all(map(_is_image, pairs)):
            raise UserError('pairs is a list of pairs: [[a, b]] for one')
        output = None if out_dir is None else _map_folder(out_dir, pairs)
        results: list[PairResult] = []
        batch: list[_Loaded] = []
        for pair in pairs:
            loaded = self._loaded(pair, channel_order)
            if batch and (len(batch) == batch_size or loaded.inputs.shape != batch[0].inputs.shape):
                results += self._predicted(batch, threshold)
                batch = []
            batch.append(loaded)
        if batch:
            results += self._predicted(batch, threshold)
        if output is not None:
            for index, (pair, result) in enumerate(zip(pairs, results)):
                png = cv2.imencode('.png', result.change * 255)[1]
                with output.open(_map_name(pair[0], index)) as file:
                    file.write(png.tobytes())
        return results

    def predict_raster(
        self,
        a: str | os.PathLike,
        b: str | os.PathLike,
        out: str | os.PathLike,
        *,
        probability: str | os.PathLike | None = None,
        vector: str | os.PathLike | None = None,
        mask: str | os.PathLike | None = None,
        mask_values: Sequence[int] | None = None,
        overwrite: bool = False,
        threshold: float | None = None,
        window: int | None = None,
        overlap: float = 0.25,
        bands: Sequence[int] | None = None,
        stretch: str | Mapping | Rule | None = None,
        gsd: str | None = None,
        coregister: bool = False,
        bbox: Sequence[float] | None = None,
        aoi: str | os.PathLike | None = None,
        min_area: float | None = None,
        simplify: float | None = None,
        fill_holes: float | None = None,
        batch_size: int = 8,
        cog: bool = False,
        dry_run: bool = False,
        probability_dtype: str = 'uint8',
        nodata: float | None = None,
        offset_a: float = 0.0,
        offset_b: float = 0.0,
        edge_buffer: int = 0,
        resampling: str | None = None,
        assume_aligned: bool = False,
        route: str = 'window',
        detector_band: bool = False,
        date_a: str | None = None,
        date_b: str | None = None,
        tags: Mapping[str, Any] | None = None,
        strip: int = STRIP,
        progress: Progress | None = None,
    ) -> RasterResult:
        """Predict a pair of rasters, window by window, onto date A's grid.

        Args:
            a: Date A: what GDAL reads, or a picture.
            b: Date B; on another grid it is warped once.
            out: The change map to write: ``.tif`` of 0, 1 and 255 where nothing is known, or
                ``.png`` of 0 and 255.
            probability: The probability of change to write, ``.tif``.
            vector: Polygons to write: ``.gpkg``, ``.fgb``, ``.geojson``, ``.parquet``.
            mask: Raster on A's grid; pixels that are not 0 are left out.
            mask_values: Leave out the pixels of ``mask`` with one of these values instead.
            overwrite: Whether existing outputs are replaced.
            threshold: Threshold instead of the card's.
            window: Side of the windows in pixels; default: the model's training size.
            overlap: Overlap of the windows, as a fraction below 1 or in pixels.
            bands: Band numbers of the files, in the order red, green, blue or of the card's bands.
                Default: those of the training, where its config names them and the files have
                other bands than red, green and blue.
            stretch: Radiometry instead of the card's, as
                :func:`~mtkd_cd.data.radiometry.from_spec` reads it.
            gsd: ``'model'``: resample to the model's ground sample distance and return to A's grid;
                ``'keep'``: predict at whatever the rasters have. Default: refuse rasters whose
                distance is not that of the model.
            coregister: Whether the measured shift between the dates is taken out.
            bbox: (left, bottom, right, top) in A's CRS; the outputs cover its pixels only.
            aoi: File of polygons; the outputs cover their bounds, nothing is known outside of them.
            min_area: Smallest polygon in square metres.
            simplify: Tolerance of the polygons' lines in metres.
            fill_holes: Holes in polygons up to that many square metres are filled.
            batch_size: Windows that go through the network together.
            cog: Whether to write cloud-optimised GeoTIFFs with overviews.
            dry_run: Whether to only report what would be done.
            probability_dtype: ``'uint8'``, steps of 1/250 and 255 where nothing is known, or
                ``'float32'`` with NaN there.
            nodata: Value of invalid pixels in files that declare none.
            offset_a: Added to the values of A, for instance -1000 for Sentinel-2 since 2022.
            offset_b: Added to the values of B.
            edge_buffer: Pixels within that distance of an invalid one are left out too.
            resampling: Rule by which B is brought to A's grid; default: bilinear, or average if B
                is more than twice as fine.
            assume_aligned: Whether rasters of equal size lie on one grid, whatever they say.
            route: Of a cascade: ``'window'``: the origin's CAR in each window picks the detector
                that serves it; ``'raster'``: its CAR in the whole raster picks one for all.
            detector_band: Whether the change map gets a second band, with the number of the
                detector that predicted each pixel.
            date_a: For the polygons; default: what the file's tags say.
            date_b: Likewise.
            tags: Further tags of the change map and the probability, ``{'run': '7'}`` for
                ``MTKD_CD_RUN=7``.
            strip: Columns that are predicted at a time.
            progress: Called with (done, all) pixels.

        Raises:
            UserError: What is wrong with the inputs, and what to do. Nothing is written then.
        """
        start = time.perf_counter()
        card = self.card
        _check_paths(a=a, b=b, out=out, probability=probability, vector=vector, mask=mask, aoi=aoi)
        targets = _targets(out, probability, vector)
        if not dry_run:
            inputs = [file for file in (a, b, mask, aoi) if file is not None]
            check_outputs(targets, inputs, overwrite)
        _check_choices(probability_dtype, route, gsd, resampling, batch_size, edge_buffer, strip)
        for name, offset in (('offset_a', offset_a), ('offset_b', offset_b)):
            if not math.isfinite(offset):
                raise UserError(f'{name}={offset:g}: a finite number is needed')
        options = PairOptions(
            bands=None if bands is None else tuple(bands),
            trained_bands=self.trained_bands,
            band_names=card.band_order,
            mask=mask,
            mask_values=None if mask_values is None else tuple(mask_values),
            nodata=nodata,
            bbox=None if bbox is None else _box(bbox),
            aoi=aoi,
            assume_aligned=assume_aligned,
            resampling=resampling,
            edge_buffer=edge_buffer,
            offset_a=offset_a,
            offset_b=offset_b,
        )
        with open_pair(a, b, options) as pair:
            if 'vector' in targets:
                vectors = importlib.import_module('mtkd_cd.inference.vector')
                pair.notes += vectors.check_polygons(
                    targets['vector'],
                    pair.grid.crs,
                    pair.names[0],
                    min_area=min_area,
                    simplify=simplify,
                    fill_holes=fill_holes,
                )
            for option, given in (
                ('--detector-band', detector_band),
                ('--route raster', route == 'raster'),
            ):
                if given and self.model.routing is None:
                    raise UserError(f'{option}: only a cascade has several detectors')
            if cog and not any(path.suffix.lower() in RASTERS for path in targets.values()):
                raise UserError(f'--cog: {out} is no GeoTIFF: write a .tif, or leave it out')
            if detector_band and targets['change'].suffix.lower() == '.png':
                raise UserError(f'--detector-band: {out} holds one band: write a .tif')
            dates = date_a or pair.dates[0], date_b or pair.dates[1]
            pair.notes += order_notes(pair.names, dates)
            if os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b):
                pair.notes.append(f'both dates are one file, {a}: nothing can have changed')
            plan = self._plan(
                pair, stretch, threshold, window, overlap, gsd, coregister, resampling
            )
            if detector_band and plan.is_resampled:
                raise UserError(
                    '--detector-band: detectors are known at the resolution that is predicted at; '
                    'use --gsd keep'
                )
            plan.settings = dataclasses.replace(
                plan.settings,
                batch_size=batch_size,
                strip=strip,
                route=route,
                with_detector=detector_band,
            )
            estimate = _bytes_needed(pair, plan, probability_dtype, targets)
            plan.report['disk_bytes'] = estimate
            if not dry_run:
                check_space(targets['change'].parent, estimate)
            for note in plan.report['warnings']:
                warnings.warn(note, stacklevel=2)
            if dry_run:
                return RasterResult(None, None, None, plan.report)
            result = self._run(
                pair,
                plan,
                targets,
                probability_dtype=probability_dtype,
                cog=cog,
                progress=progress,
                tags=tags or {},
                polygons=dict(
                    min_area=min_area,
                    simplify=simplify,
                    fill_holes=fill_holes,
                    date_a=dates[0],
                    date_b=dates[1],
                ),
            )
        result.seconds = time.perf_counter() - start
        return result

    def _plan(
        self,
        pair: RasterPair,
        stretch: str | Mapping | Rule | None,
        threshold: float | None,
        window: int | None,
        overlap: float,
        gsd: str | None,
        coregister: bool,
        resampling: str | None,
    ) -> '_Plan':
        card = self.card
        notes = list(pair.notes)
        size = card.training_size if window is None else window
        if not isinstance(size, int) or size < 1:
            raise UserError(f'window={size!r}: a whole number from 1 up is needed')
        if self.model.routing is not None and size != card.training_size:
            notes.append(
                f'window={size}: the cascade picks its detector by the CAR of a window, and its '
                f'thresholds hold for windows of {card.training_size} pixels'
            )
        check_threshold(threshold)
        factors, gsd_report = _resolution(pair.grid, card, gsd)
        shift = pair.shift()
        notes += _registration_notes(pair, shift, coregister)
        moved = False
        if coregister and shift is not None and shift.is_reliable:
            pair.coregister(shift, resampling)
            moved = True
        rule = _radiometry(pair, card, stretch)
        if _differ_in_type(pair):
            notes.append(
                f'{pair.names[0]} holds {pair.a.dtype} and {pair.names[1]} {pair.b.dtype}, but '
                f'{rule} is for both: are their values on one scale?'
            )
        settings = _Settings(
            rule=rule,
            threshold=card.threshold if threshold is None else threshold,
            window=size,
            overlap=overlap_pixels(overlap, size),
            batch_size=1,
            strip=STRIP,
            route='window',
            with_detector=False,
        )
        grid = pair.grid if factors == _AS_IS else pair.grid.scaled(*factors)
        rows, cols = (Axis(length, size, settings.overlap) for length in (grid.height, grid.width))
        report = dict(
            a=pair.names[0],
            b=pair.names[1],
            model=card.name,
            device=str(self.device),
            precision=self.model.precision,
            grid=_grid_report(pair),
            windows=dict(
                size=[rows.size, cols.size],
                overlap=settings.overlap,
                count=len(rows.starts) * len(cols.starts),
            ),
            gsd=gsd_report,
            stretch=dict(rule.describe(), text=str(rule)),
            shift=None
            if shift is None
            else dict(dataclasses.asdict(shift), reliable=shift.is_reliable),
            coregistered=moved,
            threshold=settings.threshold,
            warnings=notes,
            memory_bytes=_buffer_bytes(rows, cols, len(card.bands)),
        )
        return _Plan(settings, factors, report, shift)

    def _run(
        self,
        pair: RasterPair,
        plan: '_Plan',
        targets: dict[str, Path],
        *,
        probability_dtype: str,
        cog: bool,
        progress: Progress | None,
        tags: Mapping[str, Any],
        polygons: dict[str, Any],
    ) -> RasterResult:
        settings, report = plan.settings, plan.report
        with Staged(targets) as staged:
            pair.bring_to_grid(staged.temporary('b'))
            needs_probability = 'probability' in targets or 'vector' in targets
            probability = staged.paths.get('probability')
            if needs_probability and probability is None:
                probability = staged.temporary('probability')
            traced = staged.paths['change']
            if 'vector' in targets and traced.suffix.lower() == '.png':
                traced = staged.temporary('traced')  # a PNG has no place on the ground
            names = self.model.names if settings.with_detector else None
            writer = MapWriter(
                pair.grid,
                staged.paths['change'],
                probability,
                probability_dtype if 'probability' in targets else 'uint8',
                settings.threshold,
                names,
                traced,
            )
            served: dict[str, int] = {}
            try:
                for rows in self._rows(pair, plan, staged, served, progress):
                    writer.write(rows)
                if not writer.valid_pixels:
                    raise UserError(
                        f'no pixel is valid in both {pair.names[0]} and {pair.names[1]}'
                        + (' outside of the mask' if pair.mask is not None else '')
                        + ': check their nodata values with gdalinfo'
                    )
                changed = int(writer.changed_by_row.sum())
                car = changed / writer.valid_pixels
                writer.tag({**self._tags(pair, report, settings, car, tuple(served)), **tags})
            except BaseException:
                writer.abandon()
                raise
            writer.close()
            if cog and staged.targets['change'].suffix.lower() != '.png':
                to_cog(staged.paths['change'], 'mode')
            if cog and 'probability' in targets:
                to_cog(staged.paths['probability'], 'average')
            if 'vector' in targets:
                vectors = importlib.import_module('mtkd_cd.inference.vector')
                vectors.write_polygons(
                    traced,
                    probability,
                    staged.paths['vector'],
                    detector=self.card.name,
                    **polygons,
                )
            staged.commit()
        areas = pair.grid.pixel_areas()
        report.update(detectors=dict(served), car=car, changed_pixels=changed)
        report.update(valid_pixels=writer.valid_pixels)
        partition = self.model.partition
        index = int(partition.range_of(np.array([car]))[0])
        return RasterResult(
            targets['change'],
            targets.get('probability'),
            targets.get('vector'),
            report,
            car=car,
            area_m2=None if areas is None else float((writer.changed_by_row * areas).sum()),
            changed_pixels=changed,
            valid_pixels=writer.valid_pixels,
            range=partition.names[index],
            detectors=tuple(served),
        )

    def _rows(
        self,
        pair: RasterPair,
        plan: '_Plan',
        staged: Staged,
        served: dict[str, int],
        progress: Progress | None,
    ) -> Iterator[Rows]:
        """Finished rows on the pair's grid, whatever resolution is predicted at."""
        if not plan.is_resampled:
            yield from self._stitched(pair, plan.settings, served, progress)
            return
        first = staged.targets['change']
        working = pair.resampled(plan.factors, first.parent, f'.{first.stem}.{os.getpid()}')
        path = staged.temporary('working')
        writer = MapWriter(working.grid, None, path, 'float32', plan.settings.threshold)
        try:
            for rows in self._stitched(working, plan.settings, served, progress):
                # Interpolation must not meet holes: what is not known is left out on A's grid.
                rows.valid[:] = True
                writer.write(rows)
        except BaseException:
            writer.abandon()
            raise
        writer.close()
        yield from _returned(path, pair)

    def _stitched(
        self,
        pair: RasterPair,
        settings: _Settings,
        served: dict[str, int],
        progress: Progress | None,
    ) -> Iterator[Rows]:
        if self.model.routing is None or settings.route == 'window':
            yield from self._stitch_once(pair, settings, served, progress, None)
            return
        changed = valid = 0
        for rows in self._stitch_once(pair, settings, {}, progress, ORIGIN):
            changed += int(((rows.probability > settings.threshold) & rows.valid).sum())
            valid += int(rows.valid.sum())
        name = self._serving(changed / max(valid, 1))
        yield from self._stitch_once(pair, settings, served, progress, name)

    def _stitch_once(
        self,
        pair: RasterPair,
        settings: _Settings,
        served: dict[str, int],
        progress: Progress | None,
        detector: str | None,
    ) -> Iterator[Rows]:
        rows, cols = (
            Axis(length, settings.window, settings.overlap)
            for length in (pair.grid.height, pair.grid.width)
        )
        done, total = 0, pair.grid.height * pair.grid.width
        # Held for all batches. Blocks that GDAL keeps would fill the gap that each left behind.
        most = min(settings.batch_size, len(cols.starts))  # windows of one row
        inputs = self._empty_inputs(most, rows.size, cols.size)
        stitched = stitch(
            rows,
            cols,
            lambda windows: self._predict_windows(
                pair, windows, inputs, settings, served, detector
            ),
            batch_size=settings.batch_size,
            strip=settings.strip,
            with_detector=settings.with_detector,
        )
        for part in stitched:
            yield part
            done += part.valid.size
            if progress is not None:
                progress(done, total)

    def _predict_windows(
        self,
        pair: RasterPair,
        windows: Sequence[Window],
        inputs: Tensor,
        settings: _Settings,
        served: dict[str, int],
        detector: str | None,
    ) -> list[WindowPrediction]:
        """The windows of a batch, which lie side by side, read at once; ``inputs`` are
        overwritten."""
        left = windows[0].col
        right = max(window.col + window.width for window in windows)
        first = windows[0]
        a, b, valid, kept = pair.read(Window(first.row, left, first.height, right - left))
        spans = [slice(window.col - left, window.col - left + window.width) for window in windows]
        predictions = [WindowPrediction(None, kept[:, span]) for span in spans]
        needed = [index for index, span in enumerate(spans) if valid[:, span].any()]
        if not needed:
            return predictions
        for place, index in enumerate(needed):
            span = spans[index]
            self._normalise(
                a[:, :, span], b[:, :, span], valid[:, span], settings.rule, inputs[place]
            )
        batch = inputs[: len(needed)]
        probabilities, names = self._probabilities(
            batch, [kept[:, spans[index]] for index in needed], settings.threshold, detector
        )
        for index, probability, name in zip(needed, probabilities, names):
            predictions[index].probability = probability
            predictions[index].detector = self.model.names.index(name)
            served[name] = served.get(name, 0) + 1
        return predictions

    def _empty_inputs(self, count: int, height: int, width: int) -> Tensor:
        """(count, 2C, H, W) zeros for windows of that size, with the padding that they need."""
        inputs = torch.zeros(count, len(self.card.mean), height, width, dtype=torch.float32)
        return _padded(inputs, self.card.divisor)

    def _normalise(
        self, a: np.ndarray, b: np.ndarray, valid: np.ndarray, rule: Rule, inputs: Tensor
    ) -> None:
        """Write a window's dates, (C, h, w) each, to the upper left of (2C, H, W) as the network
        takes them; 0, which is the mean, where a pixel is invalid."""
        card = self.card
        order = card.permutation
        inside = inputs[:, : valid.shape[0], : valid.shape[1]]
        for part, date in zip(inside.chunk(2), (a, b)):
            part.copy_(torch.from_numpy(np.ascontiguousarray(rule.apply(date)[order])))
        mean, std = (
            torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1)
            for numbers in (card.mean, card.std)
        )
        inside.sub_(mean).div_(std)
        if not valid.all():
            inside[:, torch.from_numpy(~valid)] = 0

    def _probabilities(
        self,
        batch: Tensor,
        valid: Sequence[np.ndarray],
        threshold: float,
        detector: str | None = None,
        shape: tuple[int, int] | None = None,
    ) -> tuple[list[np.ndarray], list[str]]:
        """Probabilities of each pair, and who served it.

        Args:
            batch: (N, 2C, H, W), padded at the right and the bottom.
            valid: Of each pair the pixels that the CAR is taken of, at the size of the result.
            threshold: A pixel has changed if its probability is above it.
            detector: Of a cascade: who serves, instead of the routing's choice.
            shape: (h, w) of the images without padding, where the results have another size.
        """
        batch = batch.to(self.device)

        def run(name: str, members: list[int]) -> list[np.ndarray]:
            predictor = self.model.predictor(name)
            pairs = batch if len(members) == len(batch) else batch[members]
            if shape is None:
                found = predictor.probability(pairs)
                return [
                    one[: valid[index].shape[0], : valid[index].shape[1]]
                    for index, one in zip(members, _arrays(found))
                ]
            return _at_sizes(predictor, pairs, shape, [valid[index].shape for index in members])

        everyone = list(range(len(batch)))
        if self.model.routing is None or detector is not None:
            name = detector or self.model.names[0]
            return run(name, everyone), [name] * len(batch)
        results = run(ORIGIN, everyone)
        names = []
        for probability, pixels in zip(results, valid):
            label = np.where(pixels, probability > threshold, NODATA)
            names.append(self._serving(float(np.float32(change_area_ratio(label)))))
        for name in dict.fromkeys(names):
            if name == ORIGIN:
                continue
            members = [index for index, chosen in enumerate(names) if chosen == name]
            for index, probability in zip(members, run(name, members)):
                results[index] = probability
        return results, names

    def _serving(self, car: float) -> str:
        routing = self.model.routing
        if routing is None:
            return self.model.names[0]
        return routing.detectors[int(routing.serving(torch.tensor([car]))[0])]

    def _tags(
        self,
        pair: RasterPair,
        report: Mapping[str, Any],
        settings: _Settings,
        car: float,
        served: tuple[str, ...],
    ) -> dict[str, Any]:
        card = self.card
        shift = report['shift']
        return dict(
            version=__version__,
            model=card.name,
            bundle_sha256=card.sha256,
            precision=as_record(self.model.precision),
            input_a=pair.names[0],
            input_b=pair.names[1],
            threshold=settings.threshold,
            window=settings.window,
            overlap=settings.overlap,
            stretch=settings.rule.describe(),
            shift=None if shift is None else [shift['right'], shift['down']],
            coregistered=report['coregistered'],
            gsd=report['gsd'],
            car=car,
            detectors=list(self.model.names) if self.model.routing is not None else None,
            served=list(served) if self.model.routing is not None else None,
        )

    def _loaded(self, pair: Sequence[Image], channel_order: str) -> '_Loaded':
        given = _sample_of(pair)
        if 'img' in given:
            plain = isinstance(self.card.radiometry, Identity)
            for image in given['img']:
                if image.ndim != 3 or (plain and image.dtype != np.uint8):
                    kind = '(H, W, C) uint8' if plain else '(H, W, C)'
                    raise UserError(
                        f'an array is {image.dtype} of shape {image.shape}: {kind} is needed'
                    )
            if channel_order == 'rgb':
                given['img'] = [_blue_first(image) for image in given['img']]
        given |= self._reading(given)
        valid = None
        results: Any = given
        for step in _pipeline(self.model.cfg, 'img' in given).transforms:
            results = step(results)
            if results is None:
                raise UserError(f'the test pipeline of {self.card.name} rejects the pair {pair}')
            valid = results.get('valid', valid)  # at the size of the files, as they were loaded
        size = tuple(results['data_samples'].metainfo['ori_shape'][:2])
        return _Loaded(results['inputs'], np.ones(size, bool) if valid is None else valid)

    def _reading(self, given: Mapping[str, list]) -> dict[str, Any]:
        return _reading(given, self.trained_bands, self.card.radiometry)

    def _predicted(self, batch: Sequence['_Loaded'], threshold: float | None) -> list[PairResult]:
        card = self.card
        mean, std = (
            torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1)
            for numbers in (card.mean, card.std)
        )
        images = torch.stack([one.inputs for one in batch])
        if card.bands == RGB and images.shape[1] == 6:  # pipelines give BGR
            images = images[:, [2, 1, 0, 5, 4, 3]]
        height, width = images.shape[2:]
        inputs = _padded(images.float().sub_(mean).div_(std), card.divisor)
        cut = card.threshold if threshold is None else threshold
        # A test, whose map this is, looks at all pixels.
        everything = [np.ones(one.valid.shape, bool) for one in batch]
        probabilities, names = self._probabilities(inputs, everything, cut, shape=(height, width))
        results = []
        for probability, name, one in zip(probabilities, names, batch):
            change = ((probability > cut) & one.valid).astype(np.uint8)
            car = float(change_area_ratio(np.where(one.valid, change, NODATA)))
            if not one.valid.all():
                probability = np.where(one.valid, probability, np.float32(math.nan))
            index = int(self.model.partition.range_of(np.array([car]))[0])
            results.append(
                PairResult(
                    change,
                    probability,
                    one.valid,
                    car,
                    self.model.partition.names[index],
                    name,
                    dict(model=card.name, threshold=cut, precision=self.model.precision),
                )
            )
        return results


class _Loaded(NamedTuple):
    """A pair of images before the network.

    Attributes:
        inputs: (2C, h, w) as the data preprocessor takes it.
        valid: (H, W) bool at the size of the images: where both have data.
    """

    inputs: Tensor
    valid: np.ndarray


@dataclass
class _Plan:
    settings: _Settings
    factors: tuple[float, float]
    report: dict[str, Any]
    shift: Shift | None

    @property
    def is_resampled(self) -> bool:
        return self.factors != _AS_IS


def inference_model(model: Detector, pairs: Sequence[Any]) -> Any:
    """Predict with a detector of :func:`~mtkd_cd.apis.init_model`, as
    ``mmseg.apis.inference_model``.

    Args:
        model: The detector, with ``cfg``.
        pairs: (A, B), or a list of them: paths or BGR arrays.

    Returns:
        The ``SegDataSample`` with ``pred_sem_seg`` and ``seg_logits``, or a list of them.
    """
    pairs = list(pairs)
    is_one = len(pairs) == 2 and all(map(_is_image, pairs))
    samples = []
    for pair in [pairs] if is_one else pairs:
        cfg = getattr(model, 'cfg', None)
        given = _sample_of(pair)
        given |= _reading(given, data_settings(cfg)[0], radiometry_of(cfg))
        packed = _pipeline(cfg, 'img' in given)(given)
        with torch.no_grad():
            data = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
            samples += model.test_step(data)
    return samples[0] if is_one else samples


def _open_model(
    model: Any,
    weights: str | os.PathLike | None,
    device: str,
    backend: str,
    trusted: bool,
    cfg_options: Mapping[str, Any] | None,
) -> Model:
    if backend not in ('torch', 'onnx', 'openvino'):
        raise UserError(f"backend={backend!r}: 'torch', 'onnx' or 'openvino' is needed")
    if isinstance(model, Model):
        return model
    if isinstance(model, torch.nn.Module):
        return model_from_detector(model)
    if isinstance(model, (str, os.PathLike)):
        suffix = Path(model).suffix.lower()
        if suffix == BUNDLE:
            _refuse_without_effect(f'bundle {model}', weights=weights, cfg_options=cfg_options)
            bundles = importlib.import_module('mtkd_cd.inference.bundle')
            return bundles.Bundle.open(model).build(device=device, backend=backend)
        runtime = importlib.import_module('mtkd_cd.export.runtime')
        if backend != 'torch' or runtime.is_exported(model):
            _refuse_without_effect(f'exported model {model}', weights=weights)
            return runtime.open_exported(model, backend, cfg_options)
        if suffix in ('.pth', '.pt'):
            raise UserError(
                f'model {model} is a checkpoint: give its config as the model, and the checkpoint '
                'as weights; or make a bundle of both with `mtkd-cd bundle create`'
            )
        _check_is_config(Path(model))
    return model_from_config(model, weights, device, cfg_options, trusted=trusted)


def _refuse_without_effect(model: str, **given: Any) -> None:
    for name, value in given.items():
        if value:
            raise UserError(
                f'{name}={value}: {model} has its own, so that would change nothing; leave it out, '
                'or give the config as the model'
            )


def _check_is_config(path: Path) -> None:
    """Refuse what is no config, where its reader would speak of configs alone."""
    kinds = 'a bundle (.mtkd), an exported file (.onnx, .xml, .pt2) or a config (.py)'
    if path.is_dir():
        raise UserError(f'model {path} is a folder, and not that of an exported cascade: {kinds}')
    if path.suffix.lower() in ('.py', '.json', '.yml', '.yaml'):
        return
    if path.exists():
        raise UserError(f'model {path} is none: give {kinds}')
    shipped = CONFIGS / 'origin' / f'{path.name}.py'
    advice = (
        f'of {path.name} itself there is a bundle where it was trained '
        f'(work_dirs/mtkd/{path.name}/{path.name}{BUNDLE}), or a config, for instance '
        f'configs/mtkd/{path.name}.py'
        if shipped.is_file()
        else f'give {kinds}'
    )
    raise UserError(f'model {path} does not exist: {advice}')


def _check_paths(**given: Any) -> None:
    """Refuse what is no path, and is not needed or left out either."""
    for name, value in given.items():
        if value is None and name not in ('a', 'b', 'out'):
            continue
        if not isinstance(value, (str, os.PathLike)):
            raise UserError(
                f'{name}: the path of a file is needed, found {type(value).__name__}. A dataset of '
                'rasterio has its path in .name; pairs of arrays are predicted with '
                'inferencer([[a, b]])'
            )


def _targets(out: Any, probability: Any, vector: Any) -> dict[str, Path]:
    targets = dict(change=Path(out))
    if probability is not None:
        targets['probability'] = Path(probability)
    if vector is not None:
        targets['vector'] = Path(vector)
        if targets['vector'].suffix.lower() not in VECTORS:
            raise UserError(
                f'vector {vector}: unknown extension {targets["vector"].suffix!r}; use '
                f'{", ".join(VECTORS)}'
            )
    return targets


def _box(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    try:
        left, bottom, right, top = map(float, bbox)
    except (TypeError, ValueError):
        raise UserError(
            f'bbox={bbox!r}: left, bottom, right, top are needed, in this order'
        ) from None
    return left, bottom, right, top


def check_threshold(threshold: float | None) -> None:
    """Refuse a threshold that is no probability."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f'threshold={threshold:g}: a probability from 0 to 1 is needed')


def _check_choices(
    probability_dtype: str,
    route: str,
    gsd: str | None,
    resampling: str | None,
    batch_size: int,
    edge_buffer: int,
    strip: int,
) -> None:
    for name, value, choices in (
        ('probability_dtype', probability_dtype, ('uint8', 'float32')),
        ('route', route, ('window', 'raster')),
        ('gsd', gsd, (None, 'keep', 'model')),
        ('resampling', resampling, (None, *RESAMPLING)),
    ):
        if value not in choices:
            raise UserError(f'{name}={value!r}: one of {", ".join(map(repr, choices))} is needed')
    for name, number, least in (
        ('batch_size', batch_size, 1),
        ('edge_buffer', edge_buffer, 0),
        ('strip', strip, 1),
    ):
        if not isinstance(number, int) or number < least:
            raise UserError(f'{name}={number!r}: a whole number from {least} up is needed')


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


def _bytes_needed(
    pair: RasterPair, plan: _Plan, probability_dtype: str, targets: Mapping[str, Path]
) -> int:
    """On the disk, at most: maps compress, the warped date does not."""
    pixels = pair.grid.width * pair.grid.height
    needed = pixels // 4
    if 'probability' in targets or 'vector' in targets:
        needed += pixels * (4 if probability_dtype == 'float32' else 1)
    values = len(pair.b.bands) * pair.b.dtype.itemsize
    if pair.warp is not None:
        needed += pixels * (values + 1)
    if plan.is_resampled:
        needed += int(pixels * math.prod(plan.factors) * (2 * values + 4))
    return needed + 2**20


def _buffer_bytes(rows: Axis, cols: Axis, bands: int) -> int:
    """Of the rows that are held, without the network."""
    return rows.size * min(cols.length, STRIP) * 5 + rows.size * cols.size * bands * 2 * 4


def _padded(batch: Tensor, divisor: int) -> Tensor:
    height, width = batch.shape[-2:]
    right, bottom = -width % divisor, -height % divisor
    return F.pad(batch, (0, right, 0, bottom)) if right or bottom else batch


def _arrays(probability: Tensor) -> list[np.ndarray]:
    return list(probability.float().cpu().numpy())


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


def _pipeline(cfg: Any, arrays: bool) -> Compose:
    """The test pipeline of a config, without labels; loading and packing alone without a
    config."""
    steps = [dict(type='MultiImgLoadImageFromFile'), dict(type='MultiImgPackSegInputs')]
    if cfg is not None and cfg.get('test_dataloader'):
        steps = [copy.deepcopy(dict(step)) for step in tested_data(cfg).get('pipeline', steps)]
    elif cfg is not None and cfg.get('test_pipeline'):
        steps = [copy.deepcopy(dict(step)) for step in cfg.test_pipeline]
    kept = []
    for step in steps:
        kind = name_of(step['type'])
        name = kind.rpartition('.')[2]
        if 'LoadAnnotations' in name:
            continue
        if arrays and name == 'MultiImgLoadImageFromFile':
            step['type'] = kind.replace(name, 'MultiImgLoadLoadImageFromNDArray')
        kept.append(step)
    scope = cfg.get('default_scope', 'mtkd_cd') if cfg is not None else 'mtkd_cd'
    with DefaultScope.overwrite_default_scope(scope):
        return Compose([TRANSFORMS.build(step) for step in kept])


def _at_sizes(
    predictor: Predictor,
    pairs: Tensor,
    shape: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
) -> list[np.ndarray]:
    """Probabilities at the sizes of the images before the pipeline resized them."""
    if isinstance(predictor, TorchPredictor):
        return [one.cpu().numpy() for one in predictor.probability_at(pairs, shape, sizes)]
    found = predictor.probability(pairs)[:, None, : shape[0], : shape[1]].float().cpu()
    return [
        (
            one
            if shape == size
            else F.interpolate(one[None], size, mode='bilinear', align_corners=False)[0]
        )[0].numpy()
        for one, size in zip(found, sizes)
    ]


def _sample_of(pair: Sequence[Image]) -> dict[str, list]:
    """A pair as a pipeline takes it.

    Raises:
        UserError: It is no pair of paths, and none of arrays.
    """
    unordered = isinstance(pair, (Set, Mapping))
    if _is_image(pair) or unordered or not hasattr(pair, '__len__'):
        raise UserError(f'found {type(pair).__name__} for a pair: [A, B] is needed, date A first')
    if len(pair) != 2:
        raise UserError(f'a pair has two images, date A first; found {len(pair)}')
    if all(isinstance(image, np.ndarray) for image in pair):
        return dict(img=list(pair))
    if all(isinstance(image, (str, os.PathLike)) for image in pair):
        return dict(img_path=[os.fspath(image) for image in pair])
    raise UserError(
        'a pair is two paths or two arrays, as numpy.asarray(image) gives them; found '
        + ' and '.join(type(image).__name__ for image in pair)
    )


def _reading(
    given: Mapping[str, list], bands: tuple[int, ...] | None, rule: Rule
) -> dict[str, Any]:
    """How a pair is read, as a data set tells its pipeline: these bands of its files, by this rule.
    Arrays hold the bands that the model takes; those of bytes are levels already."""
    images = given.get('img')
    if images is not None:
        is_rgb = bands is None or len(bands) == len(RGB)
        bands = None if bands is None or is_rgb else tuple(range(1, len(bands) + 1))
        if all(image.dtype == np.uint8 for image in images):
            rule = Identity()
    if not rule.fitted:  # in place of a training split's
        rule = rule.fit(*(_sample(image, bands) for image in images or given['img_path']))
    reading: dict[str, Any] = {} if bands is None else dict(bands=bands)
    return reading if isinstance(rule, Identity) else dict(reading, radiometry=rule)


def _sample(image: Any, bands: tuple[int, ...] | None) -> np.ndarray:
    """(C, H, W) values of one date before any rule, red first."""
    if isinstance(image, np.ndarray):
        return np.moveaxis(_blue_first(image), -1, 0)  # back to red first
    return sample_values(image, bands)


def _blue_first(image: np.ndarray) -> np.ndarray:
    """Red, green, blue, and opacity or another band, as OpenCV has them; other numbers of bands
    stay."""
    channels = image.shape[2]
    return image[:, :, [2, 1, 0, 3][:channels]] if channels in (3, 4) else image


def _is_image(item: Any) -> bool:
    """Whether this is one image, and no pair: a path or an (H, W, C) array."""
    return isinstance(item, (str, os.PathLike)) or (isinstance(item, np.ndarray) and item.ndim < 4)


def _map_name(a: Image, index: int) -> str:
    return f'{index:05d}.png' if isinstance(a, np.ndarray) else f'{Path(a).stem}.png'


def _map_folder(out_dir: str | os.PathLike, pairs: Sequence[Sequence[Image]]) -> OutputFolder:
    """The folder for the maps, after a check that each of them may be written there."""
    files = [image for pair in pairs for image in pair if not isinstance(image, np.ndarray)]
    output = OutputFolder(out_dir, 'maps', {os.path.dirname(os.path.abspath(f)) for f in files})
    named: dict[str, Image] = {}
    for index, pair in enumerate(pairs):
        name = _map_name(pair[0], index)
        if name in named:
            raise UserError(
                f'{named[name]} and {pair[0]} would both give {Path(out_dir, name)}: predict them '
                'in two calls, into two folders'
            )
        named[name] = pair[0]
        if not output.may_write(name):
            raise UserError(
                f'{Path(out_dir, name)} is there already, and was not made by this tool: choose '
                'another folder, or move it away'
            )
    return output
