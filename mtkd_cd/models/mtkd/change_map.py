"""Change maps (CM): the raw output of a decode head, tapped on its way, and made comparable between
different heads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmseg.models.utils import resize
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError

ChangeMaps = tuple[Tensor, ...]


@contextmanager
def record_change_maps(decode_head: nn.Module) -> Iterator[list[ChangeMaps]]:
    """Record what ``decode_head.forward`` returns inside the block, without calling it a second
    time.

    mmseg's heads call ``self.forward`` from ``loss``, past module hooks, so the method itself is
    wrapped, and put back afterwards.

    Yields:
        A list that grows by the change maps of each call.
    """
    recorded: list[ChangeMaps] = []
    forward = decode_head.forward

    def recording_forward(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        recorded.append(as_change_maps(output))
        return output

    replaced = decode_head.__dict__.get('forward')
    decode_head.forward = recording_forward
    try:
        yield recorded
    finally:
        del decode_head.forward  # the instance attribute; the method of the class shows again
        if replaced is not None:
            decode_head.forward = replaced


def as_change_maps(output: Tensor | Sequence[Tensor]) -> ChangeMaps:
    """A head's output as a tuple of (N, C, h, w) maps: most heads return one, ChangeStar's returns
    one per direction."""
    return (output,) if isinstance(output, Tensor) else tuple(output)


def comparable_change_maps(
    students: ChangeMaps, teachers: ChangeMaps
) -> list[tuple[Tensor, Tensor]]:
    """Pair the change maps of two heads so that each pair has equal shapes.

    Equal shapes stay raw, as in the paper. A teacher of another resolution is resized bilinearly to
    the student's. One-channel (sigmoid) and two-channel (softmax) heads meet as logit margins,
    ``changed - unchanged``. Heads with different numbers of maps meet at the mean of the teacher's.

    Args:
        students: (N, C, h, w) each.
        teachers: (N, C', h', w') each.

    Returns:
        One (student, teacher) pair per student map.

    Raises:
        UserError: Different channel numbers other than one against two.
    """
    if len(teachers) != len(students):
        mean = torch.stack(teachers).mean(0)
        teachers = (mean,) * len(students)
    return [_comparable_pair(student, teacher) for student, teacher in zip(students, teachers)]


def _comparable_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.shape[1] != teacher.shape[1]:
        if {student.shape[1], teacher.shape[1]} != {1, 2}:
            raise UserError(
                f'the change map of the student has {student.shape[1]} channels and that of the '
                f'teacher {teacher.shape[1]}: only heads '
                'with one (sigmoid) and two (softmax) channels can be compared with each other'
            )
        student, teacher = logit_margin(student), logit_margin(teacher)
    if student.shape[2:] != teacher.shape[2:]:
        teacher = resize(teacher, size=student.shape[2:], mode='bilinear', align_corners=False)
    return student, teacher


def logit_margin(change_map: Tensor) -> Tensor:
    """(N, 1, h, w) log-odds of change, from one (sigmoid) or two (softmax) channels."""
    return change_map if change_map.shape[1] == 1 else change_map[:, 1:2] - change_map[:, 0:1]
