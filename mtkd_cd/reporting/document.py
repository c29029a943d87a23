"""A report: sections of text, tables, figures and pictures, and the files that they are written
to."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import OutputFolder
from mtkd_cd.core.locks import alone
from mtkd_cd.core.text import markdown_text
from mtkd_cd.reporting.page import html_page
from mtkd_cd.reporting.plotting import Drawing
from mtkd_cd.reporting.table_formats import Table

if TYPE_CHECKING:  # OpenCV and all that reads images: not for a report without images
    from mtkd_cd.reporting.thumbnails import Thumbnail


@dataclass(frozen=True)
class ImageCard:
    """One image: its name, what is said of it, its small pictures."""

    name: str
    text: str
    tone: str
    thumbnails: Sequence['Thumbnail']


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        anchor: For links within the page.
        title: Heading.
        paragraphs: Plain text.
        pictures: Figures, shown side by side where there is room.
        tables: Below the figures.
        cards: Images by heading, in HTML only.
    """

    anchor: str
    title: str
    paragraphs: Sequence[str] = ()
    pictures: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    cards: Mapping[str, Sequence[ImageCard]] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparisonReport:
    """All of it.

    Attributes:
        title: Heading.
        facts: What was compared, in one line.
        summary: What came out, a sentence each.
        notes: What a reader has to know to judge it.
        sections: The parts.
        sources: The tables read, and by whom; then the files left aside, and why.
    """

    title: str
    facts: str
    summary: Sequence[str]
    notes: Sequence[str]
    sections: Sequence[Section]
    sources: Mapping[str, Sequence[str]]

    def write(
        self, folder: Path, reads: Iterable[str | os.PathLike] = (), png: bool = False
    ) -> None:
        """Write ``report.html``, ``report.md``, ``figures/*.svg``, ``tables/*.csv`` and
        ``tables/*.tex``; those of an earlier report there go. It waits while another process
        writes one there.

        Args:
            folder: Where to.
            reads: Files and folders that the report was made from.
            png: Write ``figures/*.png`` too, and link these in ``report.md``.

        Raises:
            UserError: ``folder`` is one of ``reads`` or lies in it, or a file is in the way that is
                no report's.
        """
        output = OutputFolder(folder, 'report', reads)
        files = dict(self._files(png))
        with alone(folder / '.report.lock', wait=True):
            foreign = next((name for name in files if not output.may_write(name)), None)
            if foreign is not None:  # before an earlier report is gone
                raise UserError(
                    f'{folder / foreign} is there already, and was not made by this tool: choose '
                    'another place, or move it away'
                )
            output.clear()
            for name, content in files.items():
                with output.open(name) as file:
                    file.write(content)

    def _files(self, png: bool) -> Iterator[tuple[str, bytes]]:
        for section in self.sections:
            for picture in section.pictures:
                if png:
                    yield f'figures/{picture.name}.png', picture.png()
                yield f'figures/{picture.name}.svg', picture.svg
            for table in section.tables:
                yield f'tables/{table.name}.csv', table.as_csv().encode()
                yield f'tables/{table.name}.tex', table.as_latex().encode()
        yield 'report.md', self.as_markdown('png' if png else 'svg').encode()
        yield 'report.html', self.as_html().encode()

    def as_markdown(self, suffix: str = 'svg') -> str:
        """With figures linked from ``figures/``; names show letter by letter.

        Args:
            suffix: Of the figures' files: ``svg`` or ``png``.
        """
        parts = [f'# {markdown_text(self.title)}', markdown_text(self.facts)]
        parts += [_bullets(self.summary), _bullets(self.notes)]
        for section in self.sections:
            parts += [f'## {markdown_text(section.title)}', *map(markdown_text, section.paragraphs)]
            for picture in section.pictures:
                title, caption = markdown_text(picture.title), markdown_text(picture.caption)
                parts += [f'![{title}](figures/{picture.name}.{suffix})', f'*{title}.* {caption}']
            for table in section.tables:
                title, caption = markdown_text(table.title), markdown_text(table.caption)
                parts += [f'### {title}', table.as_markdown(), caption]
        for title, lines in self.sources.items():
            parts += [f'## {title}', _bullets(lines)]
        return '\n\n'.join(filter(None, parts)) + '\n'

    def as_html(self) -> str:
        """One page that needs nothing else, see :mod:`mtkd_cd.reporting.page`."""
        return html_page(self)


def _bullets(lines: Sequence[str]) -> str:
    return '\n'.join(f'- {markdown_text(line)}' for line in lines)
