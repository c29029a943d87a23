"""Reading CSV files that others may have written: spreadsheets and scripts separate cells by
commas, semicolons or tabs, put a mark before the first column, and leave rows of empty cells."""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from mtkd_cd.core.errors import UserError

ENCODING = 'utf-8-sig'  # UTF-8 with or without the mark
_DELIMITERS = ',;\t'


@dataclass(frozen=True)
class CsvRows:
    """The content of a CSV file.

    Attributes:
        header: Names of the columns, without space around them.
        rows: (line that the row ends in, cells by column).
        delimiter: What stands between the cells.
    """

    header: list[str]
    rows: list[tuple[int, dict[str, str]]]
    delimiter: str


def read_csv(file: IO[str], what: str) -> CsvRows:
    """Read a table whose first line names the columns; rows without any content are left out.

    Args:
        file: Opened with :data:`ENCODING` and ``newline=''``.
        what: Names the file in errors.

    Raises:
        UserError: A row has more or fewer cells than the first line, as one with an unquoted comma
            in a name has, or the first line names a column twice.
        csv.Error: The file is no CSV.
        UnicodeDecodeError: It is not in UTF-8.
    """
    header, delimiter = read_columns(file)
    twice = [name for name, times in Counter(header).items() if name and times > 1]
    if twice:
        raise UserError(f'{what}: the first line names the column {twice[0]!r} twice')
    return CsvRows(header, list(_rows(file, what, header, delimiter)), delimiter)


def read_columns(file: IO[str]) -> tuple[list[str], str]:
    """(names of the columns, what stands between them), from the first line with content."""
    line = next((line for line in file if line.strip()), '')
    file.seek(0)
    found = {delimiter: _cells(line, delimiter) for delimiter in _DELIMITERS}
    delimiter = next((one for one, names in found.items() if len(names) > 1), _DELIMITERS[0])
    return found[delimiter], delimiter


def _cells(line: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]


def _rows(
    file: IO[str], what: str, header: list[str], delimiter: str
) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(file, delimiter=delimiter)
    next((cells for cells in reader if any(map(str.strip, cells))), None)
    for cells in reader:
        if not any(map(str.strip, cells)):
            continue
        if len(cells) != len(header):
            raise UserError(
                f'{what}, line {reader.line_num}: {len(header)} cells are needed, as in the first '
                f'line, found {len(cells)}. A {delimiter!r} within a cell needs quotation marks '
                'round it'
            )
        yield reader.line_num, dict(zip(header, cells))
