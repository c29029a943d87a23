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
from mtkd_cd.models.mtkd.change_map import (
    BINARY_MAP,
    ChangeMaps,
    as_change_maps,
    decision_level,
    record_change_maps,
)
from mtkd_cd.models.mtkd.distillation import Distillation, TeacherRouting
from mtkd_cd.models.mtkd.routing import ORIGIN, Routing, samples_at
from mtkd_cd.models.mtkd.stacking import Batching
from mtkd_cd.models.mtkd.teacher_choice import CarSource, TeacherChoice
from mtkd_cd.models.mtkd.teachers import Teachers, is_one_detector
from mtkd_cd.models.mtkd.unlabelled import (
    UnlabelledPairs,
    is_unlabelled,
    refuse_unlabelled,
    unchanged_label,
)
from mtkd_cd.models.pretrained import widening
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
    and ``mse_distill``, that MSE itself, which is logged and not trained on. Other distances are
    logged as ``kl_distill`` and ``margin_distill``. Teachers are always in eval mode and never hold
    gradients.

    Works on every mmseg-style detector, of any scope. The student's ``loss()`` runs once per step,
    and its change map is recorded on the way. The images that share a teacher go through it
    together.

    Args:
        student: Config of the detector to train, or the detector, which is copied.
        thresholds: CAR thresholds between the teachers' ranges.
        names: Names of the ranges; see :class:`~mtkd_cd.core.car.CARPartition`.
        teachers: Config of all teachers where they are another detector than the student, or
            configs by name: a range's or ``'origin'``. Their change maps are made comparable, see
            :func:`~mtkd_cd.models.mtkd.change_map.comparable_change_maps`.
        checkpoints: A file for ``student`` (its start) and for each range; for ``origin`` where it
            is another one than the student's start. They are read when training starts; prediction
            needs none.
        routing: Who teaches an image. ``'car'``: the specialist of its CAR range, as in the paper.
            ``'validated'``: whom ``routing_file`` names for this range, which may be the frozen
            origin (by default the student's own start) or another range's specialist.
            ``'origin'``: the origin, always. ``'cascade'``: whom the cascade of the teachers would
            let predict, by the CAR that the origin predicts; with the cuts of ``routing_file``, if
            given. ``'best'``: of origin and specialists the one with the smallest cross-entropy
            under the image's label. Only detectors that can teach are loaded.
        routing_file: A ``routing.json``, see :mod:`mtkd_cd.models.mtkd.routing`; read when training
            starts.
        distill_loss: Config of a loss called with (student map, teacher map, weight), such as
            :class:`~mtkd_cd.models.losses.ChangeMapLoss`; its ``loss_weight`` is the paper's
            lambda.
        car_source: Which CAR chooses the range, see
            :class:`~mtkd_cd.models.mtkd.teacher_choice.TeacherChoice`.
        mask_ignored: Leave pixels that the label ignores out of the distillation loss, by the share
            of each change map cell.
        wrong_weight: How much a pixel counts in the distillation where its teacher contradicts the
            label: 1 as in the paper, 0 to learn only from what teachers get right.
        unlabelled: Let teachers teach pairs without labels too: ``dict()`` or the arguments of
            :class:`~mtkd_cd.models.mtkd.unlabelled.UnlabelledPairs`. Their teacher is chosen by
            the CAR that the origin predicts, as in a cascade. ``None`` refuses such pairs.
        folds: Number of folds. The specialists of a range are then as many as there are folds, each
            trained without one fold; an image is taught by one that has not seen it. ``{fold}`` in
            a checkpoint's path stands for the number; samples carry ``fold`` in their metainfo.
        compat: ``'opencd'`` chooses teachers as Open-CD 1.1.0 does, for comparison: CAR of the
            augmented label with ignored pixels counted as change, ``<`` at the thresholds, no mask.
        change_map: Where a decode head returns a dictionary, the entry that holds the binary change
            map.
        prediction: The entry of the origin's result that holds the binary change map, where the
            CAR that it predicts chooses.
        ignore_index: Label value of ignored pixels.
        data_preprocessor: Config of the preprocessor of detectors whose configs have none;
            mmengine's runner hands on the one at the top of a config file.
        teacher_options: How teachers are made ready, arguments of
            :func:`~mtkd_cd.models.prepare.prepare`: ``dict(precision='bfloat16')``, for instance.
            On a GPU they are replayed as CUDA graphs, unless it has ``graphs=False``.
        teacher_batching: How the teachers of a batch are asked. ``'grouped'``: one after the other,
            each about its images. ``'stacked'``: together, where they share one architecture, as
            one network of stacked weights. ``'auto'``: whichever is faster on the first batch, as
            the log says. The results of the first batch are compared and must agree within 1e-5.

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
        teachers: Mapping[str, Any] | Detector | None = None,
        checkpoints: Mapping[str, str] | None = None,
        routing: TeacherRouting = 'car',
        routing_file: str | None = None,
        distill_loss: Mapping[str, Any] = {'type': 'mtkd_cd.ChangeMapMSELoss', 'loss_weight': 1e-4},
        car_source: CarSource = 'auto',
        mask_ignored: bool = True,
        wrong_weight: float = 1.0,
        unlabelled: Mapping[str, Any] | None = None,
        folds: int | None = None,
        compat: Literal['opencd'] | None = None,
        change_map: str = BINARY_MAP,
        prediction: str = 'pred_sem_seg',
        ignore_index: int = IGNORE_INDEX,
        data_preprocessor: Mapping[str, Any] | None = None,
        teacher_options: Mapping[str, Any] = {},
        teacher_batching: Batching = 'grouped',
    ) -> None:
        # Not super().__init__(): the student is complete.
        partition = CARPartition(thresholds, names)
        by_name = {} if is_one_detector(teachers) else dict(teachers or {})
        check_range_names({n: None for n in by_name if n != ORIGIN}, partition)
        self.distillation = Distillation(
            TeacherChoice(partition, car_source, compat, ignore_index),
            routing,
            routing_file,
            Teachers(
                student,
                teachers,
                data_preprocessor,
                checkpoints,
                change_map,
                prediction,
                teacher_options,
                teacher_batching,
            ),
            MODELS.build(dict(distill_loss)),
            mask_ignored and compat is None,
            wrong_weight,
            None if unlabelled is None else UnlabelledPairs(**unlabelled),
            folds,
        )
        if checkpoints is not None:
            specialists = () if routing == 'origin' else partition.names
            has_own_origin = is_one_detector(teachers) or ORIGIN in (teachers or {})
            needs_origin = routing in ('origin', 'cascade', 'best') or unlabelled is not None
            own_origin = (ORIGIN,) if has_own_origin and needs_origin else ()
            check_checkpoint_names(
                checkpoints, ('student', *own_origin, *specialists), (ORIGIN, *partition.names)
            )

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
        """The frozen teachers that teach, by the name of their range or ``'origin'``. They are
        built and loaded when first asked for."""
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
        start = self.distillation.teachers.student_checkpoint
        if start is None:
            super().init_weights()
        else:
            load_weights(self, start, adapt=widening(self))
            print_log(f'Student initialised from {start}', logger='current')
        self.distillation.load_teachers(self)

    def loss(self, inputs: Tensor, data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        """The student's losses and the distillation's.

        Args:
            inputs: (N, 6, H, W), normalised.
            data_samples: N samples with ``gt_sem_seg``, unless they are unlabelled, and, for
                ``car_source='stored'``, ``car`` in the metainfo.
        """
        ignore_index = self.distillation.choice.ignore_index
        unlabelled: list[int] = []
        if self.distillation.unlabelled is None:
            refuse_unlabelled(data_samples)
        else:
            found = [is_unlabelled(sample, ignore_index) for sample in data_samples]
            unlabelled = [position for position, is_one in enumerate(found) if is_one]
        self.teachers  # noqa: B018  (are loaded first)
        # Before the student's loss, which may edit the labels.
        lessons = self.distillation.begin(inputs, data_samples, unlabelled)
        if not unlabelled:
            losses, maps = self._supervise(inputs, data_samples)
        elif len(unlabelled) < len(data_samples):
            losses, maps = self._supervise_some(inputs, data_samples, unlabelled)
        else:
            losses, maps = self._supervise_none(inputs, data_samples)
        level = decision_level(self.decode_head)
        return losses | self.distillation.losses(maps, lessons(), level)

    def _supervise(
        self, inputs: Tensor, data_samples: list[SegDataSample]
    ) -> tuple[dict[str, Any], ChangeMaps]:
        """The student's own losses, and its change maps, recorded on the way."""
        entry = self.distillation.teachers.change_map
        with record_change_maps(self.decode_head, entry) as recorded:
            losses = super().loss(inputs, data_samples)
        if not recorded:
            raise UserError(
                f'{type(self).__name__}.loss() never calls decode_head.forward, so its '
                "change map can't be recorded"
            )
        return losses, recorded[-1]

    def _supervise_some(
        self, inputs: Tensor, data_samples: list[SegDataSample], unlabelled: list[int]
    ) -> tuple[dict[str, Any], ChangeMaps]:
        """The losses of the labelled pairs alone, and the change maps of all.

        In two forwards: a label that ignores every pixel is not ignored by every loss. Dice pulls
        such a pair to no change, and a cross-entropy averaged over all pixels shrinks with it.
        """
        labelled = [i for i in range(len(data_samples)) if i not in unlabelled]
        losses, maps = self._supervise(
            samples_at(inputs, labelled), [data_samples[i] for i in labelled]
        )
        entry = self.distillation.teachers.change_map
        others = as_change_maps(self(samples_at(inputs, unlabelled), mode='tensor'), entry)
        order = labelled + unlabelled
        place = sorted(range(len(order)), key=order.__getitem__)
        return losses, tuple(samples_at(torch.cat(both), place) for both in zip(maps, others))

    def _supervise_none(
        self, inputs: Tensor, data_samples: list[SegDataSample]
    ) -> tuple[dict[str, Any], ChangeMaps]:
        """Losses of 0 under the usual names, which every parameter takes part in, as DDP wants."""
        # Under a label that ignores everything some losses of mmseg fail, or are not a number.
        unchanged = [
            unchanged_label(sample, inputs.shape[2:], inputs.device) for sample in data_samples
        ]
        losses, maps = self._supervise(inputs, unchanged)
        return {name: _nothing_of(value) for name, value in losses.items()}, maps

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


def _nothing_of(value: Any) -> Any:
    """0, with gradients of 0."""
    return value * 0 if isinstance(value, Tensor) else [_nothing_of(entry) for entry in value]
