"""A report: sections of text, tables, figures and pictures, and the files that they are written
to."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.text import markdown_text
from mtkd_cd.reporting.figures import Picture
from mtkd_cd.reporting.table_formats import Table, typographic
from mtkd_cd.reporting.thumbnails import Thumbnail


@dataclass(frozen=True)
class Card:
    """One image: its name, what is said of it, its small pictures."""

    name: str
    text: str
    tone: str
    thumbnails: Sequence[Thumbnail]


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
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    cards: Mapping[str, Sequence[Card]] = field(default_factory=dict)


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

    def write(self, folder: Path) -> None:
        """Write ``report.html``, ``report.md``, ``figures/*.png``, ``figures/*.svg``,
        ``tables/*.csv`` and ``tables/*.tex``."""
        for section in self.sections:
            for picture in section.pictures:
                _write(folder / 'figures' / f'{picture.name}.png', picture.png)
                _write(folder / 'figures' / f'{picture.name}.svg', picture.svg)
            for table in section.tables:
                _write(folder / 'tables' / f'{table.name}.csv', table.as_csv().encode())
                _write(folder / 'tables' / f'{table.name}.tex', table.as_latex().encode())
        _write(folder / 'report.md', self.as_markdown().encode())
        _write(folder / 'report.html', self.as_html().encode())

    def as_markdown(self) -> str:
        """With figures linked from ``figures/``; names show letter by letter."""
        parts = [f'# {markdown_text(self.title)}', markdown_text(self.facts)]
        parts += [_bullets(self.summary), _bullets(self.notes)]
        for section in self.sections:
            parts += [f'## {markdown_text(section.title)}', *map(markdown_text, section.paragraphs)]
            for picture in section.pictures:
                title, caption = markdown_text(picture.title), markdown_text(picture.caption)
                parts += [f'![{title}](figures/{picture.name}.png)', f'*{title}.* {caption}']
            for table in section.tables:
                title, caption = markdown_text(table.title), markdown_text(table.caption)
                parts += [f'### {title}', table.as_markdown(), caption]
        for title, lines in self.sources.items():
            parts += [f'## {title}', _bullets(lines)]
        return '\n\n'.join(filter(None, parts)) + '\n'

    def as_html(self) -> str:
        """One page that needs nothing else: figures and pictures are data URIs, and there is no
        script."""
        return _environment().get_template('report.html').render(report=self)


def _bullets(lines: Sequence[str]) -> str:
    return '\n'.join(f'- {markdown_text(line)}' for line in lines)


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path, 'wb') as file:
        file.write(content)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / 'templates'),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters['typographic'] = typographic
    environment.filters['data_uri'] = _data_uri
    return environment


def _data_uri(content: bytes, media_type: str) -> str:
    return f'data:{media_type};base64,{base64.b64encode(content).decode()}'
