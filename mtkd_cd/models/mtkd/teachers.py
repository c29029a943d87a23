"""The frozen detectors that a student learns from: where they are built, loaded and asked."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mtkd_cd.core.checkpoint import load_weights
from mtkd_cd.models.mtkd.building import Detector, build_detectors
from mtkd_cd.models.mtkd.change_map import ChangeMaps, as_change_maps
from mtkd_cd.models.mtkd.normalisation import InputConverter
from mtkd_cd.models.mtkd.routing import ORIGIN


class Teachers:
    """Frozen detectors by name: a range's, or ``'origin'``, the student's own start.

    No ``nn.Module``: they belong into no checkpoint, optimiser or DDP wrapper.

    Args:
        default: Config of a teacher without one of its own.
        configs: Config of a teacher, by name.
        data_preprocessor: Config of the preprocessor of detectors whose configs have none.
        checkpoints: A file for ``student``, which is the origin's, and for each range; ``None``
            leaves the weights as built.
        change_map: See :func:`~mtkd_cd.models.mtkd.change_map.as_change_maps`.
    """

    def __init__(
        self,
        default: Mapping[str, Any] | Detector,
        configs: Mapping[str, Any] | None,
        data_preprocessor: Mapping[str, Any] | None,
        checkpoints: Mapping[str, str] | None,
        change_map: str,
    ) -> None:
        self._sources = (default, configs, data_preprocessor)
        self._checkpoints = checkpoints
        self._change_map = change_map
        self._convert: dict[str, InputConverter] = {}
        self.detectors: dict[str, Detector] | None = None

    def load(self, names: Iterable[str], student: Detector) -> dict[str, Detector]:
        """Build the teachers ``names``, load and freeze them; the only place where that is done.

        Raises:
            UserError: A checkpoint that is missing, unreadable, not finite or of another model.
        """
        teachers = build_detectors(names, *self._sources)
        device = next(student.parameters()).device
        for name, teacher in teachers.items():
            self._load_weights(name, teacher, student)
            teacher.eval().requires_grad_(False).to(device)
        self._convert = {
            name: InputConverter(student.data_preprocessor, teacher.data_preprocessor)
            for name, teacher in teachers.items()
        }
        self.detectors = teachers
        return teachers

    def _load_weights(self, name: str, teacher: Detector, student: Detector) -> None:
        if self._checkpoints is not None:
            checkpoint = self._checkpoints['student' if name == ORIGIN else name]
            load_weights(teacher, checkpoint)
            print_log(f'Teacher {name}: {checkpoint}', logger='current')
        elif name == ORIGIN:
            teacher.load_state_dict(student.state_dict())

    @torch.no_grad()
    def change_maps(self, name: str, inputs: Tensor) -> ChangeMaps:
        """What one teacher says about (N, 6, H, W), normalised as the student's preprocessor
        does."""
        assert self.detectors is not None, 'load() comes first'
        output = self.detectors[name](self._convert[name](inputs), mode='tensor')
        return as_change_maps(output, self._change_map)

    def apply(self, fn: Callable[[nn.Module], Any]) -> None:
        """Call ``fn`` with every teacher that is there."""
        for teacher in (self.detectors or {}).values():
            fn(teacher)
