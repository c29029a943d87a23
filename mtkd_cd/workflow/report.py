"""The recipe's table: origin, O-P and MTKD side by side, as Markdown and JSON."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtkd_cd.files import atomic_write
from mtkd_cd.workflow.record import write_json

COLUMNS = ('mIoU', 'mPrecision', 'mRecall', 'mFscore')
_TITLES = {'origin': 'origin', 'op': 'O-P', 'continued': 'continued', 'mtkd': 'MTKD'}


@dataclass
class Report:
    """What the recipe gave for one model.

    Attributes:
        model: Name of the model.
        partition: The CAR ranges in words.
        metrics: Of each tested stage, all metrics in percent.
        seconds: Of each step.
    """

    model: str
    partition: str
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def differences(self) -> dict[str, dict[str, float]]:
        """Of every other strategy to the origin, in percentage points."""
        origin = self.metrics.get('origin')
        others = {stage: values for stage, values in self.metrics.items() if stage != 'origin'}
        return {stage: {key: values[key] - origin[key] for key in COLUMNS} for stage, values in others.items()} if origin else {}

    def as_markdown(self) -> str:
        """The tables as text."""
        lines = [f'{self.model}: per-image averages on the test data, in percent; in brackets the difference to the origin.', '']
        rows = [[_TITLES[stage], *(self._cell(stage, column) for column in COLUMNS)] for stage in _TITLES if stage in self.metrics]
        lines += _markdown(['', *COLUMNS], rows)
        lines += ['', f'CAR ranges: {self.partition}', '']
        total = sum(self.seconds.values())
        lines += _markdown(['step', 'time'], [[step, _clock(seconds)] for step, seconds in self.seconds.items()] + [['all', _clock(total)]])
        return '\n'.join(lines) + '\n'

    def _cell(self, stage: str, column: str) -> str:
        value = f'{self.metrics[stage][column]:.2f}'
        return f'{value} ({self.differences[stage][column]:+.2f})' if stage in self.differences else value

    def as_dict(self) -> dict[str, Any]:
        """All figures."""
        return asdict(self) | dict(differences=self.differences)

    def write(self, folder: Path) -> None:
        """Write ``report.md`` and ``report.json``."""
        with atomic_write(folder / 'report.md') as file:
            file.write(self.as_markdown())
        write_json(folder / 'report.json', self.as_dict())


def _markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ['| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths)) + ' |' for row in [header, *rows]]
    return [lines[0], '|' + '|'.join('-' * (width + 2) for width in widths) + '|', *lines[1:]]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{rest:02}'
