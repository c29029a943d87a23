"""Matching files to pairs, and what their headers tell."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.layout import PairFolders
from mtkd_cd.data.pairs import header_problems, list_pairs, raise_if_any


@pytest.fixture
def folders(tmp_path):
    return PairFolders(*(str(tmp_path / name) for name in ('A', 'B', 'label')))


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif', '.bmp', '.PNG'])
def test_any_image_type_is_found_and_sorted(tmp_path, write_pairs, folders, suffix):
    write_pairs(tmp_path, [0, 0, 0], suffix=suffix, label_suffix='.png', names=['b', 'a/z', 'c'])
    pairs, problems = list_pairs(folders)
    assert problems == []
    assert [pair.name for pair in pairs] == ['a/z', 'b', 'c']
    assert pairs[0] == (
        'a/z',
        str(tmp_path / f'A/a/z{suffix}'),
        str(tmp_path / f'B/a/z{suffix}'),
        str(tmp_path / 'label/a/z.png'),
    )


def test_suffix_is_cut_off_once_and_only_at_the_end(tmp_path, write_pairs, folders):
    write_pairs(tmp_path, [0], suffix='.png', label_suffix='_gt.png', names=['a.png.b'])
    (pair,), _ = list_pairs(folders, img_suffix='.png', seg_map_suffix='_gt.png')
    assert pair.name == 'a.png.b'
    assert pair.label == str(tmp_path / 'label/a.png.b_gt.png')


def test_hidden_files_and_other_types_are_skipped(tmp_path, write_pairs, folders):
    write_pairs(tmp_path, [0])
    for name in ('A/.hidden.png', 'A/notes.txt', 'label/Thumbs.db'):
        (tmp_path / name).write_text('')
    pairs, problems = list_pairs(folders)
    assert (len(pairs), problems) == (1, [])


def test_list_gives_choice_and_order_with_or_without_suffix(tmp_path, write_pairs, folders):
    write_pairs(tmp_path, [0] * 4, names=['a', 'b', 'c', 'd'])
    listed = tmp_path / 'list.txt'
    listed.write_bytes('\ufeffd.png\r\n\n  b \r\n./a.png\n   \n'.encode())
    for suffix in ('', '.png'):
        pairs, problems = list_pairs(folders, str(listed), suffix, suffix)
        assert problems == []
        assert [pair.name for pair in pairs] == ['d', 'b', 'a']


def test_missing_list_is_an_error_not_ignored(tmp_path, write_pairs, folders):
    write_pairs(tmp_path, [0])
    with pytest.raises(UserError, match=r'trian\.txt does not exist'):
        list_pairs(folders, str(tmp_path / 'trian.txt'))
    (tmp_path / 'blank.txt').write_text('\n\n')
    with pytest.raises(UserError, match=r'blank\.txt has no names'):
        list_pairs(folders, str(tmp_path / 'blank.txt'))


def test_files_without_partner_are_named(tmp_path, write_pairs, folders):
    write_pairs(tmp_path, [0] * 4, names=['a', 'b', 'c', 'd'])
    for name in ('A/b.png', 'B/c.png', 'label/d.png'):
        (tmp_path / name).unlink()
    pairs, problems = list_pairs(folders)
    assert [pair.name for pair in pairs] == ['a']
    assert {problem.path for problem in problems} == {
        str(tmp_path / name) for name in ('B/b.png', 'A/c.png', 'A/d.png')
    }
    with pytest.raises(UserError, match=r'(?s)3 files .*B/b\.png: has no partner in .*A'):
        raise_if_any(problems)


def test_listed_file_that_is_nowhere_is_named(tmp_path, write_pairs, folders):
    write_pairs(tmp_path, [0])
    (tmp_path / 'list.txt').write_text('000\n001\n')
    _, (problem,) = list_pairs(folders, str(tmp_path / 'list.txt'))
    assert problem.path.endswith('list.txt')
    assert "'001'" in problem.text


def test_missing_and_empty_folders_are_named_with_what_is_there(tmp_path, write_pairs, folders):
    with pytest.raises(UserError, match='A does not exist'):
        list_pairs(folders)
    write_pairs(tmp_path, [0], suffix='.jpg', label_suffix='.png')
    with pytest.raises(UserError, match=r"A has no file ending in '\.png'.*000\.jpg"):
        list_pairs(folders, img_suffix='.png')
    (tmp_path / 'A/000.jpg').unlink()
    with pytest.raises(UserError, match=r'A has no file .* it is empty'):
        list_pairs(folders)


def test_two_files_of_one_name_are_refused(tmp_path, write_pairs, folders):
    for suffix in ('.png', '.tif'):
        write_pairs(tmp_path, [0], suffix=suffix, label_suffix='.png')
    with pytest.raises(UserError, match='same name'):
        list_pairs(folders)


def test_headers_show_sizes_channels_and_broken_files(tmp_path, write_pairs, folders):
    write_pairs(tmp_path, [0] * 5, names=['good', 'label', 'date', 'alpha', 'broken'])
    assert header_problems(list_pairs(folders)[0]) == []
    Image.fromarray(np.zeros((20, 21), np.uint8)).save(tmp_path / 'label/label.png')
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(tmp_path / 'B/date.png')
    Image.fromarray(np.zeros((20, 20, 4), np.uint8)).save(tmp_path / 'A/alpha.png')
    (tmp_path / 'B/broken.png').write_bytes(b'')
    problems = {problem.path: problem.text for problem in header_problems(list_pairs(folders)[0])}
    assert set(problems) == {
        str(tmp_path / name)
        for name in ('label/label.png', 'B/date.png', 'A/alpha.png', 'B/broken.png')
    }
    assert '21 x 20' in problems[str(tmp_path / 'label/label.png')]
    assert '20 x 10' in problems[str(tmp_path / 'B/date.png')]
    assert '4 channels' in problems[str(tmp_path / 'A/alpha.png')]


def test_a_long_list_of_problems_is_cut_short(tmp_path, write_pairs, folders):
    write_pairs(tmp_path, [0] * 12)
    for path in (tmp_path / 'B').glob('00[1-9].png'):
        path.unlink()
    with pytest.raises(UserError) as caught:
        raise_if_any(list_pairs(folders)[1])
    assert str(caught.value).startswith('9 files')
    assert '4 more' in str(caught.value)
    assert len(str(caught.value).splitlines()) == 7


@pytest.mark.parametrize('folder', ['A', 'B', 'label'])
def test_images_of_another_type_beside_the_wanted_are_refused(
    tmp_path, write_pairs, folders, folder
):
    write_pairs(tmp_path, [0] * 3)
    image = Image.fromarray(np.zeros((20, 20), np.uint8))
    image.save(tmp_path / folder / '007.jpg')
    image.save(tmp_path / folder / '008.tif')
    with pytest.raises(UserError, match=r"2 images of another type beside 3 '\.png' \(007\.jpg"):
        list_pairs(folders, '', '.png', '.png')


def test_upper_case_suffix_is_the_suffix(tmp_path, write_pairs, folders):
    write_pairs(tmp_path, [0] * 3)
    for folder in ('A', 'B', 'label'):
        (tmp_path / folder / '001.png').rename(tmp_path / folder / '001.PNG')
    (tmp_path / 'list.txt').write_text('001.PNG\n002\n')
    for suffix in ('.png', ''):
        assert [pair.name for pair in list_pairs(folders, '', suffix, suffix)[0]] == [
            '000',
            '001',
            '002',
        ]
        listed, problems = list_pairs(folders, str(tmp_path / 'list.txt'), suffix, suffix)
        assert [pair.name for pair in listed] == ['001', '002']
        assert not problems


def test_what_is_passed_over_is_said_with_counts(tmp_path, write_pairs, folders, monkeypatch):
    said = []
    monkeypatch.setattr('mmengine.logging.print_log', lambda text, **_: said.append(text))
    write_pairs(tmp_path, [0] * 3)
    (tmp_path / 'A/.ipynb_checkpoints').mkdir()
    shutil.copy(tmp_path / 'A/000.png', tmp_path / 'A/.ipynb_checkpoints/000-checkpoint.png')
    (tmp_path / 'A/Thumbs.db').touch()
    pairs, problems = list_pairs(folders)
    assert (len(pairs), problems) == (3, [])
    assert said == [
        f'{tmp_path}/A: 1 hidden entries (such as .ipynb_checkpoints) and 1 other files (such as '
        'Thumbs.db) are passed over'
    ]


def test_links_to_nothing_are_named(tmp_path, write_pairs, folders):
    write_pairs(tmp_path, [0] * 3)
    (tmp_path / 'B/001.png').unlink()
    (tmp_path / 'B/001.png').symlink_to('../.git/annex/objects/x.png')
    pairs, problems = list_pairs(folders, '', '.png', '.png')
    assert [pair.name for pair in pairs] == ['000', '002']
    assert [problem.path for problem in problems] == [str(tmp_path / 'B/001.png')]
    assert 'git annex' in problems[0].text


def test_names_that_are_not_utf8_are_refused_in_printable_text(tmp_path, write_pairs, folders):
    write_pairs(tmp_path, [0] * 2)
    strange = os.fsdecode('变化'.encode('gbk'))
    for folder in ('A', 'B', 'label'):
        (tmp_path / folder / '001.png').rename(tmp_path / folder / f'{strange}.png')
    pairs, problems = list_pairs(folders)
    assert [pair.name for pair in pairs] == ['000']
    assert len(problems) == 3
    with pytest.raises(UserError, match='not UTF-8') as caught:
        raise_if_any(problems)
    str(caught.value).encode()


def test_names_twice_in_a_list_are_counted(tmp_path, write_pairs, folders):
    write_pairs(tmp_path, [0] * 3)
    (tmp_path / 'list.txt').write_text('000\n001.png\n000.png\n./000\n')
    pairs, problems = list_pairs(folders, str(tmp_path / 'list.txt'))
    assert [pair.name for pair in pairs] == ['000', '001']
    assert [problem.text.split(':')[0] for problem in problems] == ["lists '000' 3 times"]


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'gbk', 'utf-16-le'])
def test_lists_are_read_in_unicode_and_named_otherwise(tmp_path, write_pairs, folders, encoding):
    write_pairs(tmp_path, [0] * 2, names=['变化', '001'])
    path = tmp_path / 'list.txt'
    path.write_bytes('变化\r\n001\r\n'.encode(encoding))
    if encoding.startswith('utf-8') or encoding == 'utf-16':
        assert [pair.name for pair in list_pairs(folders, str(path))[0]] == ['变化', '001']
    else:
        with pytest.raises(UserError, match=r'list\.txt .*iconv'):
            list_pairs(folders, str(path))
