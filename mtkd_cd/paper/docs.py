"""Writes the tables of the documents that show the paper's figures.

``python -m mtkd_cd.paper.docs`` writes those of ``docs/``.

A table stands between ``<!-- paper table: NAME -->`` and ``<!-- end of table -->``.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.text import closest, format_markdown_table
from mtkd_cd.paper.published import JL1_CD, published_models, published_scores

_BLOCK = re.compile(
    r'(<!-- paper table: (?P<name>[\w-]+) -->\n)(?P<table>.*?)(<!-- end of table -->)', re.DOTALL
)


def benchmark_models_table() -> str:
    """The 21 models: size, cost, lambda (table 6) and published mIoU on JL1-CD (table 2)."""
    header = ['config', 'model', 'paper', 'backbone', 'parameters', 'FLOPs', 'lambda']
    strategies = {'origin': 'origin', 'op': 'O-P', 'mtkd': 'MTKD'}
    rows = []
    for name, facts in published_models().items():
        printed = [published_scores(JL1_CD, name, strategy)['mIoU'] for strategy in strategies]
        rows.append(
            [
                f'`{name}`',
                facts['method'],
                _link(facts['paper']),
                facts['backbone'],
                f'{facts["params_m"]:.3f}',
                f'{facts["flops_g"]:.3f}',
                f'{facts["lambda"]:g}',
                *(f'{score:.2f}' for score in printed),
            ]
        )
    return format_markdown_table([*header, *strategies.values()], rows, num_left=4)


_TABLES: dict[str, Callable[[], str]] = {'models': benchmark_models_table}


def with_tables(text: str) -> str:
    """A document with each marked table written anew.

    Raises:
        UserError: A table of a name that nobody writes.
    """

    def written(match: re.Match[str]) -> str:
        name = match['name']
        if name not in _TABLES:
            raise UserError(f'no paper table is called {name!r}: {closest(name, _TABLES)}')
        return f'{match[1]}\n{_TABLES[name]()}\n\n{match[4]}'

    return _BLOCK.sub(written, text)


def _link(paper: str) -> str:
    """Of an arXiv id or a DOI."""
    home = 'https://doi.org' if paper.startswith('10.') else 'https://arxiv.org/abs'
    return f'[{paper}]({home}/{paper})'


def main(argv: Sequence[str] | None = None) -> None:
    """Write the tables of all documents below a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', nargs='?', type=Path, default=Path('docs'), help='of documents')
    args = parser.parse_args(argv)
    for path in sorted(args.folder.rglob('*.md')):
        text = path.read_text(encoding='utf-8')
        new = with_tables(text)
        if new != text:
            with atomic_write(path) as file:
                file.write(new)
            print(f'written: {path}')


if __name__ == '__main__':
    main()
