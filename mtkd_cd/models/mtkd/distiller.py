"""Multi-teacher knowledge distillation: each training image is taught by the frozen specialist of
its CAR range.

Paper: arXiv:2502.13407, sections 4.2 and 4.3.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmseg.structures import SegDataSample
from torch import Tensor

from mtkd_cd.core.car import DEFAULT_THRESHOLDS, IGNORE_INDEX, CARPartition
from mtkd_cd.core.checkpoint import load_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.models.mtkd.building import (
    Detector,
    build_detector,
    check_checkpoint_names,
    check_range_names,
)
from mtkd_cd.models.mtkd.change_map import BINARY_MAP, record_change_maps
from mtkd_cd.models.mtkd.distillation import Distillation
from mtkd_cd.models.mtkd.routing import Routing, RoutingKind, check_routing
from mtkd_cd.models.mtkd.teacher_choice import CarSource, TeacherChoice
from mtkd_cd.models.mtkd.teachers import Teachers
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class MultiTeacherDistiller(BaseModel):
    """A student that learns from labels and, image by image, from the teacher of the image's CAR
    range.

    The distiller *is* the student: the detector that the config describes, of a class derived from
    its own, in which ``loss`` adds the distillation. So parameters, state dict, checkpoints,
    optimiser, DDP and EMA see the student's names and nothing of the teachers, and a checkpoint
    loads into the origin's config. All else lies in one plain attribute, ``distillation``.

    Loss entries are the student's own, ``loss_distill`` = lambda * MSE between the two change maps,
    and ``mse_distill``, that MSE itself, which is logged and not trained on. Teachers are always in
    eval mode and never hold gradients.

    Works on every mmseg-style detector, of any scope: the student's ``loss()`` runs once per step
    and its change map is recorded on the way, and the images that share a teacher go through it
    together.

    Args:
        student: Config of the detector to train, or the detector, which is copied.
        thresholds: CAR thresholds between the teachers' ranges.
        names: Names of the ranges; see :class:`~mtkd_cd.core.car.CARPartition`.
        teachers: Config of the teacher of a range, by range name, where it is not the student's.
            Its change map is made comparable, see
            :func:`~mtkd_cd.models.mtkd.change_map.comparable_change_maps`.
        checkpoints: A file for ``student`` (the origin's weights) and for each range. They are read
            when training starts; prediction needs none.
        routing: ``'car'``: each range is taught by its own specialist, as in the paper.
            ``'validated'``: by the detector that ``routing_file`` names, which may be the frozen
            origin (the student's own start) or another range's specialist; a specialist that
            teaches nowhere is not loaded.
        routing_file: A ``routing.json``, see :mod:`mtkd_cd.models.mtkd.routing`; read when training
            starts, and not with ``routing='car'``.
        distill_loss: Config of a loss called with (student map, teacher map, weight); its
            ``loss_weight`` is the paper's lambda.
        car_source: Which CAR chooses the teacher, see
            :class:`~mtkd_cd.models.mtkd.teacher_choice.TeacherChoice`.
        mask_ignored: Leave pixels that the label ignores out of the distillation loss, by the share
            of each change map cell.
        compat: ``'opencd'`` chooses teachers as Open-CD 1.1.0 does, for comparison: CAR of the
            augmented label with ignored pixels counted as change, ``<`` at the thresholds, no mask.
        change_map: Where a decode head returns a dictionary, the entry that holds the binary change
            map.
        ignore_index: Label value of ignored pixels.
        data_preprocessor: Config of the preprocessor of detectors whose configs have none;
            mmengine's runner hands on the one at the top of a config file.

    Raises:
        UserError: Bad thresholds or names, or ``compat`` together with a validated routing; in
            :meth:`init_weights`, a checkpoint that is missing, unreadable or of another model, or
            such a routing file.
    """

    distillation: Distillation

    def __new__(
        cls,
        student: Mapping[str, Any] | Detector,
        *args: Any,
        data_preprocessor: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> 'MultiTeacherDistiller':
        """The student, made a distiller; Python then calls :meth:`__init__` on it."""
        detector = build_detector(student, data_preprocessor)
        detector.__class__ = _distilling_class(cls, type(detector))  # type: ignore[arg-type]
        return detector

    def __init__(
        self,
        student: Mapping[str, Any] | Detector,
        thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
        names: Sequence[str] | None = None,
        *,
        teachers: Mapping[str, Any] | None = None,
        checkpoints: Mapping[str, str] | None = None,
        routing: RoutingKind = 'car',
        routing_file: str | None = None,
        distill_loss: Mapping[str, Any] = {'type': 'mtkd_cd.ChangeMapMSELoss', 'loss_weight': 1e-4},
        car_source: CarSource = 'auto',
        mask_ignored: bool = True,
        compat: Literal['opencd'] | None = None,
        change_map: str = BINARY_MAP,
        ignore_index: int = IGNORE_INDEX,
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        # Not super().__init__(): the student is complete.
        check_routing(routing, routing_file)
        if compat is not None and routing != 'car':
            raise UserError(
                f'compat={compat!r} reproduces Open-CD, which has no routing={routing!r}: leave '
                'one of the two out'
            )
        partition = CARPartition(thresholds, names)
        if checkpoints is not None:
            check_checkpoint_names(checkpoints, ('student', *partition.names))
        check_range_names(teachers, partition)
        self.distillation = Distillation(
            TeacherChoice(partition, car_source, compat, ignore_index),
            (routing, routing_file),
            Teachers(student, teachers, data_preprocessor, checkpoints, change_map),
            MODELS.build(dict(distill_loss)),
            mask_ignored and compat is None,
        )
        self._start = checkpoints['student'] if checkpoints is not None else None
        self._change_map = change_map

    @property
    def student(self) -> Detector:
        """The student, which is the distiller itself."""
        return self

    @property
    def partition(self) -> CARPartition:
        """The CAR ranges of the teachers."""
        return self.distillation.choice.partition

    @property
    def routing(self) -> Routing:
        """Who teaches which range; read when first asked for."""
        return self.distillation.routing

    @property
    def teachers(self) -> dict[str, Detector]:
        """The frozen teachers by name, a range's or ``'origin'``, those that teach; built and
        loaded when first asked for."""
        return self.distillation.teachers.detectors or self.distillation.load_teachers(self)

    def ranges(self, data_samples: list[SegDataSample]) -> Tensor:
        """(N,) index of the CAR range, by which its teacher is chosen, of each image; on the
        CPU."""
        return self.distillation.choice.ranges(data_samples)

    def init_weights(self) -> None:
        """Load the student's and the teachers' weights; mmengine's runner calls this before
        training.

        Without checkpoints the student initialises itself as on its own, and the teachers keep the
        weights they were built with.
        """
        if self._start is None:
            super().init_weights()
        else:
            load_weights(self, self._start)
            print_log(f'Student initialised from {self._start}', logger='current')
        self.distillation.load_teachers(self)

    def loss(self, inputs: Tensor, data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        """The student's losses and the distillation's.

        Args:
            inputs: (N, 6, H, W), normalised.
            data_samples: N samples with ``gt_sem_seg`` and, for ``car_source='stored'``, ``car`` in
                the metainfo.
        """
        # Before the student's loss: it may edit the labels.
        labels = torch.stack([sample.gt_sem_seg.data for sample in data_samples])  # (N, 1, H, W)
        taught_by = self.distillation.assign(data_samples)
        self.teachers  # noqa: B018  (are loaded before the forward is recorded)
        with record_change_maps(self.decode_head, self._change_map) as recorded:
            losses = super().loss(inputs, data_samples)
        if not recorded:
            raise UserError(
                f'{type(self).__name__}.loss() never calls decode_head.forward, so its '
                "change map can't be recorded"
            )
        return losses | self.distillation.losses(recorded[-1], inputs, labels, taught_by)

    def _apply(self, *args: Any, **kwargs: Any) -> 'MultiTeacherDistiller':
        super()._apply(*args, **kwargs)
        self.distillation.teachers.apply(lambda teacher: teacher._apply(*args, **kwargs))
        return self

    def __reduce__(self) -> tuple:
        """Copy and pickle: a class made on the spot is named by its two bases."""
        return _bare_distiller, type(self).__bases__, self.__dict__


@cache
def _distilling_class(distiller: type, student: type) -> type:
    """``student``'s class, with ``distiller``'s methods before its own."""
    return type(student)(
        student.__name__,
        (distiller, student),
        {'__module__': student.__module__, '__doc__': distiller.__doc__},
    )


def _bare_distiller(distiller: type, student: type) -> MultiTeacherDistiller:
    return object.__new__(_distilling_class(distiller, student))
