"""Checkpoints of Open-CD's MTKD training: a student and its teachers in one file."""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mtkd_cd.core.checkpoint import OPENCD_TEACHERS, read_weights, save_checkpoint
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import check_not_read, own_file


def is_distilled(weights: Mapping[str, Tensor]) -> bool:
    """Whether the tensors are those of a student and its teachers, as Open-CD's step 3 saves."""
    return any(key.startswith(tuple(OPENCD_TEACHERS)) for key in weights)


def split_distilled(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A step-3 file's tensors by detector, ``student`` and the ranges of its teachers.

    Args:
        weights: Tensors by name; a teacher's begin with ``teacher_s.``, ``teacher_m.`` or
            ``teacher_l.``, the student's have the plain detector's names.

    Returns:
        The state dict of each detector, which loads strictly into the plain detector.
    """
    parts: dict[str, dict[str, Tensor]] = {'student': {}}
    for key, value in weights.items():
        prefix = next((prefix for prefix in OPENCD_TEACHERS if key.startswith(prefix)), None)
        if prefix is None:
            parts['student'][key] = value
        else:
            parts.setdefault(OPENCD_TEACHERS[prefix], {})[key.removeprefix(prefix)] = value
    return parts


def convert_distilled(source: str | os.PathLike, folder: str | os.PathLike) -> dict[str, Path]:
    """Write each detector of a step-3 file into a file of its own.

    Args:
        source: The file of Open-CD's step 3.
        folder: Where ``student.pth``, ``small.pth``, ``medium.pth`` and ``large.pth`` go.

    Returns:
        The files by detector.

    Raises:
        UserError: The file cannot be read or holds no teachers.
    """
    weights = read_weights(source)
    if not is_distilled(weights):
        raise UserError(
            f'{source} holds no teachers: none of its {len(weights)} tensors begins with '
            f'{", ".join(OPENCD_TEACHERS)}. It loads as it is'
        )
    files = {}
    for name, state_dict in split_distilled(weights).items():
        files[name] = Path(folder, f'{name}.pth')
        check_not_read(files[name], [source])
        save_checkpoint(dict(state_dict=state_dict), files[name], own_file)
    return files
