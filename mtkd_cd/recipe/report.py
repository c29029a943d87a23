"""The recipe's table: origin, O-P and MTKD side by side, as Markdown and JSON."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.strategies import strategy_rank, strategy_title
from mtkd_cd.core.text import format_markdown_table
from mtkd_cd.engine.record import write_json
from mtkd_cd.evaluation.scores import MEAN_NAMES


@dataclass
class Report:
    """What the recipe gave for one model.

    Attributes:
        model: Name of the model.
        metrics: Of each tested strategy, all metrics in percent.
        seconds: Of each step.
        ranges: The CAR ranges, in words, of each set of specialists.
    """

    model: str
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    ranges: dict[str, str] = field(default_factory=dict)

    @property
    def differences(self) -> dict[str, dict[str, float]]:
        """Of every other strategy to the origin, in percentage points."""
        origin = self.metrics.get('origin')
        others = {name: values for name, values in self.metrics.items() if name != 'origin'}
        return (
            {
                name: {key: values[key] - origin[key] for key in MEAN_NAMES}
                for name, values in others.items()
            }
            if origin
            else {}
        )

    def as_markdown(self) -> str:
        """The tables as text."""
        lines = [
            f'{self.model}: per-image averages on the test data, in percent; in brackets the '
            'difference to the origin.',
            '',
        ]
        names = sorted(self.metrics, key=strategy_rank)
        rows = [
            [strategy_title(name), *(self._cell(name, column) for column in MEAN_NAMES)]
            for name in names
        ]
        lines.append(format_markdown_table(['', *MEAN_NAMES], rows))
        lines += [f'\nCAR ranges of {name}: {ranges}' for name, ranges in self.ranges.items()] + [
            ''
        ]
        total = sum(self.seconds.values())
        times = [[step, _clock(seconds)] for step, seconds in self.seconds.items()]
        lines.append(format_markdown_table(['step', 'time'], [*times, ['all', _clock(total)]]))
        return '\n'.join(lines) + '\n'

    def _cell(self, name: str, column: str) -> str:
        value = f'{self.metrics[name][column]:.2f}'
        return (
            f'{value} ({self.differences[name][column]:+.2f})'
            if name in self.differences
            else value
        )

    def as_dict(self) -> dict[str, Any]:
        """All figures."""
        return asdict(self) | dict(differences=self.differences)

    def write(self, folder: Path) -> None:
        """Write ``report.md`` and ``report.json``."""
        with atomic_write(folder / 'report.md') as file:
            file.write(self.as_markdown())
        write_json(folder / 'report.json', self.as_dict())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{rest:02}'
