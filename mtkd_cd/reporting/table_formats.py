"""One table, written as Markdown, CSV, LaTeX and HTML."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mtkd_cd.core.text import csv_text, format_markdown_table, markdown_text

Tone = Literal['', 'gain', 'loss', 'published']
_MINUS = re.compile(r'(?<![\w.])-(?=\d)')
_LATEX = {
    '\\': r'\textbackslash{}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '<': '$<$',
    '>': '$>$',
    '±': r'$\pm$',
}
_LATEX |= {char: f'\\{char}' for char in '&%$#_{}'} | {
    'Δ': r'$\Delta$',
    '−': '$-$',
    '≤': r'$\le$',
    '|': '$|$',
    '·': r'$\cdot$',
    '×': r'$\times$',
}


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: Its heading.
        fields: What it is called in CSV: one name for each value that its cells hold.
        align: Of text and heading.
    """

    title: str
    fields: tuple[str, ...]
    align: Literal['left', 'right'] = 'right'


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: What it says.
        values: The same in full precision, one for each of the column's fields; ``None`` for
            nothing.
        note: Said behind ``text``, smaller: a difference, an interval.
        bold: Whether it stands out.
        tone: What the note means.
    """

    text: str
    values: tuple[Any, ...]
    note: str = ''
    bold: bool = False
    tone: Tone = ''


Row = Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: Of its files.
        title: Heading.
        caption: What the cells are.
        columns: One per cell of a row.
        groups: Rows that belong together. Where a cell of the first columns, which say what a row
            is, repeats the one above in its group, it is left empty, but not in CSV.
        num_keys: How many of the first columns say what a row is.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[Column]
    groups: Sequence[Sequence[Row]]
    num_keys: int = 1

    @property
    def shown_groups(self) -> list[list[list[Cell]]]:
        """The groups with repeated key cells emptied."""
        return [
            [
                _without_repeats(group[i - 1] if i else None, row, self.num_keys)
                for i, row in enumerate(group)
            ]
            for group in self.groups
        ]

    def as_markdown(self) -> str:
        """The table alone."""
        rows = [
            [_markdown_cell(cell) for cell in row] for group in self.shown_groups for row in group
        ]
        return format_markdown_table([markdown_text(column.title) for column in self.columns], rows)

    def as_csv(self) -> str:
        """All values in full precision, under the fields' names."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator='\n')
        writer.writerow([field for column in self.columns for field in column.fields])
        writer.writerows(
            [_csv_value(value) for cell in row for value in cell.values]
            for group in self.groups
            for row in group
        )
        return buffer.getvalue()

    def as_latex(self) -> str:
        """A ``table`` with rules of the package ``booktabs``."""
        lines = [
            r'\begin{table}',
            r'  \centering',
            rf'  \caption{{{latex_text(f"{self.title}. {self.caption}")}}}',
            rf'  \label{{tab:{self.name}}}',
            rf'  \begin{{tabular}}{{{"".join(column.align[0] for column in self.columns)}}}',
            r'    \toprule',
            f'    {" & ".join(latex_text(column.title) for column in self.columns)} \\\\',
            r'    \midrule',
        ]
        groups = [
            '\n'.join(f'    {" & ".join(map(_latex_cell, row))} \\\\' for row in group)
            for group in self.shown_groups
            if group
        ]
        return '\n'.join(
            [
                *lines,
                '\n    \\midrule\n'.join(groups),
                r'    \bottomrule',
                r'  \end{tabular}',
                r'\end{table}',
                '',
            ]
        )


def text_cell(text: str, bold: bool = False, tone: Tone = '') -> Cell:
    """A cell that says the same everywhere."""
    return Cell(text, (text,), bold=bold, tone=tone)


def typographic(text: str) -> str:
    """Minus signs and ``≤`` instead of ``-`` and ``<=``, for HTML, LaTeX and figures."""
    return _MINUS.sub('−', text).replace('<=', '≤')


def latex_text(text: str) -> str:
    """Text with LaTeX's special characters escaped, and minus signs."""
    return ''.join(_LATEX.get(char, char) for char in typographic(text))


def _without_repeats(above: Row | None, row: Row, num_keys: int) -> list[Cell]:
    cells = list(row)
    for place in range(num_keys):
        if above is None or above[place].text != row[place].text:
            break
        cells[place] = Cell('', row[place].values)
    return cells


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(cell.text)
    text = f'**{text}**' if cell.bold and text else text
    return f'{text} {cell.note}' if cell.note else text


def _latex_cell(cell: Cell) -> str:
    text = latex_text(cell.text)
    text = rf'\textbf{{{text}}}' if cell.bold and text else text
    return f'{text} {latex_text(cell.note)}' if cell.note else text


def _csv_value(value: Any) -> Any:
    if isinstance(value, str):
        return csv_text(value)
    # Ten digits are more than anything is known to, and the same on every machine.
    return f'{value:.10g}' if isinstance(value, float) else value
