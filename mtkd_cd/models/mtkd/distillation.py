"""The distillation term of a training step: who teaches each image, how much each cell of the
change maps counts, and what it costs to differ."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample
from torch import Tensor

from mtkd_cd.models.mtkd.building import Detector
from mtkd_cd.models.mtkd.change_map import ChangeMaps, comparable_change_maps
from mtkd_cd.models.mtkd.routing import Routing, RoutingKind, choose_routing, images_by_detector
from mtkd_cd.models.mtkd.teacher_choice import TeacherChoice
from mtkd_cd.models.mtkd.teachers import Teachers


class Distillation:
    """What a distiller is beyond its student. No ``nn.Module``, so that state dict, optimiser, DDP
    and EMA see the student alone.

    Args:
        choice: Finds the CAR range of an image.
        routing: Kind of the routing, and its file: who teaches a range.
        teachers: The frozen detectors.
        loss: Called with (student map, teacher map, weight).
        mask_ignored: Leave out pixels that the label ignores.
    """

    def __init__(
        self,
        choice: TeacherChoice,
        routing: tuple[RoutingKind, str | None],
        teachers: Teachers,
        loss: Any,  # a module; torch types its attributes as tensors
        mask_ignored: bool,
    ) -> None:
        self.choice = choice
        self.teachers = teachers
        self.loss = loss
        self.mask_ignored = mask_ignored
        self._routing_source = routing
        self._routing: Routing | None = None

    @property
    def routing(self) -> Routing:
        """Who teaches which range; read when first asked for."""
        if self._routing is None:
            self._routing = choose_routing(*self._routing_source, self.choice.partition)
        return self._routing

    def load_teachers(self, student: Detector) -> dict[str, Detector]:
        """Build and load every teacher that this distillation can need."""
        return self.teachers.load(self.routing.teachers, student)

    def assign(self, data_samples: Sequence[SegDataSample]) -> list[str]:
        """Name of the teacher of each image."""
        return [self.routing.teachers[index] for index in self.choice.ranges(data_samples)]

    def losses(
        self, student_maps: ChangeMaps, inputs: Tensor, labels: Tensor, taught_by: Sequence[str]
    ) -> dict[str, Tensor]:
        """The loss over a batch, and its unweighted value for the log.

        One forward of each teacher that the batch needs; every valid cell weighs the same.

        Args:
            student_maps: (N, C, h, w) each.
            inputs: (N, 6, H, W), normalised as the student's preprocessor does.
            labels: (N, 1, H, W).
            taught_by: Name of the teacher of each image.
        """
        terms, masses = [], []
        for name, positions in images_by_detector(taught_by):
            teacher_maps = self.teachers.change_maps(name, inputs[positions])
            taught_maps = tuple(change_map[positions] for change_map in student_maps)
            weight = self._weight(labels[positions], taught_maps[0])
            for student, teacher in comparable_change_maps(taught_maps, teacher_maps):
                terms.append(self._distance(student, teacher, weight))
                masses.append(weight.sum())
        mass = torch.stack(masses)
        distance = (torch.stack(terms) * mass).sum() / mass.sum().clamp(min=1)
        if not hasattr(self.loss, 'distance'):
            return {self.loss.loss_name: distance}
        return {
            self.loss.loss_name: self.loss.loss_weight * distance,
            self.loss.log_name: distance.detach(),
        }

    def _distance(self, student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
        return getattr(self.loss, 'distance', self.loss)(student, teacher, weight)

    def _weight(self, labels: Tensor, change_map: Tensor) -> Tensor:
        """(N, 1, h, w): the share of each change map cell that counts, which is that of its valid
        label pixels."""
        size = (change_map.shape[2], change_map.shape[3])
        if not self.mask_ignored:
            return torch.ones((len(labels), 1, *size), device=change_map.device)
        return F.adaptive_avg_pool2d((labels != self.choice.ignore_index).float(), size)
