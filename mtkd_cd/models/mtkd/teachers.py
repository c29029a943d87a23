"""The frozen detectors that a student learns from: where they are built, loaded and asked."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mtkd_cd.core.background import begin
from mtkd_cd.core.car import change_area_ratio
from mtkd_cd.core.checkpoint import load_weights
from mtkd_cd.core.strategy import FOLD, range_and_fold
from mtkd_cd.models.mtkd.building import Detector, build_detectors
from mtkd_cd.models.mtkd.change_map import ChangeMaps, as_change_maps
from mtkd_cd.models.mtkd.normalisation import InputConverter
from mtkd_cd.models.mtkd.routing import ORIGIN
from mtkd_cd.models.mtkd.stacking import Asking, Batching
from mtkd_cd.models.prepare import Prepared


class Teachers:
    """Frozen detectors by name: a range's, ``'origin'``, or, with folds, ``'<range>@<fold>'``.

    No ``nn.Module``: they belong into no checkpoint, optimiser or DDP wrapper.

    Args:
        student: Config of the student, which is that of a teacher without one of its own.
        teachers: Config of all teachers, or of some by name.
        data_preprocessor: Config of the preprocessor of detectors whose configs have none.
        checkpoints: A file by name, ``{fold}`` in it for the number of a fold, and ``student``'s,
            which is the origin's unless there is one; ``None`` leaves the weights as built.
        change_map: See :func:`~mtkd_cd.models.mtkd.change_map.as_change_maps`.
        prediction: Entry of the origin's result that holds the binary change map.
        options: Arguments of :func:`~mtkd_cd.models.prepare.prepare`, through which every teacher
            runs.
        batching: How several are asked about a batch, see
            :class:`~mtkd_cd.models.mtkd.stacking.Asking`.
    """

    def __init__(
        self,
        student: Mapping[str, Any] | Detector,
        teachers: Mapping[str, Any] | Detector | None,
        data_preprocessor: Mapping[str, Any] | None,
        checkpoints: Mapping[str, str] | None,
        change_map: str,
        prediction: str,
        options: Mapping[str, Any],
        batching: Batching = 'grouped',
    ) -> None:
        for_all = is_one_detector(teachers)
        self._default = teachers if for_all else student
        self._configs = {} if for_all else dict(teachers or {})
        self._origin_is_student = not for_all and ORIGIN not in self._configs
        self._data_preprocessor = data_preprocessor
        self._checkpoints = checkpoints
        self.change_map = change_map
        self._prediction = prediction
        self._options = dict(graphs=True) | dict(options)
        self._ask = Asking(batching)
        self._prepared: dict[str, Prepared] = {}
        self._convert: dict[str, InputConverter] = {}
        self._draws_nothing: set[str] = set()
        self.detectors: dict[str, Detector] | None = None

    @property
    def student_checkpoint(self) -> str | None:
        """The student's start."""
        return self._checkpoints['student'] if self._checkpoints is not None else None

    def load(self, names: Iterable[str], student: Detector) -> dict[str, Detector]:
        """Build the teachers ``names``, load and freeze them; the only place where that is done.

        Raises:
            UserError: A checkpoint that is missing, unreadable, not finite or of another model.
        """
        names = list(dict.fromkeys(names))
        configs = {
            name: self._configs.get(range_and_fold(name)[0], self._default) for name in names
        }
        teachers = build_detectors(names, self._default, configs, self._data_preprocessor)
        device = next(student.parameters()).device
        for name, teacher in teachers.items():
            self._load_weights(name, teacher, student)
            teacher.eval().requires_grad_(False).to(device)
        self._convert = {
            name: InputConverter(student.data_preprocessor, teacher.data_preprocessor)
            for name, teacher in teachers.items()
        }
        self._prepared = {
            name: Prepared(teacher, **self._options) for name, teacher in teachers.items()
        }
        self._draws_nothing = set()
        self.detectors = teachers
        return teachers

    def _load_weights(self, name: str, teacher: Detector, student: Detector) -> None:
        if self._checkpoints is not None:
            checkpoint = self._checkpoint(name, self._checkpoints)
            load_weights(teacher, checkpoint)
            print_log(f'Teacher {name}: {checkpoint}', logger='current')
        elif name == ORIGIN and self._origin_is_student:
            teacher.load_state_dict(student.state_dict())

    @staticmethod
    def _checkpoint(name: str, checkpoints: Mapping[str, str]) -> str:
        if name == ORIGIN:
            return checkpoints.get(ORIGIN) or checkpoints['student']
        range_name, fold = range_and_fold(name)
        return checkpoints[range_name].replace(FOLD, fold)

    def change_maps(self, name: str, inputs: Tensor) -> ChangeMaps:
        """What one teacher says about (N, 6, H, W), normalised as the student's preprocessor
        does."""
        (maps,) = self.all_change_maps([(name, inputs)])
        return maps

    def all_change_maps(self, questions: Sequence[tuple[str, Tensor]]) -> list[ChangeMaps]:
        """What several teachers say, each about its images: (name, inputs) as in
        :meth:`change_maps`."""
        return self._call(questions)()

    def begin(self, questions: Sequence[tuple[str, Tensor]]) -> Callable[[], list[ChangeMaps]]:
        """Ask as :meth:`all_change_maps` does, and give what waits for the answers.

        On a CPU the teachers compute on a second thread meanwhile, from the second time on that
        they are asked, and if they draw no random numbers: the student draws from the same source.
        """
        # Ways that are measured want the machine for themselves, the compiler wants no other thread
        # beside it, and a GPU is behind its host anyway.
        alone = self._ask.may_stack or self._options.get('compiled')
        if alone or any(inputs.device.type != 'cpu' for _, inputs in questions):
            answers = self.all_change_maps(questions)
        elif not self._draws_nothing.issuperset(name for name, _ in questions):
            before = torch.get_rng_state()
            answers = self.all_change_maps(questions)
            if torch.equal(torch.get_rng_state(), before):
                self._draws_nothing.update(name for name, _ in questions)
        else:
            # The student may edit its inputs.
            own = [(name, inputs.clone()) for name, inputs in questions]
            return begin(_as_here(self._call(own)))
        return lambda: answers

    @torch.no_grad()
    def _call(self, questions: Sequence[tuple[str, Tensor]]) -> Callable[[], list[ChangeMaps]]:
        """All that comes before the teachers' forward passes; the function that it gives makes
        them."""
        assert self.detectors is not None, 'load() comes first'
        converted = [(name, self._convert[name](inputs)) for name, inputs in questions]
        asked = self.detectors if self._ask.may_stack else dict(questions)
        prepared = {name: self._prepared[name].detector for name in asked}

        def one_by_one(questions: Sequence[tuple[str, Tensor]]) -> list[ChangeMaps]:
            answers = [
                self._as_maps(prepared[name](inputs, mode='tensor')) for name, inputs in questions
            ]
            # A loss keeps its target for the gradient, which inference tensors are no good for.
            return [tuple(change_map.clone() for change_map in maps) for maps in answers]

        @torch.no_grad()
        def answers() -> list[ChangeMaps]:
            return self._ask(converted, prepared, one_by_one, self._as_maps)

        return answers

    def _as_maps(self, output: Any) -> ChangeMaps:
        return as_change_maps(output, self.change_map)

    @torch.no_grad()
    def predicted_cars(self, inputs: Tensor) -> Tensor:
        """(N,) CAR of what the origin predicts for (N, 6, H, W), as a cascade's origin would."""
        assert self.detectors is not None, 'load() comes first'
        results = self._prepared[ORIGIN].detector.predict(self._convert[ORIGIN](inputs))
        return torch.stack(
            [change_area_ratio(result.get(self._prediction).data[0]) for result in results]
        ).cpu()

    def apply(self, fn: Callable[[nn.Module], Any]) -> None:
        """Call ``fn`` with every teacher that is there."""
        for teacher in (self.detectors or {}).values():
            fn(teacher)


def _as_here(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call as this thread would make it, for another: autocast and the number of threads are
    each thread's own."""
    is_on, dtype = torch.is_autocast_enabled('cpu'), torch.get_autocast_dtype('cpu')
    num_threads = torch.get_num_threads()

    def there() -> Any:
        if torch.get_num_threads() != num_threads:
            torch.set_num_threads(num_threads)
        # Weights that autocast has converted are kept for all threads, and forgotten when a thread
        # leaves its outermost autocast. This one is not the outermost.
        torch.autocast_increment_nesting()
        try:
            with torch.autocast('cpu', dtype, enabled=is_on):
                return call()
        finally:
            torch.autocast_decrement_nesting()

    return there


def is_one_detector(teachers: Mapping[str, Any] | Detector | None) -> bool:
    """Whether ``teachers`` describes the detector of all teachers, not some of them by name."""
    return isinstance(teachers, nn.Module) or (teachers is not None and 'type' in teachers)
