"""One table in four forms, and the figures that the paper printed."""

import csv
import io

import pytest

from mtkd_cd.paper.published import (
    model_title,
    published_dataset,
    published_models,
    published_scores,
)
from mtkd_cd.reporting.table_formats import Cell, Column, Table, latex_text, typographic


@pytest.fixture
def small_table():
    columns = [Column('Model', ('model',), 'left'), Column('mIoU', ('mIoU', 'difference'))]
    rows = [
        [Cell('my_net|2', ('my_net|2',)), Cell('75.35', (75.3456789, None), bold=True)],
        [Cell('my_net|2', ('my_net|2',)), Cell('74.10', (74.1, -1.25), '(-1.25*)')],
    ]
    return Table('scores', 'Scores', 'In 100 %.', columns, [rows])


def test_markdown_says_a_key_once(small_table):
    assert small_table.as_markdown().splitlines() == [
        '| Model     |           mIoU |',
        '| --------- | -------------: |',
        r'| my_net\|2 |      **75.35** |',
        '|           | 74.10 (-1.25*) |',
    ]


def test_csv_has_every_value_in_full(small_table):
    rows = list(csv.DictReader(io.StringIO(small_table.as_csv())))
    assert rows == [
        {'model': 'my_net|2', 'mIoU': '75.3456789', 'difference': ''},
        {'model': 'my_net|2', 'mIoU': '74.1', 'difference': '-1.25'},
    ]


def test_latex_is_escaped_and_ruled_by_booktabs(small_table):
    lines = [line.strip() for line in small_table.as_latex().splitlines()]
    assert r'\caption{Scores. In 100 \%.}' in lines
    assert r'\begin{tabular}{lr}' in lines
    assert lines[lines.index(r'\midrule') + 1 : lines.index(r'\bottomrule')] == [
        r'my\_net$|$2 & \textbf{75.35} \\',
        r'& 74.10 ($-$1.25*) \\',
    ]


def test_minus_signs_are_set_before_numbers_alone():
    assert (
        typographic('ViT-L/14 (-0.50), [-1, +1], CAR <= 0.05')
        == 'ViT-L/14 (−0.50), [−1, +1], CAR ≤ 0.05'
    )
    assert latex_text('a_b & 5 % ± 1') == r'a\_b \& 5 \% $\pm$ 1'


@pytest.mark.parametrize(
    ('dataset', 'model', 'strategy', 'score', 'printed'),
    [
        ('JL1-CD', 'fc_ef', 'origin', 'mIoU', 57.08),
        ('JL1-CD', 'fc_ef', 'op', 'IoU_changed', 7.35),  # 21.30 - 13.95
        ('JL1-CD', 'ttp_vitsam_l', 'mtkd', 'mIoU', 76.85),
        ('JL1-CD', 'changer_mitb0', 'mtkd@0.1', 'mIoU', 75.72),
        ('JL1-CD', 'changer_mitb0', 'mine:op', 'mFscore', 81.32),
        ('SYSU-CD', 'fc_siam_diff', 'mtkd@0.1', 'mFscore', 72.86),
    ],
)
def test_published_figures_are_the_papers(dataset, model, strategy, score, printed):
    assert published_scores(dataset, model, strategy)[score] == printed


@pytest.mark.parametrize(
    ('model', 'strategy'),
    [('fc_ef', 'mtkd@validated'), ('fc_ef', 'continued'), ('my_net', 'origin')],
)
def test_what_the_paper_does_not_have_has_no_published_figure(model, strategy):
    assert published_scores('JL1-CD', model, strategy) == {}


def test_published_classes_average_to_the_published_means():
    assert len(published_models()) == 21
    for model in published_models():
        for strategy in ('origin', 'op', 'mtkd'):
            scores = published_scores('JL1-CD', model, strategy)
            for name in ('IoU', 'Recall', 'Precision', 'Fscore'):
                assert scores[f'm{name}'] == pytest.approx(
                    (scores[f'{name}_changed'] + scores[f'{name}_unchanged']) / 2, abs=0.02
                )


def test_evaluated_set_is_known_by_name_or_by_its_size():
    assert published_dataset('SYSU CD', 4000, 256 * 256) == ('SYSU-CD', True)
    assert published_dataset('OMBRIA', 1000, 512 * 512) == ('JL1-CD', False)
    assert published_dataset(None, 1000, 512 * 512) == ('JL1-CD', True)
    assert published_dataset(None, 100, 512 * 512) == ('JL1-CD', False)
    assert [model_title(name) for name in ('changer_mitb0', 'fc_ef', 'x')] == [
        'Changer (MiT-b0)',
        'FC-EF',
        'x',
    ]
