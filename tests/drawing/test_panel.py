import io

import numpy as np
import pytest
from PIL import Image

from mtkd_cd.drawing import OUTCOME_COLOURS, Row, Sheet, compose_panel, png_bytes


def _tile(size=300, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def _contains(panel, tile):
    """Whether ``tile`` appears in ``panel``, pixel for pixel."""
    height, width = tile.shape[:2]
    corners = np.argwhere((panel[: 1 - height or None, : 1 - width or None] == tile[0, 0]).all(-1))
    return any((panel[y : y + height, x : x + width] == tile).all() for y, x in corners)


def test_every_tile_is_shown_unchanged_in_a_row():
    tiles = {'A': _tile(seed=0), 'B': _tile(seed=1)}
    panel = compose_panel(tiles, 'caption')
    assert all(_contains(panel, tile) for tile in tiles.values())
    assert panel.shape[1] > 2 * 300
    assert panel.shape[0] < 2 * 300


def test_small_tiles_grow_by_a_whole_factor():
    tile = _tile(100)
    assert _contains(compose_panel({'A': tile}, ''), tile.repeat(3, 0).repeat(3, 1))


def test_gray_tiles_are_shown_gray():
    mask = np.zeros((256, 256), np.uint8)
    mask[:, 100:] = 255
    assert _contains(compose_panel({'label': mask}, ''), mask[..., None].repeat(3, -1))


def test_titles_and_every_caption_line_are_drawn():
    tiles = {'A': np.full((300, 300), 255, np.uint8)}
    blank = compose_panel({'': tiles['A']}, '\n', legend={})
    dark = [
        (compose_panel({title: tiles['A']}, caption, legend={}) < 100).sum()
        for title, caption in (('A', '\n'), ('', 'x\n'), ('', '\nx'))
    ]
    assert all(count > (blank < 100).sum() for count in dark)


def test_a_long_caption_stays_inside_and_keeps_its_end():
    tiles = {'A': np.full((300, 300), 255, np.uint8)}
    long, longer = (
        compose_panel(tiles, 'folder/' * repeats + 'scene_7.png') for repeats in (40, 80)
    )
    other = compose_panel(tiles, 'folder/' * 40 + 'scene_8.png')
    assert long.shape == longer.shape
    assert (long == longer).all()
    assert (long != other).any()
    assert (long[:20, -5:] > 200).all()


def test_letters_of_other_alphabets_are_drawn():
    tiles = {'A': np.full((300, 300), 255, np.uint8)}
    assert (compose_panel(tiles, 'Жук') != compose_panel(tiles, 'Шум')).any()


def test_the_legend_shows_each_colour_and_can_be_left_out():
    tiles = {'A': np.full((256, 256), 255, np.uint8)}
    colours = {tuple(colour) for colour in compose_panel(tiles, '').reshape(-1, 3).tolist()}
    assert colours >= set(OUTCOME_COLOURS.values())
    without = {
        tuple(colour) for colour in compose_panel(tiles, '', legend={}).reshape(-1, 3).tolist()
    }
    assert OUTCOME_COLOURS['missed'] not in without


@pytest.mark.parametrize(('shape', 'mode'), [((5, 7), 'L'), ((5, 7, 3), 'RGB')])
def test_png_files_keep_pixels_and_channels(shape, mode):
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = Image.open(io.BytesIO(png_bytes(picture)))
    assert (image.format, image.mode) == ('PNG', mode)
    assert (np.asarray(image) == picture).all()


def test_a_sheet_shows_all_rows_and_titles_them_once():
    rows = [
        Row({'A': _tile(seed=row), 'B': _tile(seed=row + 10)}, f'row {row}') for row in range(3)
    ]
    sheet = Sheet(rows).pixels()
    assert all(_contains(sheet, tile) for row in rows for tile in row.tiles.values())
    retitled = [rows[0], Row({'A': rows[1].tiles['A'], 'C': rows[1].tiles['B']}, 'row 1'), rows[2]]
    line = 20  # 1.4 times the font size of 14
    assert Sheet(retitled).pixels().shape[0] == sheet.shape[0] + 2 * line


def test_rows_of_other_sizes_fit_on_a_sheet():
    rows = [Row({'A': _tile(300)}, 'x'), Row({'A': _tile(400), 'B': _tile(400, 1)}, 'y')]
    sheet = Sheet(rows, legend={}).pixels()
    assert all(_contains(sheet, tile) for row in rows for tile in row.tiles.values())


def test_a_note_stands_below_its_tile():
    tiles = {'A': np.full((300, 300), 255, np.uint8), 'B': np.full((300, 300), 255, np.uint8)}
    noted = Sheet([Row(tiles, '', {'B': 'IoU 50'})], {}).pixels()
    blank = Sheet([Row(tiles, '', {'B': ' '})], {}).pixels()
    changed = np.argwhere((noted != blank).any(-1))
    assert len(changed)
    assert changed[:, 0].min() > 300
    assert changed[:, 1].min() > 300


@pytest.mark.parametrize(
    ('kind', 'start', 'pictures'),
    [('pdf', b'%PDF', b'/Subtype /Image'), ('svg', b'<?xml', b'<image')],
)
def test_vector_files_hold_each_tile_once(kind, start, pictures):
    content = Sheet(
        [Row({'A': _tile(40), 'label': _tile(40, 1)[..., 0]}, 'a $ sign and _ more $')]
    ).vector(kind)
    assert content.startswith(start)
    assert content.count(pictures) == 2
