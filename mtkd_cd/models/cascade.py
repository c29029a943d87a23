"""The O-P strategy at test time: the origin's predicted CAR picks the specialist that predicts again (arXiv:2502.13407, section 4.1)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mtkd_cd.car import DEFAULT_THRESHOLDS, CARPartition, change_area_ratio
from mtkd_cd.checkpoint import load_weights
from mtkd_cd.errors import UserError
from mtkd_cd.models.specialists import Detector, build_detector, build_specialists, check_checkpoint_names, images_by_range, input_converter
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class OriginPartitionCascade(BaseModel):
    """Origin, then the specialist of the predicted CAR range; for prediction only.

    Works on every mmseg-style detector, of any scope. Its data preprocessor is the origin's.

    Args:
        origin: Config of the detector trained on everything.
        thresholds: CAR thresholds between the ranges.
        names: Names of the ranges; see :class:`~mtkd_cd.car.CARPartition`.
        specialists: Config of the specialist of a range, by range name, where it is not the origin's.
        checkpoints: A file for ``origin`` and for each range. ``None`` leaves the weights as built, for instance to load them by hand.
        data_preprocessor: Config of the preprocessor of detectors whose configs have none; mmengine's runner hands on the one at the top
            of a config file.
        init_cfg: As in mmengine.

    Raises:
        UserError: A checkpoint is missing, unreadable or of another model; an entry of ``checkpoints`` or ``specialists`` is not a range.
    """

    def __init__(
        self,
        origin: Mapping[str, Any],
        thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
        names: Sequence[str] | None = None,
        specialists: Mapping[str, Any] | None = None,
        checkpoints: Mapping[str, str] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.partition = CARPartition(thresholds, names)
        if checkpoints is not None:
            check_checkpoint_names(checkpoints, ('origin', *self.partition.names))
        self.origin: Detector = build_detector(origin, data_preprocessor)
        self.specialists: Any = nn.ModuleDict(build_specialists(self.partition, origin, specialists, data_preprocessor))
        self.data_preprocessor = self.origin.data_preprocessor
        for name, detector in (('origin', self.origin), *self.specialists.items()):
            if checkpoints is not None:
                load_weights(detector, checkpoints[name])
        detectors: dict[str, Detector] = dict(self.specialists.items())
        self._convert = {name: input_converter(self.data_preprocessor, detectors[name].data_preprocessor) for name in detectors}

    def forward(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None, mode: str = 'predict') -> list[SegDataSample]:
        """mmengine's entry point; ``mode='predict'`` is the only one that a cascade has."""
        if mode != 'predict':
            raise UserError(f'OriginPartitionCascade predicts only, found mode={mode!r}: train origin and specialists on their own configs')
        return self.predict(inputs, data_samples)

    def predict(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
        """Predict twice: coarsely by the origin, then by the specialist of the coarse prediction's CAR.

        Args:
            inputs: (N, 6, H, W), normalised.
            data_samples: N samples with the metainfo of the pipeline, or ``None``.

        Returns:
            N samples: the specialist's ``pred_sem_seg`` and ``seg_logits``, the origin's prediction as ``coarse_pred_sem_seg``, and in the
            metainfo ``coarse_car``, the CAR that chose, and ``range``, the name of the range it chose.
        """
        coarse = self.origin.predict(inputs, _copies(data_samples, range(len(inputs))))
        coarse_cars = torch.stack([change_area_ratio(sample.pred_sem_seg.data[0]) for sample in coarse])  # (N,)
        results: list[SegDataSample] = list(coarse)
        for name, positions in images_by_range(self.partition.range_of(coarse_cars), self.partition):
            batch = self._convert[name](inputs[positions])
            for position, sample in zip(positions, self.specialists[name].predict(batch, _copies(data_samples, positions))):
                sample.coarse_pred_sem_seg = coarse[position].pred_sem_seg
                sample.set_metainfo(dict(coarse_car=float(coarse_cars[position]), range=name))
                results[position] = sample
        return results


def _copies(data_samples: list[SegDataSample] | None, positions: Sequence[int]) -> list[SegDataSample] | None:
    """Shallow copies, so that one detector's prediction does not overwrite another's."""
    return None if data_samples is None else [data_samples[position].new() for position in positions]
