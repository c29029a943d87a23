"""The front of prediction: one object for pairs of images and pairs of rasters."""

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.precision import FULL, as_precision
from mtkd_cd.data.radiometry import Rule
from mtkd_cd.inference.card import Card, check_threshold
from mtkd_cd.inference.image_pairs import (
    Image,
    ImagePairs,
    inference_model,
    is_image,
    map_folder,
    write_maps,
)
from mtkd_cd.inference.model_kinds import open_model
from mtkd_cd.inference.outputs import check_outputs, check_space
from mtkd_cd.inference.predictor import choose_device, data_settings
from mtkd_cd.inference.probabilities import RoutedModel
from mtkd_cd.inference.raster.opening import open_pair
from mtkd_cd.inference.raster.plan import plan_run
from mtkd_cd.inference.raster.request import (
    OutputOptions,
    PairOptions,
    RunOptions,
    as_box,
    check_choices,
    check_finite,
    check_paths,
    check_whole_numbers,
    map_targets,
)
from mtkd_cd.inference.raster.rows import Progress
from mtkd_cd.inference.raster.run import RasterRun
from mtkd_cd.inference.results import PairResult, RasterResult
from mtkd_cd.inference.windows import STRIP

__all__ = ['ChangeInferencer', 'PairResult', 'RasterResult', 'inference_model']


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
        self.model = open_model(model, weights, device, backend, trusted, cfg_options)
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
    def _routed(self) -> RoutedModel:
        return RoutedModel(self.model, self.device)

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
        if len(pairs) == 2 and all(map(is_image, pairs)):
            raise UserError('pairs is a list of pairs: [[a, b]] for one')
        output = None if out_dir is None else map_folder(out_dir, pairs)
        cut = self.card.threshold if threshold is None else threshold
        images = ImagePairs(self._routed, self.trained_bands, channel_order, cut)
        results = images.predict(pairs, batch_size)
        if output is not None:
            write_maps(output, pairs, results)
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
        check_paths(a=a, b=b, out=out, probability=probability, vector=vector, mask=mask, aoi=aoi)
        targets = map_targets(out, probability, vector)
        if not dry_run:
            inputs = [file for file in (a, b, mask, aoi) if file is not None]
            check_outputs(targets, inputs, overwrite)
        check_choices(
            probability_dtype=probability_dtype, route=route, gsd=gsd, resampling=resampling
        )
        check_whole_numbers(batch_size=batch_size, edge_buffer=edge_buffer, strip=strip)
        check_finite(offset_a=offset_a, offset_b=offset_b)
        reading = PairOptions(
            bands=None if bands is None else tuple(bands),
            trained_bands=self.trained_bands,
            band_names=self.card.band_order,
            mask=mask,
            mask_values=None if mask_values is None else tuple(mask_values),
            nodata=nodata,
            bbox=None if bbox is None else as_box(bbox),
            aoi=aoi,
            assume_aligned=assume_aligned,
            resampling=resampling,
            edge_buffer=edge_buffer,
            offset_a=offset_a,
            offset_b=offset_b,
        )
        options = RunOptions(
            threshold=threshold,
            window=window,
            overlap=overlap,
            stretch=stretch,
            gsd=gsd,
            coregister=coregister,
            resampling=resampling,
            batch_size=batch_size,
            strip=strip,
            route=route,
            detector_band=detector_band,
        )
        outputs = OutputOptions(
            targets,
            probability_dtype=probability_dtype,
            cog=cog,
            tags=tags or {},
            min_area=min_area,
            simplify=simplify,
            fill_holes=fill_holes,
            date_a=date_a,
            date_b=date_b,
        )
        with open_pair(a, b, reading) as pair:
            plan = plan_run(self._routed, pair, options, outputs)
            if not dry_run:
                check_space(targets['change'].parent, plan.report['disk_bytes'])
            for note in plan.report['warnings']:
                warnings.warn(note, stacklevel=2)
            if dry_run:
                return RasterResult(None, None, None, plan.report)
            result = RasterRun(self._routed, pair, plan, outputs, progress).result()
        result.seconds = time.perf_counter() - start
        return result
