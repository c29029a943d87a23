"""A report as one HTML page that needs nothing else: figures and pictures are data URIs, and there
is no script.

``Markup.format`` and ``Markup.join`` escape whatever is no ``Markup`` itself.
"""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from mtkd_cd.reporting.plotting import Drawing
from mtkd_cd.reporting.table_formats import Cell, Column, Table, typographic

if TYPE_CHECKING:
    from mtkd_cd.reporting.document import ComparisonReport, ImageCard, Section
    from mtkd_cd.reporting.thumbnails import Thumbnail

_CSS = Path(__file__).with_name('report.css')
_PAGE = Markup("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="facts">{facts}</p>
{summary}{notes}<nav aria-label="Sections">
{links}<a href="#sources">Sources</a>
</nav>
</header>
<main>
{sections}<section id="sources">
<h2>Sources</h2>
{sources}</section>
</main>
</body>
</html>""")
_LIST = Markup('<ul class="{}">\n{}</ul>\n')
_LINE = Markup('<li>{}</li>\n')
_LINK = Markup('<a href="#{}">{}</a>\n')
_SECTION = Markup("""\
<section id="{anchor}">
<h2>{title}</h2>
{paragraphs}{pictures}{tables}{cards}</section>
""")
_PARAGRAPH = Markup('<p>{}</p>\n')
_PICTURES = Markup('<div class="figures{}">\n{}</div>\n')
_PICTURE = Markup("""\
<figure id="figure-{name}">
<img src="{source}" alt="{title}. {caption}">
<figcaption><strong>{title}</strong>{caption}</figcaption>
</figure>
""")
_TABLE = Markup("""\
<h3 id="table-{name}"{unseen}>{title}</h3>
<div class="scroll" tabindex="0" role="region" aria-labelledby="table-{name}">
<table>
<thead><tr>{heads}</tr></thead>
{groups}</table>
</div>
<p class="caption">{caption}</p>
""")
_HEAD = Markup('<th scope="col" class="{}">{}</th>')
_GROUP = Markup('<tbody>\n{}</tbody>\n')
_ROW = Markup('<tr>{}</tr>\n')
_CELL = Markup('<td class="{align} {tone}{plain}">{text}{note}</td>')
_CARDS = Markup('<h4>{}</h4>\n<div class="cards">\n{}</div>\n')
_CARD = Markup("""\
<div class="card {tone}">
<b>{name}</b><br>{text}
{tiles}</div>
""")
_TILES = Markup('<div class="tiles">\n{}</div>\n')
_TILE = Markup("""\
<figure><img src="{source}" alt="{title} of {name}"><figcaption>{title}</figcaption></figure>
""")
_SOURCES = Markup("""\
<details>
<summary>{title} ({count})</summary>
<ul>
{lines}</ul>
</details>
""")


def html_page(report: 'ComparisonReport') -> str:
    """The whole page."""
    page = _PAGE.format(
        title=report.title,
        css=Markup(_CSS.read_text(encoding='utf-8')),
        facts=typographic(report.facts),
        summary=_list('summary', report.summary),
        notes=_list('notes', report.notes),
        links=_joined(_LINK.format(section.anchor, section.title) for section in report.sections),
        sections=_joined(map(_section, report.sections)),
        sources=_joined(
            _SOURCES.format(title=title, count=len(lines), lines=_lines(lines))
            for title, lines in report.sources.items()
        ),
    )
    return str(page)


def _joined(parts: Iterable[Markup]) -> Markup:
    return Markup().join(parts)


def _list(name: str, lines: Sequence[str]) -> Markup:
    return _LIST.format(name, _lines(lines)) if lines else Markup()


def _lines(lines: Iterable[str]) -> Markup:
    return _joined(_LINE.format(typographic(line)) for line in lines)


def _section(section: 'Section') -> Markup:
    pictures = _joined(map(_picture, section.pictures))
    if section.pictures:
        pictures = _PICTURES.format(' single' if len(section.pictures) == 1 else '', pictures)
    return _SECTION.format(
        anchor=section.anchor,
        title=section.title,
        paragraphs=_joined(_PARAGRAPH.format(typographic(text)) for text in section.paragraphs),
        pictures=pictures,
        tables=_joined(_table(table, table.title == section.title) for table in section.tables),
        cards=_joined(
            _CARDS.format(heading, _joined(map(_card, cards)))
            for heading, cards in section.cards.items()
        ),
    )


def _picture(picture: Drawing) -> Markup:
    return _PICTURE.format(
        name=picture.name,
        source=_data_uri(picture.svg, 'image/svg+xml'),
        title=picture.title,
        caption=typographic(picture.caption),
    )


def _table(table: Table, says_section_title: bool) -> Markup:
    return _TABLE.format(
        name=table.name,
        unseen=Markup(' class="unseen"' if says_section_title else ''),
        title=table.title,
        heads=_joined(
            _HEAD.format(column.align, typographic(column.title)) for column in table.columns
        ),
        groups=_joined(
            _GROUP.format(_joined(_row(row, table.columns) for row in group))
            for group in table.shown_groups
        ),
        caption=typographic(table.caption),
    )


def _row(row: Sequence[Cell], columns: Sequence[Column]) -> Markup:
    return _ROW.format(_joined(_cell(cell, column.align) for cell, column in zip(row, columns)))


def _cell(cell: Cell, align: str) -> Markup:
    text, note = typographic(cell.text), typographic(cell.note)
    return _CELL.format(
        align=align,
        tone=cell.tone,
        plain='' if note else ' plain',
        text=Markup('<b>{}</b>').format(text) if cell.bold else text,
        note=Markup(' <small>{}</small>').format(note) if note else '',
    )


def _card(card: 'ImageCard') -> Markup:
    tiles = _joined(_tile(tile, card.name) for tile in card.thumbnails)
    return _CARD.format(
        tone=card.tone,
        name=card.name,
        text=typographic(card.text),
        tiles=_TILES.format(tiles) if card.thumbnails else tiles,
    )


def _tile(tile: 'Thumbnail', name: str) -> Markup:
    source = _data_uri(tile.data, tile.media_type)
    return _TILE.format(source=source, title=tile.title, name=name)


def _data_uri(content: bytes, media_type: str) -> str:
    return f'data:{media_type};base64,{base64.b64encode(content).decode()}'
