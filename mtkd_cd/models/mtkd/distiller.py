"""Multi-teacher knowledge distillation: each training image is taught by the frozen specialist of
its CAR range.

Paper: arXiv:2502.13407, sections 4.2 and 4.3.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmseg.structures import SegDataSample
from torch import Tensor

from mtkd_cd.core.car import DEFAULT_THRESHOLDS, CARPartition, change_area_ratio
from mtkd_cd.core.checkpoint import load_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.models.mtkd.change_map import (
    ChangeMaps,
    as_change_maps,
    comparable_change_maps,
    record_change_maps,
)
from mtkd_cd.models.mtkd.routing import ORIGIN, Routing, RoutingKind, check_routing, choose_routing
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

# What makes up a module's place in the module tree. The distiller shares these with its student,
# see MultiTeacherDistiller.__init__.
_MODULE_TREE = (
    '_parameters',
    '_buffers',
    '_non_persistent_buffers_set',
    '_modules',
    '_state_dict_hooks',
    '_state_dict_pre_hooks',
    '_load_state_dict_pre_hooks',
    '_load_state_dict_post_hooks',
)


@MODELS.register_module()
class MultiTeacherDistiller(BaseModel):
    """A student that learns from labels and, image by image, from the teacher of the image's CAR
    range.

    Loss entries are the student's own and ``loss_distill`` = lambda * MSE between the two change
    maps. To everything around it the distiller is the student: parameters, state dict, checkpoints
        and optimiser see the student's names and nothing of the teachers, so that
    a checkpoint loads into the origin's config. Teachers are always in eval mode and never hold
    gradients.

    Works on every mmseg-style detector, of any scope: the student's ``loss()`` runs once per step
    and its change map is recorded on the way, and the images that share a teacher go through it
    together.

    Args:
        student: Config of the detector to train.
        thresholds: CAR thresholds between the teachers' ranges.
        names: Names of the ranges; see :class:`~mtkd_cd.core.car.CARPartition`.
        teachers: Config of the teacher of a range, by range name, where it is not the student's.
            Its change map is made comparable, see
            :func:`~mtkd_cd.models.mtkd.change_map.comparable_change_maps`.
        checkpoints: A file for ``student`` (the origin's weights) and for each range. They are read
            when training starts; prediction needs none.
        routing: ``'car'``: each range is taught by its own specialist, as in the paper.
            ``'validated'``: by the detector that ``routing_file`` names, which may be the frozen
                origin (the student's own start) or another range's specialist; a specialist
            that teaches nowhere is not loaded.
        routing_file: A ``routing.json``, see :mod:`mtkd_cd.models.mtkd.routing`; read when training
            starts, and not with ``routing='car'``.
        distill_loss: Config of a loss called with (student map, teacher map, weight); its
            ``loss_weight`` is the paper's lambda.
        car_source: Which CAR chooses the teacher. ``'stored'``: the ``car`` in the sample's
            metainfo, of the label before augmentation, by which the specialists were partitioned.
            ``'augmented'``: that of the valid pixels of the augmented label. ``'auto'``: stored
                where the pipeline brings one, else augmented.
        mask_ignored: Leave pixels that the label ignores out of the distillation loss, by the share
            of each change map cell.
        compat: ``'opencd'`` chooses teachers as Open-CD 1.1.0 does, for comparison: CAR of the
            augmented label with ignored pixels counted as change, ``<`` at the thresholds, no mask.
        ignore_index: Label value of ignored pixels.
        data_preprocessor: Config of the preprocessor of detectors whose configs have none;
            mmengine's runner hands on the one at the top of a config file.
        init_cfg: As in mmengine.

    Raises:
        UserError: Bad thresholds or names, or ``compat`` together with a validated routing; in
            :meth:`init_weights`, a checkpoint that is missing, unreadable or of another model, or
            such a routing file.
    """

    student: Detector

    def __init__(
        self,
        student: Mapping[str, Any],
        thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
        names: Sequence[str] | None = None,
        teachers: Mapping[str, Any] | None = None,
        checkpoints: Mapping[str, str] | None = None,
        routing: RoutingKind = 'car',
        routing_file: str | None = None,
        distill_loss: Mapping[str, Any] = {'type': 'mtkd_cd.ChangeMapMSELoss', 'loss_weight': 1e-4},
        car_source: Literal['auto', 'stored', 'augmented'] = 'auto',
        mask_ignored: bool = True,
        compat: Literal['opencd'] | None = None,
        ignore_index: int = 255,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        _check_choice('car_source', car_source, ('auto', 'stored', 'augmented'))
        _check_choice('compat', compat, (None, 'opencd'))
        check_routing(routing, routing_file)
        if compat is not None and routing != 'car':
            raise UserError(
                f'compat={compat!r} reproduces Open-CD, which has no routing={routing!r}: leave '
                'one of the two out'
            )
        self.partition = CARPartition(thresholds, names)
        self.car_source = car_source
        self.compat = compat
        self.mask_ignored = mask_ignored and compat is None
        self.ignore_index = ignore_index
        if checkpoints is not None:
            check_checkpoint_names(checkpoints, ('student', *self.partition.names))
        self._checkpoints = checkpoints
        self._teacher_configs = (student, teachers, data_preprocessor)
        check_range_names(teachers, self.partition)
        self._routing_source = (routing, routing_file)
        # Plain objects, unknown to nn.Module: neither teachers nor the loss belong into
        # checkpoints, optimisers or DDP.
        self._teachers: dict[str, Detector] | None = None
        self._routing: Routing | None = None
        self._convert: dict[str, Callable[[Tensor], Tensor]] = {}
        self._distill_loss = [MODELS.build(dict(distill_loss))]
        detector = build_detector(student, data_preprocessor)
        object.__setattr__(self, 'student', detector)
        # The distiller takes the student's place in the module tree: every walk over it
        # (state_dict, mmengine's own checkpoint code, the optimiser constructors, DDP, .to()) finds
        # the student's parts under the student's names.
        for attribute in _MODULE_TREE:
            self.__dict__[attribute] = detector.__dict__[attribute]

    def __getattr__(self, name: str) -> Any:
        """Whatever else the surroundings ask of a detector (``num_classes``,
        ``with_auxiliary_head``, ...) the student answers."""
        if name == 'student':  # not there yet: while being built, copied or unpickled
            raise AttributeError(name)
        return getattr(self.student, name)

    @property
    def routing(self) -> Routing:
        """Who teaches which range; read when first asked for."""
        if self._routing is None:
            self._routing = choose_routing(*self._routing_source, self.partition)
        return self._routing

    @property
    def teachers(self) -> dict[str, Detector]:
        """The frozen teachers by name, a range's or ``'origin'``, those that teach; built and
        loaded when first asked for."""
        if self._teachers is None:
            self._teachers = self._load_teachers()
        return self._teachers

    def init_weights(self) -> None:
        """Load the student's and the teachers' weights; mmengine's runner calls this before
        training.

        Without checkpoints the student initialises itself as on its own, and the teachers keep the
        weights they were built with.
        """
        if self._checkpoints is None:
            self.student.init_weights()
        else:
            load_weights(self.student, self._checkpoints['student'])
            print_log(f'Student initialised from {self._checkpoints["student"]}', logger='current')
        self._teachers = self._load_teachers()

    def _load_teachers(self) -> dict[str, Detector]:
        teachers = build_specialists(self.routing.teachers, *self._teacher_configs)
        parameter = next(self.student.parameters())
        for name, teacher in teachers.items():
            if self._checkpoints is not None:
                self._load_teacher(
                    name, teacher, self._checkpoints['student' if name == ORIGIN else name]
                )
            elif name == ORIGIN:
                teacher.load_state_dict(self.student.state_dict())
            teacher.eval().requires_grad_(False).to(parameter.device)
        self._convert = {
            name: input_converter(self.student.data_preprocessor, teacher.data_preprocessor)
            for name, teacher in teachers.items()
        }
        return teachers

    def _load_teacher(self, name: str, teacher: Detector, checkpoint: str) -> None:
        load_weights(teacher, checkpoint)
        taught = [
            self.partition.bounds_text(own)
            for own, by in zip(self.partition.names, self.routing.teachers)
            if by == name
        ]
        print_log(f'Teacher for {" and ".join(taught)} ({name}): {checkpoint}', logger='current')

    def forward(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None, mode: str = 'tensor'
    ) -> Any:
        """mmengine's entry point: ``loss`` distils, every other mode is the student's own."""
        if mode == 'loss':
            return self.loss(inputs, data_samples or [])
        return self.student(inputs, data_samples, mode=mode)

    def loss(self, inputs: Tensor, data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        """The student's losses and ``loss_distill``.

        Args:
            inputs: (N, 6, H, W), normalised.
            data_samples: N samples with ``gt_sem_seg`` and, for ``car_source='stored'``, ``car`` in
                the metainfo.
        """
        with record_change_maps(self.student.decode_head) as recorded:
            losses = self.student.loss(inputs, data_samples)
        if not recorded:
            raise UserError(
                f'{type(self.student).__name__}.loss() never calls decode_head.forward, so its '
                "change map can't be recorded"
            )
        losses[self._distill_loss[0].loss_name] = self._distill(recorded[-1], inputs, data_samples)
        return losses

    def _distill(
        self, student_maps: ChangeMaps, inputs: Tensor, data_samples: list[SegDataSample]
    ) -> Tensor:
        """The distillation loss over the batch: one forward of each teacher that it needs, every
        valid cell weighs the same."""
        terms, masses = [], []
        for name, positions in images_by_detector(self.ranges(data_samples), self.routing.teachers):
            teacher_maps = self._teach(name, inputs[positions])
            taught_maps = tuple(change_map[positions] for change_map in student_maps)
            weight = self._weight(
                [data_samples[position] for position in positions], taught_maps[0]
            )
            for student, teacher in comparable_change_maps(taught_maps, teacher_maps):
                terms.append(self._distill_loss[0](student, teacher, weight))
                masses.append(weight.sum())
        mass = torch.stack(masses)
        return (torch.stack(terms) * mass).sum() / mass.sum().clamp(min=1)

    @torch.no_grad()
    def _teach(self, name: str, inputs: Tensor) -> ChangeMaps:
        teacher = self.teachers[name]
        return as_change_maps(teacher(self._convert[name](inputs), mode='tensor'))

    def _weight(self, data_samples: list[SegDataSample], change_map: Tensor) -> Tensor:
        """(N, 1, h, w): the share of each change map cell that counts, which is that of its valid
        label pixels."""
        if not self.mask_ignored:
            return change_map.new_ones(
                (len(data_samples), 1, *change_map.shape[2:]), dtype=torch.float32
            )
        valid = (
            torch.stack([sample.gt_sem_seg.data for sample in data_samples]) != self.ignore_index
        )  # (N, 1, H, W)
        return F.adaptive_avg_pool2d(valid.float(), (change_map.shape[2], change_map.shape[3]))

    def ranges(self, data_samples: list[SegDataSample]) -> Tensor:
        """(N,) index of the CAR range, by which its teacher is chosen, of each image; on the
        CPU."""
        if self.compat == 'opencd':
            changed = torch.stack(
                [(sample.gt_sem_seg.data > 0).float().mean() for sample in data_samples]
            )
            return self.partition.range_of(changed.cpu(), right=False)
        stored = [
            None if self.car_source == 'augmented' else sample.metainfo.get('car')
            for sample in data_samples
        ]
        if None not in stored:
            return self.partition.range_of(torch.tensor(stored, dtype=torch.float64))
        if self.car_source == 'stored':
            raise UserError(
                "car_source='stored', but "
                f'{data_samples[stored.index(None)].metainfo.get("img_path", "a sample")} carries '
                'no `car` in its '
                "metainfo. Load labels with mtkd_cd's MultiImgLoadAnnotations, wrap the data set "
                'in CARPartitionDataset, or set '
                "car_source='auto'"
            )
        labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data_samples])  # (N, H, W)
        augmented = change_area_ratio(labels, self.ignore_index).tolist()
        cars = [augmented[i] if car is None else car for i, car in enumerate(stored)]
        return self.partition.range_of(torch.tensor(cars, dtype=torch.float64))

    def train(self, mode: bool = True) -> 'MultiTeacherDistiller':
        """Switch the student; teachers stay in eval mode."""
        self.training = mode
        self.student.train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> 'MultiTeacherDistiller':
        super()._apply(fn, recurse)
        for teacher in (self._teachers or {}).values():
            teacher._apply(fn, recurse)
        return self

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.student._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.student._load_from_state_dict(*args, **kwargs)


def _check_choice(argument: str, value: object, choices: tuple) -> None:
    if value not in choices:
        raise UserError(f'{argument}={value!r}: choose one of {", ".join(map(repr, choices))}')
