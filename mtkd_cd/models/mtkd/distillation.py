"""The distillation term of a training step: who teaches each image, how much each cell of the
change maps counts, and what it costs to differ."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample
from torch import Tensor

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import fold_teacher
from mtkd_cd.models.mtkd.building import Detector
from mtkd_cd.models.mtkd.change_map import (
    ChangeMaps,
    change_log_odds,
    comparable_change_maps,
    decision_level,
)
from mtkd_cd.models.mtkd.routing import (
    ORIGIN,
    Routing,
    car_routing,
    check_routing,
    load_routing,
    origin_routing,
    samples_at,
)
from mtkd_cd.models.mtkd.teacher_choice import TeacherChoice, check_choice
from mtkd_cd.models.mtkd.teachers import Teachers
from mtkd_cd.models.mtkd.unlabelled import UnlabelledPairs

TeacherRouting = Literal['car', 'validated', 'origin', 'cascade', 'best']


class Lesson(NamedTuple):
    """What one teacher says about some images of a batch.

    Attributes:
        positions: Of the images in the batch.
        change_maps: (n, C, h, w) each.
        weight: (n, 1, H, W), how much each pixel counts.
        level: The :func:`~mtkd_cd.models.mtkd.change_map.decision_level` of its head.
    """

    positions: list[int]
    change_maps: ChangeMaps
    weight: Tensor
    level: float


@dataclass
class Distillation:
    """Holds all that a distiller has beside its student. It is no ``nn.Module``, so that state
    dict, optimiser, DDP and EMA see the student alone.

    Attributes:
        choice: Finds the CAR range of a labelled image.
        kind: How teachers are chosen, as :class:`MultiTeacherDistiller` takes it.
        routing_file: The validated routing's file.
        teachers: The frozen detectors.
        loss: A module called with (student map, teacher map, weight).
        mask_ignored: Whether to leave out pixels that the label ignores.
        wrong_weight: How much a pixel counts where the teacher contradicts the label.
        unlabelled: How pairs without labels count; ``None`` refuses them.
        folds: Number of folds, each with its own specialists.

    Raises:
        UserError: An unknown kind, or one that needs a file and has none; weights or folds out of
            range.
    """

    choice: TeacherChoice
    kind: TeacherRouting
    routing_file: str | os.PathLike | None
    teachers: Teachers
    loss: Any
    mask_ignored: bool = True
    wrong_weight: float = 1.0
    unlabelled: UnlabelledPairs | None = None
    folds: int | None = None
    _routing: Routing | None = None

    def __post_init__(self) -> None:
        check_choice('routing', self.kind, get_args(TeacherRouting))
        if self.kind == 'validated':
            check_routing(self.kind, self.routing_file)
        if not 0 <= self.wrong_weight <= 1:
            raise UserError(f'wrong_weight={self.wrong_weight!r}: it must lie in [0, 1]')
        if self.folds is not None and self.folds < 2:
            raise UserError(f'folds={self.folds!r}: at least 2 folds are needed')
        if self.choice.compat is not None and self.kind != 'car':
            raise UserError(
                f'compat={self.choice.compat!r} reproduces Open-CD, which has no '
                f'routing={self.kind!r}: leave one of the two out'
            )

    @property
    def routing(self) -> Routing:
        """Who teaches which range, by true and by predicted CAR; read when first asked for."""
        if self._routing is None:
            partition = self.choice.partition
            if self.kind == 'origin':
                self._routing = origin_routing(partition)
            elif self.kind == 'validated' or (self.kind == 'cascade' and self.routing_file):
                self._routing = load_routing(str(self.routing_file), partition)
            else:
                self._routing = car_routing(partition)
        return self._routing

    @property
    def _all(self) -> tuple[str, ...]:
        """From whom the best is chosen; the origin has seen every fold."""
        names = self.choice.partition.names
        return (ORIGIN, *names) if self.folds is None else tuple(names)

    def load_teachers(self, student: Detector) -> dict[str, Detector]:
        """Build and load every teacher that this distillation can need."""
        names = list(self.routing.teachers)
        if self.kind == 'best':
            names = list(self._all)
        elif self.kind == 'cascade':
            names = [ORIGIN, *self.routing.detectors]
        if self.unlabelled is not None:
            names += [ORIGIN, *self.routing.detectors]
        if self.folds is not None:
            names = [
                name if name == ORIGIN else fold_teacher(name, fold)
                for name in names
                for fold in range(self.folds)
            ]
        return self.teachers.load(names, student)

    def begin(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample], unlabelled: Sequence[int]
    ) -> Callable[[], list[Lesson]]:
        """Ask the teachers about a batch, and give what waits for their lessons; one forward of
        each that it needs. The student may learn meanwhile, and its loss may edit the labels.

        Args:
            inputs: (N, 6, H, W), normalised as the student's preprocessor does.
            data_samples: N samples; the label of those in ``unlabelled`` is not looked at.
            unlabelled: Positions of the pairs without a label.
        """
        labels = self._labels(inputs, data_samples, unlabelled)
        asked: dict[str, list[int]] = {}
        for position, names in enumerate(self._candidates(inputs, data_samples, unlabelled)):
            for name in names:
                fold_name = self._of_fold(name, data_samples[position], position in unlabelled)
                asked.setdefault(fold_name, []).append(position)
        questions = [(name, samples_at(inputs, positions)) for name, positions in asked.items()]
        wait = self.teachers.begin(questions)

        def lessons() -> list[Lesson]:
            answers = [(*question, maps) for question, maps in zip(asked.items(), wait())]
            if self.kind == 'best':
                answers = self._best(answers, labels)
            return [self._lesson(*answer, labels, unlabelled) for answer in answers]

        return lessons

    def _lesson(
        self,
        name: str,
        positions: list[int],
        maps: ChangeMaps,
        labels: Tensor,
        unlabelled: Sequence[int],
    ) -> Lesson:
        is_labelled = [position not in unlabelled for position in positions]
        weight = self._pixel_weight(name, maps, samples_at(labels, positions), is_labelled)
        return Lesson(positions, maps, weight, decision_level(self._head(name)))

    def losses(
        self, student_maps: ChangeMaps, lessons: Sequence[Lesson], level: float = 0.0
    ) -> dict[str, Tensor]:
        """The loss over a batch, and its unweighted value for the log.

        Args:
            student_maps: (N, C, h, w) each.
            lessons: What the teachers say about the same batch.
            level: The decision level of the student's head.
        """
        terms, masses = [], []
        samples = [change_map.unbind() for change_map in student_maps]  # once: one gradient each
        for positions, teacher_maps, pixel_weight, teachers_level in lessons:
            taught_maps = tuple(torch.stack([rows[i] for i in positions]) for rows in samples)
            # Of a cell, the mean over its pixels.
            size = (taught_maps[0].shape[2], taught_maps[0].shape[3])
            weight = F.adaptive_avg_pool2d(pixel_weight, size)
            pairs = comparable_change_maps(taught_maps, teacher_maps, level - teachers_level)
            for student, teacher in pairs:
                terms.append(getattr(self.loss, 'distance', self.loss)(student, teacher, weight))
                masses.append(weight.sum())
        mass = torch.stack(masses)
        distance = (torch.stack(terms) * mass).sum() / mass.sum().clamp(min=1)
        if not hasattr(self.loss, 'distance'):
            return {self.loss.loss_name: distance}
        return {
            self.loss.loss_name: self.loss.loss_weight * distance,
            self.loss.log_name: distance.detach(),
        }

    def _labels(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample], unlabelled: Sequence[int]
    ) -> Tensor:
        """(N, 1, H, W), a copy; a pair without label ignores every pixel."""
        ignored = torch.full(
            (1, *inputs.shape[2:]), self.choice.ignore_index, dtype=torch.long, device=inputs.device
        )
        return torch.stack(
            [
                ignored if position in unlabelled else sample.gt_sem_seg.data.to(ignored)
                for position, sample in enumerate(data_samples)
            ]
        )

    def _candidates(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample], unlabelled: Sequence[int]
    ) -> list[tuple[str, ...]]:
        """The teachers to ask about each image: one, or all from whom the best is chosen."""
        candidates: list[tuple[str, ...]] = [()] * len(data_samples)
        labelled = [i for i in range(len(data_samples)) if i not in unlabelled]
        predicted = list(range(len(data_samples))) if self.kind == 'cascade' else list(unlabelled)
        if self.kind == 'best':
            for position in labelled:
                candidates[position] = self._all
        elif self.kind != 'cascade' and labelled:
            ranges = self.choice.ranges([data_samples[position] for position in labelled])
            for position, index in zip(labelled, ranges.tolist()):
                candidates[position] = (self.routing.teachers[index],)
        if predicted:
            served = self.routing.serving(
                self.teachers.predicted_cars(samples_at(inputs, predicted))
            )
            for position, index in zip(predicted, served.tolist()):
                candidates[position] = (self.routing.detectors[index],)
        return candidates

    def _of_fold(self, name: str, sample: SegDataSample, is_unlabelled: bool) -> str:
        """The specialist that was trained without the fold of this image."""
        if self.folds is None or name == ORIGIN:
            return name
        fold = 0 if is_unlabelled else sample.metainfo.get('fold')  # no specialist has seen those
        if fold is None or not 0 <= fold < self.folds:
            raise UserError(
                f'{sample.metainfo.get("img_path", "a sample")} is of fold {fold}, and the '
                f'teachers are of {self.folds} folds: wrap the training data in '
                f"dict(type='FoldDataset', folds={self.folds}, ...)"
            )
        return fold_teacher(name, fold)

    def _best(
        self, answers: list[tuple[str, list[int], ChangeMaps]], labels: Tensor
    ) -> list[tuple[str, list[int], ChangeMaps]]:
        """Of the answers about an image that with the smallest cross-entropy under its label; of
        equals, the first."""
        losses = torch.full((len(answers), len(labels)), torch.inf)
        for row, (name, positions, maps) in enumerate(answers):
            found = self._cross_entropy(
                self._log_odds(name, maps, labels), samples_at(labels, positions)
            )
            losses[row, positions] = found.cpu()
        best = np.argmin(losses.numpy(), axis=0)
        chosen = []
        for row, (name, positions, maps) in enumerate(answers):
            kept = [i for i, position in enumerate(positions) if best[position] == row]
            if kept:
                kept_maps = tuple(samples_at(change_map, kept) for change_map in maps)
                chosen.append((name, [positions[i] for i in kept], kept_maps))
        return chosen

    def _cross_entropy(self, log_odds: Tensor, labels: Tensor) -> Tensor:
        """(n,) mean over the valid pixels of each image."""
        valid = (labels != self.choice.ignore_index).float()
        changed = (labels == 1).float()
        entropy = F.binary_cross_entropy_with_logits(log_odds, changed, reduction='none')
        return (entropy * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3)).clamp(min=1)

    def _log_odds(self, name: str, maps: ChangeMaps, labels: Tensor) -> Tensor:
        return change_log_odds(self._head(name), maps, (labels.shape[2], labels.shape[3]))

    def _head(self, name: str) -> Any:
        return self.teachers.detectors[name].decode_head  # type: ignore[index]  # loaded by now

    def _pixel_weight(
        self, name: str, maps: ChangeMaps, labels: Tensor, is_labelled: list[bool]
    ) -> Tensor:
        """(n, 1, H, W): the weight of each pixel in the distillation."""
        valid = labels != self.choice.ignore_index
        weight = valid.float() if self.mask_ignored else torch.ones_like(labels, dtype=torch.float)
        if self.wrong_weight == 1 and all(is_labelled):
            return weight
        log_odds = self._log_odds(name, maps, labels)
        wrong = valid & ((log_odds > 0) != (labels == 1))
        weight = weight * torch.where(wrong, self.wrong_weight, 1.0)
        if self.unlabelled is None:
            return weight
        unsure = self.unlabelled.pixel_weight(log_odds)
        return torch.stack(
            [(weight if known else unsure)[i] for i, known in enumerate(is_labelled)]
        )
