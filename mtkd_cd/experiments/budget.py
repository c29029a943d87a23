"""An experiment within a number of minutes: measure how fast its jobs are beside each other, then
shorten the trainings of each model alike until they fit."""

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import temporary_folder
from mtkd_cd.core.strategy import Strategy
from mtkd_cd.engine.record import read_json, write_json
from mtkd_cd.engine.schedule import set_iters
from mtkd_cd.engine.training import prepare_training, run_training
from mtkd_cd.recipe.configs import step_config
from mtkd_cd.recipe.options import RecipeOptions
from mtkd_cd.recipe.steps import Step

FILE = 'budget.json'
SCALED = ('iters', 'specialist_iters', 'student_iters', 'val_interval')
# Of the time that is left: speeds differ, and what is not finished counts for nothing.
SHARE = 0.85
_PER_JOB = 20.0  # seconds: a process starts, imports, reads its images
_PER_STEP = 2.5  # seconds: a runner is built, weights are read and written
_MEASURED = 60  # iterations


@dataclass(frozen=True)
class Speed:
    """How fast one job was beside the others.

    Attributes:
        iteration: Seconds of a training step of the origin.
        validation: Seconds of a validation.
    """

    iteration: float
    validation: float

    @classmethod
    def slowest(cls, speeds: Sequence['Speed']) -> 'Speed':
        """The longest of either."""
        return cls(max(s.iteration for s in speeds), max(s.validation for s in speeds))


@dataclass(frozen=True)
class Work:
    """What a job consists of, at full length.

    Attributes:
        steps: Training steps of the origin that take as long as all of its training steps.
        validations: Validations, and tests, which take as long.
        runs: Trainings and tests.
    """

    steps: float
    validations: float
    runs: int

    def fixed(self, speed: Speed) -> float:
        """Seconds of what shorter trainings do not shorten."""
        return _PER_JOB + _PER_STEP * self.runs + self.validations * speed.validation

    def seconds(self, speed: Speed, scale: float = 1.0) -> float:
        """Seconds of the job with trainings of ``scale`` times their length."""
        return self.fixed(speed) + scale * self.steps * speed.iteration

    def scale(self, speed: Speed, seconds: float) -> float:
        """The length, at most 1, with which the job takes so many seconds; 0 where none does."""
        left = seconds - self.fixed(speed)
        return min(1.0, max(0.0, left / (self.steps * speed.iteration)))


def work_of(options: RecipeOptions, strategies: Sequence[str], student_cost: float = 1.5) -> Work:
    """The work of one model's and seed's job.

    Args:
        options: With iterations.
        strategies: What is wanted.
        student_cost: Steps of the origin that a step of the student takes.

    Raises:
        UserError: The options leave the iterations to the config.
    """
    if options.iters is None or options.val_interval is None:
        raise UserError('--minutes needs the longest trainings: set iters and val_interval')
    wanted = [Strategy.parse(text) for text in strategies]
    student = options.student_iters or max(1, options.iters // 2)
    specialist = options.specialist_iters or options.iters
    needs = [s for s in wanted if s.kind in ('op', 'mtkd') and not s.teachers]
    sets = {s.of('partition') for s in needs}
    ranges = sum(len(s.partition) * max(1, s.folds) for s in sets)
    students = [s for s in wanted if s.kind == 'mtkd']
    controls = [s for s in wanted if s.kind == 'continued']
    routings = {s.thresholds for s in wanted if s.routing == 'validated'}
    steps = (
        options.iters
        + ranges * specialist
        + student * (len(controls) + student_cost * len(students))
    )

    def validations(iters: int) -> int:
        return math.ceil(iters / (options.val_interval or 1))

    count = (
        validations(options.iters)
        + ranges * validations(specialist) / 2  # of one range
        + (len(controls) + len(students)) * validations(student)
        + 4 * len(routings)
        + 1.5 * len(wanted)
    )
    runs = 1 + ranges + len(controls) + len(students) + len(wanted) + 4 * len(routings)
    return Work(steps, count, runs)


class SpeedHook(Hook):
    """Times a training's steps and validations.

    Attributes:
        speed: What it found, after the training: the mean of the later half of the steps, without
            the times between steps in which something was validated, and the last validation.
    """

    def __init__(self) -> None:
        self._steps: list[float] = []
        self._validations: list[float] = []
        self._before: float | None = None
        self._start = 0.0

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        now = time.monotonic()
        if self._before is not None:
            self._steps.append(now - self._before)
        self._before = now

    def before_val(self, runner: Runner) -> None:
        self._before = None
        self._start = time.monotonic()

    def after_val(self, runner: Runner) -> None:
        self._validations.append(time.monotonic() - self._start)

    @property
    def speed(self) -> Speed:
        # The first half, and the first of two validations, read the images and choose convolutions.
        later = self._steps[len(self._steps) // 2 :]
        return Speed(statistics.fmean(later), self._validations[-1])


def measure_speed(model: str, options: RecipeOptions, folder: Path) -> None:
    """One job: a short training of the origin; leaves its :class:`Speed` in
    ``<folder>/speed.json``, and nothing of the training: one that was stopped is done again."""
    cfg = step_config(Step(Strategy('origin'), 'train'), model, options)
    iters = min(_MEASURED, options.iters or _MEASURED)
    set_iters(cfg, iters, max(1, iters // 2))
    cfg.default_hooks.checkpoint.interval = 10 * iters
    hook = SpeedHook()
    with temporary_folder(folder / 'training') as work_dir:
        cfg.work_dir = str(work_dir)
        run_training(prepare_training(cfg), terse=True, hooks=[hook])
    write_json(folder / 'speed.json', vars(hook.speed))


def read_speed(folder: Path) -> Speed | None:
    """What :func:`measure_speed` left."""
    path = folder / 'speed.json'
    found = read_json(path)
    if not found:
        return None
    try:
        return Speed(**{name: float(value) for name, value in found.items()})
    except (TypeError, ValueError, AttributeError):
        raise UserError(f'{path} is damaged: delete it, and the speed is measured again') from None


def scaled(settings: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """A model's settings with trainings of ``scale`` times their length; as many validations."""
    shorter = {key: max(1, round(scale * settings[key])) for key in SCALED if settings.get(key)}
    return {**settings, **shorter}


def write_budget(folder: Path, content: Mapping[str, Any]) -> None:
    """Keep what was measured and decided: a later call goes on with the same trainings."""
    write_json(folder / FILE, dict(content))


def read_budget(folder: Path) -> dict[str, Any] | None:
    """What :func:`write_budget` kept."""
    path = folder / FILE
    found = read_json(path)
    if not (found is None or _is_budget(found)):
        raise UserError(f'{path} is damaged: delete it, and the trainings are fitted again')
    return found


def _is_budget(found: Any) -> bool:
    models = found.get('models') if isinstance(found, dict) else None
    return isinstance(models, dict) and all(
        isinstance(own, dict) and own.keys() >= {'iteration', 'validation', 'scale', 'iterations'}
        for own in models.values()
    )


def as_text(budget: Mapping[str, Any]) -> str:
    """A line per model."""
    return '\n'.join(
        f'{model}: {1000 * own["iteration"]:.0f} ms a step, {own["validation"]:.1f} s a '
        f'validation, trainings of {own["scale"]:.2f} times their length: '
        + json.dumps(own['iterations'])
        for model, own in budget['models'].items()
    )
