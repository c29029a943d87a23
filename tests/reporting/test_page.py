"""The HTML page of a report."""

from html.parser import HTMLParser

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mtkd_cd.reporting.document import ComparisonReport, ImageCard, Section
from mtkd_cd.reporting.plotting import Drawing
from mtkd_cd.reporting.table_formats import Cell, Column, Table
from mtkd_cd.reporting.thumbnails import Thumbnail

NASTY = '<script>alert("a & b\'s")</script>'


class Words(HTMLParser):
    """Tags and attributes, and the text outside the style sheet."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        if self.tags[-1:] != ['style'] and data.strip():
            self.text.append(data)


def report_of(text: str) -> ComparisonReport:
    """All that a report can hold, with ``text`` wherever a text is."""
    cells = [Cell(text, (1,), note=text, bold=True, tone='gain'), Cell(text, (1,))]
    table = Table('table', text, text, [Column(text, ('a',), 'left')] * 2, [[cells], [cells]])
    card = ImageCard(text, text, 'loss', [Thumbnail(text, b'\x00\xff', 'image/png')])
    section = Section(
        'one',
        text,
        [text],
        [Drawing('picture', text, text, b'<svg/>', FigureCanvasAgg(Figure()))],
        [table],
        {text: [card, ImageCard(text, text, 'gain', ())]},
    )
    return ComparisonReport(text, text, [text], [text], [section], {text: [text]})


def test_texts_are_escaped_wherever_they_stand():
    usual, nasty = (Words(report_of(text).as_html()) for text in ('words', NASTY))
    assert nasty.tags == usual.tags
    assert 'script' not in nasty.tags
    assert nasty.text == [words.replace('words', NASTY) for words in usual.text]
    assert nasty.attributes == [
        (name, value and value.replace('words', NASTY)) for name, value in usual.attributes
    ]
    assert sum(words.count('words') for words in usual.text) == 28


def test_empty_parts_leave_no_elements():
    report = ComparisonReport('title', '', [], [], [Section('one', 'one')], {})
    assert not {'ul', 'li', 'figure', 'table', 'h3', 'h4', 'details'} & {
        *Words(report.as_html()).tags
    }


def test_page_is_plain_text_to_its_readers():
    html = report_of('words').as_html()
    assert type(html) is str
    assert html + '<' == f'{html}<'
