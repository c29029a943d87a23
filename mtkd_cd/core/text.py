"""Words that every tool says in the same way: lists that end in "and 4 more", "did you mean", named
paths, tables. Text for spreadsheets and Markdown is guarded here, so that they take it for nothing
else."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence

# A spreadsheet takes a cell that begins so for a formula (OWASP, "CSV injection").
_FORMULA_STARTS = '=+-@\t\r'
_GUARD = "'"
_MARKDOWN = re.compile(
    r'[\\`*|]'  # escapes, code, emphasis, cells
    r'|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])'  # emphasis; within a word it is a letter
    r'|<(?=[A-Za-z/!?])'  # HTML
    r'|&(?=#?\w+;)'  # HTML's names of characters
    r'|\](?=[(\[:])'  # links
    r'|^[#>]|^[-+](?=\s)|^\d+[.)](?=\s)'  # headings, quotations, lists
)


def some(items: Iterable[object], limit: int = 3, separator: str = ', ') -> str:
    """The first few items, and how many there are besides: ``a, b, c and 4 more``.

    Args:
        items: What is listed.
        limit: How many of them at most.
        separator: Between them. One that breaks the line goes before "and" too.
    """
    words = [str(item) for item in items]
    more = len(words) - limit
    gap = separator if '\n' in separator else ' '
    return separator.join(words[:limit]) + (f'{gap}and {more} more' if more > 0 else '')


def counted(number: int, one: str, several: str = '') -> str:
    """``1 file``, ``2 files``, ``2 strategies``.

    Args:
        number: How many.
        one: The noun of one.
        several: The noun of several, where it is not ``one`` with an s.
    """
    return f'{number} {one if number == 1 else several or one + "s"}'


def closest(word: str, known: Iterable[object]) -> str:
    """``did you mean 'x'?``, or all that is known: ``there are x, y``."""
    words = [str(item) for item in known]
    return did_you_mean(word, words) or (
        f'there are {", ".join(words)}' if words else 'there is none'
    )


def did_you_mean(word: str, known: Iterable[object]) -> str:
    """``did you mean 'x'?``; empty where nothing known is like it."""
    matches = difflib.get_close_matches(word, [str(item) for item in known], n=1, cutoff=0.5)
    return f'did you mean {matches[0]!r}?' if matches else ''


def label_and_path(argument: str) -> tuple[str, str]:
    """The two parts of ``LABEL=PATH``; the label is empty where the argument is a path alone.

    A path that exists is a path, whatever ``=`` it has in it.
    """
    label, separator, path = argument.partition('=')
    if not separator or os.path.exists(argument):
        return '', argument
    return label, path


def csv_text(text: str) -> str:
    """Text for a CSV cell that a spreadsheet takes for text, never for a formula.

    Text that begins with ``= + - @``, a tab or a carriage return gets an apostrophe in front;
    :func:`from_csv_text` takes it away. Numbers are written without this function.
    """
    return _GUARD + text if text.startswith((*_FORMULA_STARTS, _GUARD)) else text


def csv_row(row: Mapping[str, object]) -> dict[str, object]:
    """A row whose texts went through :func:`csv_text`; numbers stay."""
    return {key: csv_text(cell) if isinstance(cell, str) else cell for key, cell in row.items()}


def from_csv_text(text: str) -> str:
    """What :func:`csv_text` was given; text that nobody guarded stays as it is."""
    guarded = text[:1] == _GUARD and text[1:2] in (*_FORMULA_STARTS, _GUARD)
    return text[1:] if guarded else text


def markdown_text(text: str) -> str:
    """Text that Markdown shows letter by letter, in one line: nothing in it is a link, a tag, a
    heading, emphasis or the end of a table's cell."""
    return _MARKDOWN.sub(r'\\\g<0>', ' '.join(text.split('\n')))


def percent_text(share: float) -> str:
    """A share with two significant digits, ``0.026 %``, ``8.8 %``, ``88 %``."""
    return f'{float(f"{100 * share:.2g}"):g} %'


def format_markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], num_left: int = 1
) -> str:
    """A Markdown table with aligned columns, readable as plain text too.

    Args:
        header: Of the columns.
        rows: Cells of each row.
        num_left: The first so many columns go to the left, the others to the right.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    left, right = widths[:num_left], widths[num_left:]
    rule = ['-' * width for width in left] + ['-' * (width - 1) + ':' for width in right]
    lines = []
    for cells in (header, *rows):
        texts = [cell.ljust(width) for cell, width in zip(cells, left)]
        numbers = [cell.rjust(width) for cell, width in zip(cells[num_left:], right)]
        lines.append(texts + numbers)
    lines.insert(1, rule)
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
