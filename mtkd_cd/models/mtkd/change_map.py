"""Change maps (CM): the raw output of a decode head, tapped on its way, and made comparable between
different heads."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmseg.models.utils import resize
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.losses.change_map import with_channels

ChangeMaps = tuple[Tensor, ...]
BINARY_MAP = 'seg_logits'  # what Open-CD's semantic heads call it


@contextmanager
def record_change_maps(
    decode_head: nn.Module, entry: str = BINARY_MAP
) -> Iterator[list[ChangeMaps]]:
    """Record what ``decode_head.forward`` returns inside the block, without calling it a second
    time.

    mmseg's heads call ``self.forward`` from ``loss``, past module hooks, so the method itself is
    wrapped, and put back afterwards.

    Args:
        decode_head: The head.
        entry: See :func:`as_change_maps`.

    Yields:
        A list that grows by the change maps of each call.
    """
    recorded: list[ChangeMaps] = []
    forward = decode_head.forward

    def recording_forward(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        recorded.append(as_change_maps(output, entry))
        return output

    replaced = decode_head.__dict__.get('forward')
    decode_head.forward = recording_forward
    try:
        yield recorded
    finally:
        del decode_head.forward  # the instance attribute; the method of the class shows again
        if replaced is not None:
            decode_head.forward = replaced


def as_change_maps(
    output: Tensor | Sequence[Tensor] | Mapping[str, Any], entry: str = BINARY_MAP
) -> ChangeMaps:
    """A head's output as a tuple of (N, C, h, w) maps.

    Most heads return one map, ChangeStar's one per direction, those of semantic change detection a
    dictionary of maps.

    Args:
        output: Of ``decode_head.forward``.
        entry: Of a dictionary, the entry that holds the map of change against no change.

    Raises:
        UserError: A dictionary without this entry; names those there are.
    """
    if isinstance(output, Mapping):
        if entry not in output:
            raise UserError(
                f'the decode head returns a dictionary without {entry!r}: set change_map to the '
                f'entry that holds the binary change map, one of {", ".join(map(repr, output))}'
            )
        return as_change_maps(output[entry])
    return (output,) if isinstance(output, Tensor) else tuple(output)


def comparable_change_maps(
    students: ChangeMaps, teachers: ChangeMaps, shift: float = 0.0
) -> list[tuple[Tensor, Tensor]]:
    """Pair the change maps of two heads so that each pair has equal shapes.

    Equal shapes stay raw, as in the paper. A teacher of another resolution is resized bilinearly to
    the student's. One-channel (sigmoid) and two-channel (softmax) heads meet as logit margins,
    ``changed - unchanged``. STANet's distances meet log-odds where both heads decide. Heads with
    different numbers of maps meet at the mean of the teacher's.

    Args:
        students: (N, C, h, w) each.
        teachers: (N, C', h', w') each.
        shift: From the teacher's :func:`decision_level` to the student's; added to the teacher's
            margins.

    Returns:
        One (student, teacher) pair per student map.

    Raises:
        UserError: Different channel numbers other than one against two.
    """
    if len(teachers) != len(students):
        mean = torch.stack(teachers).mean(0)
        teachers = (mean,) * len(students)
    return [
        _comparable_pair(student, teacher, shift) for student, teacher in zip(students, teachers)
    ]


def _comparable_pair(student: Tensor, teacher: Tensor, shift: float) -> tuple[Tensor, Tensor]:
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
    # Of heads that both have two channels neither measures distances, and nothing is to be shifted.
    return student, teacher + shift if shift else teacher


def decision_level(decode_head: nn.Module) -> float:
    """Where the scale of a head's change map has its middle: 0 of log-odds, the threshold of
    STANet's distances, which are 0 or more."""
    return float(getattr(decode_head, 'distance_threshold', None) or 0)


def logit_margin(change_map: Tensor) -> Tensor:
    """(N, 1, h, w) log-odds of change, from one (sigmoid) or two (softmax) channels."""
    return with_channels(change_map, 1)


def change_log_odds(
    decode_head: nn.Module, change_maps: ChangeMaps, size: tuple[int, int]
) -> Tensor:
    """(N, 1, H, W): how sure a head is of change, positive where it predicts change.

    Log-odds for softmax and sigmoid heads, the latter relative to the head's ``threshold``; for
    STANet's distances how far they are beyond the head's. Several maps are averaged.

    Args:
        decode_head: The head.
        change_maps: (N, C, h, w) each, the head's output.
        size: (H, W) of the result.
    """
    margin = torch.stack([logit_margin(change_map.float()) for change_map in change_maps]).mean(0)
    margin = resize(margin, size=size, mode='bilinear', align_corners=False)
    distance = getattr(decode_head, 'distance_threshold', None)
    if distance is not None:
        return margin - distance
    threshold = getattr(decode_head, 'threshold', None)
    if change_maps[0].shape[1] == 1 and threshold is not None:
        return margin - math.log(threshold / (1 - threshold))
    return margin
