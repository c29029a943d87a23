"""The O-P strategy at test time: the origin's predicted CAR picks the specialist that predicts
again (arXiv:2502.13407, section 4.1)."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mtkd_cd.core.car import DEFAULT_THRESHOLDS, CARPartition, change_area_ratio
from mtkd_cd.core.checkpoint import load_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.precision import FULL, as_precision
from mtkd_cd.models.losses.change_map import with_channels
from mtkd_cd.models.mtkd.building import (
    Detector,
    build_detector,
    build_detectors,
    check_checkpoint_names,
    check_range_names,
)
from mtkd_cd.models.mtkd.normalisation import InputConverter
from mtkd_cd.models.mtkd.routing import (
    ORIGIN,
    RoutingKind,
    choose_routing,
    images_by_detector,
    samples_at,
)
from mtkd_cd.models.prepare import Prepared
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class OriginPartitionCascade(BaseModel):
    """Origin, then the specialist of the predicted CAR range; for prediction only.

    Works on every mmseg-style detector, of any scope. What its surroundings ask of a detector
    (``data_preprocessor``, ``decode_head``, ``out_channels``, ``num_classes``, ``align_corners``,
    ``test_cfg``) is the origin's, so that it also runs inside mmseg's ``SegTTAModel``.

    Args:
        origin: Config of the detector trained on everything, or the detector, which is copied.
        thresholds: CAR thresholds between the ranges.
        names: Names of the ranges; see :class:`~mtkd_cd.core.car.CARPartition`.
        specialists: Config of the specialist of a range, by range name, where it is not the
            origin's.
        checkpoints: A file for ``origin`` and for each range. ``None`` leaves the weights as built,
            for instance to load them by hand.
        routing: ``'car'``: the specialist of the predicted CAR's range, as in the paper.
            ``'validated'``: the detectors and cuts that ``routing_file`` holds; where the origin
            serves, its coarse prediction is the result, and a specialist that serves nowhere is not
            loaded.
        routing_file: A ``routing.json``, see :mod:`mtkd_cd.models.mtkd.routing`; not read with
            ``routing='car'``.
        prediction: Entry of the origin's result that holds the binary change map, whose CAR
            routes; semantic detectors predict more than that one.
        data_preprocessor: Config of the preprocessor of detectors whose configs have none;
            mmengine's runner hands on the one at the top of a config file.
        init_cfg: As in mmengine.
        precision: ``'bfloat16'`` lets all detectors compute in it; see
            :func:`~mtkd_cd.models.prepare.prepare`.

    Raises:
        UserError: A checkpoint is missing, unreadable or of another model; an entry of
            ``checkpoints`` or ``specialists`` is not a range; the routing file is missing or of
            other ranges; an unknown precision.
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
        prediction: str = 'pred_sem_seg',
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: dict | None = None,
        precision: str = FULL,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.partition = CARPartition(thresholds, names)
        self.prediction = prediction
        self.routing = choose_routing(routing, routing_file, self.partition)
        if checkpoints is not None:
            check_checkpoint_names(checkpoints, (ORIGIN, *self.partition.names))
        check_range_names(specialists, self.partition)
        self.origin: Detector = build_detector(origin, data_preprocessor)
        serving = [name for name in self.routing.detectors if name != ORIGIN]
        self.specialists: Any = nn.ModuleDict(
            build_detectors(serving, origin, specialists, data_preprocessor)
        )
        self.data_preprocessor = self.origin.data_preprocessor
        for name, detector in ((ORIGIN, self.origin), *self.specialists.items()):
            if checkpoints is not None:
                load_weights(detector, checkpoints[name])
        detectors: dict[str, Detector] = dict(self.specialists.items())
        self._convert = {
            name: InputConverter(self.data_preprocessor, detectors[name].data_preprocessor)
            for name in detectors
        }
        self._prepared = {
            name: Prepared(detector, precision=as_precision(precision))
            for name, detector in ((ORIGIN, self.origin), *detectors.items())
        }

    @property
    def decode_head(self) -> nn.Module:
        """The origin's."""
        return self.origin.decode_head

    @property
    def out_channels(self) -> int:
        """The origin's, and those of ``seg_logits`` in the results."""
        return self.origin.out_channels

    @property
    def num_classes(self) -> int:
        """The origin's."""
        return self.origin.num_classes

    @property
    def align_corners(self) -> bool:
        """The origin's."""
        return self.origin.align_corners

    @property
    def test_cfg(self) -> Any:
        """The origin's."""
        return self.origin.test_cfg

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # mmengine's runner and foreign test tools load without strictness: the file of a single
        # detector would change nothing, and nothing would say so.
        parts = tuple(f'{prefix}{part}.' for part, _ in self.named_children())
        own = [key for key in state_dict if key.startswith(prefix)]
        if own and not any(key.startswith(parts) for key in own):
            raise UserError(
                'this checkpoint is of a single detector (its keys begin like '
                f'{own[0]!r}), and a cascade is made of several (origin.*, specialists.*): test '
                'it without a checkpoint argument, and name the files in model.checkpoints'
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

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
            N samples. ``pred_sem_seg`` and ``seg_logits`` are those of the detector that serves the
            image, ``coarse_pred_sem_seg`` is the origin's. The metainfo has ``coarse_car``, the CAR
            that chose, ``range``, the range that it lies in, and ``detector``, who served.
        """
        coarse = self._prepared[ORIGIN].detector.predict(
            inputs, _copies(data_samples, range(len(inputs)))
        )
        coarse_cars = torch.stack(
            [change_area_ratio(self._coarse_map(sample).data[0]) for sample in coarse]
        ).cpu()  # (N,), read once
        ranges = self.partition.range_of(coarse_cars).tolist()
        results: list[SegDataSample] = list(coarse)
        serving = self.routing.serving(coarse_cars).tolist()
        for name, positions in images_by_detector([self.routing.detectors[i] for i in serving]):
            for position, sample in zip(
                positions, self._serve(name, positions, inputs, data_samples, coarse)
            ):
                sample.coarse_pred_sem_seg = self._coarse_map(coarse[position])
                chosen = dict(
                    coarse_car=float(coarse_cars[position]),
                    range=self.partition.names[ranges[position]],
                    detector=name,
                )
                sample.set_metainfo(chosen)
                results[position] = sample
        return results

    def _coarse_map(self, sample: SegDataSample) -> Any:
        if self.prediction not in sample:
            raise UserError(
                f'the origin predicts no {self.prediction!r}: set prediction to the entry that '
                f'holds its binary change map, one of {", ".join(sorted(sample.keys()))}'
            )
        return sample.get(self.prediction)

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
        served = self._prepared[name].detector.predict(
            self._convert[name](samples_at(inputs, positions)), _copies(data_samples, positions)
        )
        for position, sample in zip(positions, served):
            if 'seg_logits' in sample and 'seg_logits' in coarse[position]:
                channels = coarse[position].seg_logits.data.shape[0]
                sample.seg_logits.data = _scores_with_channels(sample.seg_logits.data, channels)
        return served


def _scores_with_channels(scores: Tensor, channels: int) -> Tensor:
    """The ``seg_logits`` of a result, as a head of another number of channels would give them.

    mmseg keeps logits of two channels, but of one channel the probability of change.
    """
    if (len(scores), channels) == (1, 2):
        return with_channels(scores.logit(eps=torch.finfo(scores.dtype).eps), 2)
    if (len(scores), channels) == (2, 1):
        return with_channels(scores, 1).sigmoid()
    return scores


def _copies(
    data_samples: list[SegDataSample] | None, positions: Sequence[int]
) -> list[SegDataSample] | None:
    """Copies, labels too: one detector's prediction must not overwrite another's, and detectors of
    semantic change edit the labels that they are given."""
    if data_samples is None:
        return None
    return [copy.deepcopy(data_samples[position]) for position in positions]
