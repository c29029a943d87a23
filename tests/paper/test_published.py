"""The paper's figures have one home; documents and configs say the same."""

import re
from pathlib import Path

import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.paper import docs
from mtkd_cd.paper.published import JL1_CD, SYSU_CD, published_models, published_scores

DOCS = Path(__file__).parents[2] / 'docs'


def test_tables_of_the_documents_are_up_to_date():
    """Else: make docs-tables."""
    documents = sorted(DOCS.rglob('*.md'))
    texts = {path: path.read_text(encoding='utf-8') for path in documents}
    assert any('<!-- paper table:' in text for text in texts.values())
    assert [path.name for path, text in texts.items() if docs.with_tables(text) != text] == []


def test_a_stale_table_is_written_anew_and_nothing_else_is_touched(tmp_path, capsys):
    stale = 'before\n<!-- paper table: models -->\n| old |\n<!-- end of table -->\nafter\n'
    (tmp_path / 'a.md').write_text(stale)
    (tmp_path / 'b.md').write_text('none')
    docs.main([str(tmp_path)])
    text = (tmp_path / 'a.md').read_text()
    assert text.startswith('before\n<!-- paper table')
    assert text.endswith('table -->\nafter\n')
    assert '| old |' not in text
    assert re.search(
        r'\| `changer_mitb0` +\| Changer .* 3\.457 .* 74\.85 \| 75\.29 \| 75\.35 \|', text
    )
    assert capsys.readouterr().out == f'written: {tmp_path / "a.md"}\n'
    docs.main([str(tmp_path)])
    assert capsys.readouterr().out == ''


def test_an_unknown_table_is_refused_with_the_closest_name():
    with pytest.raises(UserError, match=r"'model'.*did you mean 'models'"):
        docs.with_tables('<!-- paper table: model -->\n<!-- end of table -->')


def _difference(dataset, model, strategy):
    scores = published_scores(dataset, model, strategy)
    origin = published_scores(dataset, model, 'origin')
    return f'{scores["mIoU"] - origin["mIoU"]:+.2f}' if scores else ''


def test_the_papers_differences_in_the_experiments_report_are_those_of_the_package():
    text = (DOCS / 'experiments_ombria.md').read_text(encoding='utf-8')
    section = text.split('## Beside the paper')[1].split('\n## ')[0]
    rows = re.findall(r'^\| (\w+)(?: \*)? \| (.*) \|$', section, re.MULTILINE)
    shown = {name: [cell.strip() for cell in cells.split('|')] for name, cells in rows}
    shown = {name: cells for name, cells in shown.items() if name in published_models()}
    assert len(shown) == 6
    for name, cells in shown.items():
        assert [cells[0], cells[2], cells[3], cells[5]] == [
            _difference(JL1_CD, name, 'op'),
            _difference(JL1_CD, name, 'mtkd'),
            _difference(SYSU_CD, name, 'mtkd'),
            _difference(SYSU_CD, name, 'mtkd@0.1'),
        ], name
