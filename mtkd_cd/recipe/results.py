"""What the recipe gave for one model; :mod:`mtkd_cd.reporting` turns it into text."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtkd_cd.core.strategy import Strategy
from mtkd_cd.engine.record import write_json
from mtkd_cd.evaluation.scores import MEAN_NAMES

ORIGIN = Strategy('origin')


@dataclass(frozen=True)
class StepTime:
    """How long a step took.

    Attributes:
        action: ``train``, ``validate`` or ``test``.
        strategy: What was trained or tested.
        range: The CAR range of a specialist, with folds ``small_0`` and so on.
        seconds: Interruptions left out.
    """

    action: str
    strategy: Strategy
    range: str | None
    seconds: float


@dataclass
class RecipeResults:
    """What there is of a model's recipe.

    Attributes:
        model: Name of the model.
        metrics: Of each tested strategy, all metrics in percent.
        times: Of the steps, in their order.
        outdated: Strategies whose test followed from another origin than is there now, or was on
            other data than the origin's; they have no metrics here.
    """

    model: str
    metrics: dict[Strategy, dict[str, float]] = field(default_factory=dict)
    times: list[StepTime] = field(default_factory=list)
    outdated: list[Strategy] = field(default_factory=list)

    @property
    def differences(self) -> dict[Strategy, dict[str, float]]:
        """Of every other strategy to the origin, in percentage points."""
        origin = self.metrics.get(ORIGIN)
        if origin is None:
            return {}
        return {
            strategy: {key: values[key] - origin[key] for key in MEAN_NAMES}
            for strategy, values in self.metrics.items()
            if strategy != ORIGIN
        }

    @property
    def specialists(self) -> list[Strategy]:
        """The sets of specialists that have been trained."""
        trained = [time.strategy for time in self.times if time.strategy.kind == 'partition']
        return list(dict.fromkeys(trained))

    def as_dict(self) -> dict[str, Any]:
        """All figures, strategies by their text."""
        return dict(
            model=self.model,
            metrics={strategy.text: values for strategy, values in self.metrics.items()},
            differences={strategy.text: values for strategy, values in self.differences.items()},
            steps=[
                dict(
                    action=time.action,
                    strategy=time.strategy.text,
                    range=time.range,
                    seconds=time.seconds,
                )
                for time in self.times
            ],
            ranges={one.text: str(one.partition) for one in self.specialists},
            outdated=[one.text for one in self.outdated],
        )

    def write(self, folder: Path) -> None:
        """Write ``report.json``."""
        write_json(folder / 'report.json', self.as_dict())
