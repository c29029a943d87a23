"""The O-P strategy at test time: the origin's predicted CAR picks the specialist that predicts
again (arXiv:2502.13407, section 4.1)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mtkd_cd.core.car import DEFAULT_THRESHOLDS, CARPartition, change_area_ratio
from mtkd_cd.core.checkpoint import load_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.models.mtkd.routing import ORIGIN, RoutingKind, choose_routing
from mtkd_cd.models.mtkd.specialists import (
    Detector,
    build_detector,
    build_specialists,
    check_checkpoint_names,
    check_range_names,
    images_by_detector,
    input_converter,
)
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class OriginPartitionCascade(BaseModel):
    """Origin, then the specialist of the predicted CAR range; for prediction only.

    Works on every mmseg-style detector, of any scope. Its data preprocessor is the origin's.

    Args:
        origin: Config of the detector trained on everything.
        thresholds: CAR thresholds between the ranges.
        names: Names of the ranges; see :class:`~mtkd_cd.core.car.CARPartition`.
        specialists: Config of the specialist of a range, by range name, where it is not the
            origin's.
        checkpoints: A file for ``origin`` and for each range. ``None`` leaves the weights as built,
            for instance to load them by hand.
        routing: ``'car'``: the specialist of the predicted CAR's range, as in the paper.
            ``'validated'``: the detectors and cuts that ``routing_file`` holds; where the origin
                serves, its coarse prediction is the result, and a specialist that serves nowhere is
            not loaded.
        routing_file: A ``routing.json``, see :mod:`mtkd_cd.models.mtkd.routing`; not read with
            ``routing='car'``.
        data_preprocessor: Config of the preprocessor of detectors whose configs have none;
            mmengine's runner hands on the one at the top of a config file.
        init_cfg: As in mmengine.

    Raises:
        UserError: A checkpoint is missing, unreadable or of another model; an entry of
            ``checkpoints`` or ``specialists`` is not a range; the routing file is missing or of
            other ranges.
    """

    def __init__(
        self,
        origin: Mapping[str, Any],
        thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
        names: Sequence[str] | None = None,
        specialists: Mapping[str, Any] | None = None,
        checkpoints: Mapping[str, str] | None = None,
        routing: RoutingKind = 'car',
        routing_file: str | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.partition = CARPartition(thresholds, names)
        self.routing = choose_routing(routing, routing_file, self.partition)
        if checkpoints is not None:
            check_checkpoint_names(checkpoints, (ORIGIN, *self.partition.names))
        check_range_names(specialists, self.partition)
        self.origin: Detector = build_detector(origin, data_preprocessor)
        serving = [name for name in self.routing.detectors if name != ORIGIN]
        self.specialists: Any = nn.ModuleDict(
            build_specialists(serving, origin, specialists, data_preprocessor)
        )
        self.data_preprocessor = self.origin.data_preprocessor
        for name, detector in ((ORIGIN, self.origin), *self.specialists.items()):
            if checkpoints is not None:
                load_weights(detector, checkpoints[name])
        detectors: dict[str, Detector] = dict(self.specialists.items())
        self._convert = {
            name: input_converter(self.data_preprocessor, detectors[name].data_preprocessor)
            for name in detectors
        }

    def forward(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None, mode: str = 'predict'
    ) -> list[SegDataSample]:
        """mmengine's entry point; ``mode='predict'`` is the only one that a cascade has."""
        if mode != 'predict':
            raise UserError(
                f'OriginPartitionCascade predicts only, found mode={mode!r}: train origin and '
                'specialists on their own configs'
            )
        return self.predict(inputs, data_samples)

    def predict(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None
    ) -> list[SegDataSample]:
        """Predict twice: coarsely by the origin, then by the specialist of the coarse prediction's
        CAR.

        Args:
            inputs: (N, 6, H, W), normalised.
            data_samples: N samples with the metainfo of the pipeline, or ``None``.

        Returns:
            N samples: ``pred_sem_seg`` and ``seg_logits`` of the detector that serves the image,
                the origin's prediction as
            ``coarse_pred_sem_seg``, and in the metainfo ``coarse_car``, the CAR that chose,
            ``range``, the name of the range that it lies in, and ``detector``, the name of the one
            that served.
        """
        coarse = self.origin.predict(inputs, _copies(data_samples, range(len(inputs))))
        coarse_cars = torch.stack(
            [change_area_ratio(sample.pred_sem_seg.data[0]) for sample in coarse]
        )  # (N,)
        ranges = self.partition.range_of(coarse_cars).tolist()
        results: list[SegDataSample] = list(coarse)
        for name, positions in images_by_detector(
            self.routing.serving(coarse_cars), self.routing.detectors
        ):
            for position, sample in zip(
                positions, self._serve(name, positions, inputs, data_samples, coarse)
            ):
                sample.coarse_pred_sem_seg = coarse[position].pred_sem_seg
                chosen = dict(
                    coarse_car=float(coarse_cars[position]),
                    range=self.partition.names[ranges[position]],
                    detector=name,
                )
                sample.set_metainfo(chosen)
                results[position] = sample
        return results

    def _serve(
        self,
        name: str,
        positions: list[int],
        inputs: Tensor,
        data_samples: list[SegDataSample] | None,
        coarse: list[SegDataSample],
    ) -> list[SegDataSample]:
        """The prediction of one detector for its images; the origin's is there already."""
        if name == ORIGIN:
            return [coarse[position] for position in positions]
        return self.specialists[name].predict(
            self._convert[name](inputs[positions]), _copies(data_samples, positions)
        )


def _copies(
    data_samples: list[SegDataSample] | None, positions: Sequence[int]
) -> list[SegDataSample] | None:
    """Shallow copies, so that one detector's prediction does not overwrite another's."""
    return (
        None if data_samples is None else [data_samples[position].new() for position in positions]
    )
