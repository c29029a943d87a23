import pytest

from mtkd_cd.core.text import (
    closest,
    csv_row,
    csv_text,
    format_markdown_table,
    from_csv_text,
    label_and_path,
    markdown_text,
    some,
)


def test_a_long_list_ends_in_how_many_are_left():
    assert some(['a', 'b', 'c', 'd', 'e']) == 'a, b, c and 2 more'
    assert some(['a', 'b', 'c']) == 'a, b, c'
    assert some([1, 2, 3], 2, '; ') == '1; 2 and 1 more'
    assert some(['a', 'b'], 1, '\n  ') == 'a\n  and 1 more'
    assert some([]) == ''


def test_a_misspelled_word_gets_the_closest_known_one():
    assert closest('tinycdd', ['fc_ef', 'tinycd']) == "did you mean 'tinycd'?"
    assert closest('qqq', ['fc_ef', 'tinycd']) == 'there are fc_ef, tinycd'
    assert closest('qqq', []) == 'there is none'


def test_a_path_with_an_equals_sign_that_exists_is_a_path(tmp_path):
    path = tmp_path / 'lr=1'
    assert label_and_path(f'mine={path}') == ('mine', str(path))
    assert label_and_path('table.csv') == ('', 'table.csv')
    path.mkdir()
    assert label_and_path(str(path)) == ('', str(path))
    assert label_and_path(f'mine={path}') == ('mine', str(path))


@pytest.mark.parametrize(
    'text', ['=1+1', '+1', '-1', '@a', '\ta', '\ra', "'=a", "''a", "'a", 'a', '']
)
def test_csv_text_is_no_formula_and_comes_back(text):
    assert not csv_text(text).startswith(('=', '+', '-', '@', '\t', '\r'))
    assert from_csv_text(csv_text(text)) == text


def test_csv_row_guards_its_texts_alone():
    assert csv_row({'a': '=1', 'b': -0.5, 'c': 'x'}) == {'a': "'=1", 'b': -0.5, 'c': 'x'}


@pytest.mark.parametrize(
    ('text', 'written'),
    [
        ('fc_siam_diff', 'fc_siam_diff'),
        ('_a_ *b* `c`', r'\_a\_ \*b\* \`c\`'),
        ('<script>x</script>', r'\<script>x\</script>'),
        ('CAR <= 0.05 < 1', 'CAR <= 0.05 < 1'),
        ('[a](http://b)', r'[a\](http://b)'),
        ('+0.5 [+0.1, +0.9]', '+0.5 [+0.1, +0.9]'),
        ('a|b\nc', r'a\|b c'),
        ('# a', r'\# a'),
        ('&lt;', r'\&lt;'),
        ('a & b', 'a & b'),
    ],
)
def test_markdown_text_is_shown_letter_by_letter(text, written):
    assert markdown_text(text) == written


def test_a_markdown_table_is_aligned():
    assert format_markdown_table(
        ['class', 'IoU'], [['changed', '5.00'], ['unchanged', '100.00']]
    ) == (
        '| class     |    IoU |\n'
        '| --------- | -----: |\n'
        '| changed   |   5.00 |\n'
        '| unchanged | 100.00 |'
    )
