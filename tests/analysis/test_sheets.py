"""visualize: which images are chosen, what the tiles show, and what is refused."""

import importlib.util
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mtkd_cd.analysis.sheets import MaskComparison, open_runs
from mtkd_cd.core.errors import UserError
from mtkd_cd.data import CDDataset
from mtkd_cd.drawing import error_map
from mtkd_cd.registry import DATASETS

ROOT = Path(__file__).parents[2]
NAMES = ('a', 'town/b', 'town/c.v1', 'd')


@DATASETS.register_module(force=True)
class LabelFolderlessDataset(CDDataset):
    pass


def _write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)


def _label(number):
    """(20, 20) of 0 and 1 with 40, 80, 120 or 160 changed pixels."""
    return (np.arange(400).reshape(20, 20) < 40 * (number + 1)).astype(np.uint8)


def _prediction(number, missed):
    mask = _label(number)
    mask[0, :missed] = 0
    return mask


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        for date in 'AB':
            _write(
                tmp_path / 'data/test' / date / f'{name}.png',
                rng.integers(0, 256, (20, 20, 3), np.uint8),
            )
        _write(tmp_path / 'data/test/label' / f'{name}.png', 255 * _label(number))
    return tmp_path / 'data'


@pytest.fixture
def runs(tmp_path):
    """``first``, as tools/test.py writes it, misses 4, 8, 12, 16 pixels; ``second``, a plain
    folder, 4, 0, 20, 12."""
    for number, name in enumerate(NAMES):
        _write(
            tmp_path / 'first/prediction' / f'{name}.png',
            255 * _prediction(number, 4 * (number + 1)),
        )
        _write(tmp_path / 'second' / f'{name}.png', _prediction(number, (4, 0, 20, 12)[number]))
    _write(tmp_path / 'first/panels/a.png', np.zeros((5, 5), np.uint8))
    return [str(tmp_path / 'first'), f'our student={tmp_path / "second"}']


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location(
        'visualize_tool', ROOT / 'tools/analysis/visualize.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def _comparison(data, runs):
    return MaskComparison(open_runs(runs), str(data))


def test_runs_are_named_by_label_or_folder(runs):
    assert [(run.label, sorted(run.files)) for run in open_runs(runs)] == [
        ('first', sorted(NAMES)),
        ('our student', sorted(NAMES)),
    ]
    assert open_runs([f'{runs[0]}/prediction'])[0].label == 'first'


@pytest.mark.parametrize(
    ('wanted', 'names'),
    [
        (['d', 'a.png'], ['d', 'a']),
        (['town/c.v1.png', 'b'], ['town/c.v1', 'town/b']),
        (['all'], ['a', 'd', 'town/b', 'town/c.v1']),
        # Of missed / changed pixels: first 0.1 everywhere, second 0.1, 0, 0.17, 0.075.
        (['worst:1'], ['town/c.v1']),
        (['best:1'], ['town/b']),
        (['gain:2'], ['town/b', 'd']),
        (['loss:1', 'a', 'town/c.v1'], ['town/c.v1', 'a']),
        (['worst:99'], ['town/c.v1', 'd', 'a', 'town/b']),
    ],
)
def test_images_are_chosen_by_name_or_score(data, runs, wanted, names):
    assert _comparison(data, runs).select(wanted) == names


def test_a_row_shows_dates_label_and_the_errors_of_each_run(data, runs):
    row = _comparison(data, runs).row('d')
    assert list(row.tiles) == ['A', 'B', 'label', 'first', 'our student']
    for date in 'AB':
        assert (row.tiles[date] == cv2.imread(str(data / 'test' / date / 'd.png'))[..., ::-1]).all()
    assert (row.tiles['label'] == 255 * _label(3)).all()
    assert (row.tiles['our student'] == error_map(_prediction(3, 12), _label(3))).all()
    assert re.search(r'^d +CAR 40\.00%$', row.caption)
    # 148 of 160 found, nothing else: IoU of change 92.5; of no change 240 / 252.
    assert row.notes['our student'] == 'IoU 92.5   mIoU 93.9   CAR 37.00%'


def test_contours_leave_the_image_beside_the_outlines_as_it_is(data, runs):
    row = _comparison(data, runs).row('a', 'contours')
    zoomed = row.tiles['B'].repeat(13, 0).repeat(13, 1)
    drawn = (row.tiles['first'] != zoomed).any(-1)
    assert row.tiles['first'].shape == zoomed.shape
    assert drawn.any()
    assert not drawn[3 * 13 :].any()  # the label covers the first two lines


def test_images_without_label_show_the_masks(data, runs):
    (data / 'test/label').rename(data / 'unused')
    comparison = MaskComparison(open_runs(runs), str(data), dataset_type='LabelFolderlessDataset')
    row = comparison.row('d')
    assert list(row.tiles) == ['A', 'B', 'first', 'our student']
    assert (row.tiles['our student'] == 255 * _prediction(3, 12)).all()
    assert row.notes['our student'] == 'CAR 37.00%'
    with pytest.raises(UserError, match=r'test/A/a\.png has no label'):
        comparison.select(['worst:1'])


def test_tool_writes_a_file_per_image_or_sheets(data, runs, tool, tmp_path, capsys):
    out = tmp_path / 'out'
    tool([*runs, '--data-root', str(data), '--images', 'all', '--out', str(out / 'each')])
    assert {path.relative_to(out / 'each').as_posix() for path in out.rglob('*.png')} == {
        f'{name}.png' for name in NAMES
    }
    assert '4 of the 4 test images' in capsys.readouterr().out
    options = [
        '--data-root',
        str(data),
        '--images',
        'all',
        '--sheet',
        '3',
        '--contours',
        '--format',
        'png',
        'pdf',
        'svg',
    ]
    tool([*runs, *options, '--out', str(out / 'sheets')])
    assert len(list((out / 'sheets').glob('sheet_*'))) == 2 * 3
    heights = [Image.open(out / 'sheets' / f'sheet_{number}.png').height for number in (1, 2)]
    assert heights[0] > 2.5 * heights[1]
    assert (out / 'sheets/sheet_1.pdf').read_bytes().startswith(b'%PDF')
    assert (out / 'sheets/sheet_1.svg').read_text().count('<image') == 3 * 5


def test_images_that_a_run_lacks_are_left_out(data, runs, tool, tmp_path, capsys):
    (tmp_path / 'second/a.png').unlink()
    assert _comparison(data, runs).select(['all']) == ['d', 'town/b', 'town/c.v1']
    with pytest.raises(UserError, match=r"run our student: .*second has no prediction for 'a'"):
        _comparison(data, runs).select(['a'])


@pytest.mark.parametrize(
    ('wanted', 'message'),
    [
        ('town/x', "unknown image 'town/x': did you mean 'town/b'"),
        ('zzzzzz', r"unknown image 'zzzzzz': there are 'a', 'd', 'town/b' and 1 more"),
        ('worst:0', 'worst:0: worst:K takes a number of images from 1 up'),
        ('best:many', 'from 1 up'),
    ],
)
def test_a_wrong_choice_of_images_is_explained(data, runs, wanted, message):
    with pytest.raises(UserError, match=message):
        _comparison(data, runs).select([wanted])


def test_a_gain_takes_two_runs(data, runs):
    with pytest.raises(UserError, match='only one run'):
        _comparison(data, runs[:1]).select(['gain:3'])


def test_an_ambiguous_name_asks_for_the_folder(data, runs, tmp_path):
    for folder in ('A', 'B', 'label'):
        _write(data / 'test' / folder / 'wood/b.png', np.zeros((20, 20), np.uint8))
    with pytest.raises(UserError, match=r"'b' may be 'town/b', 'wood/b'"):
        _comparison(data, runs).select(['b'])


def test_folders_without_predictions_are_refused(data, runs, tmp_path):
    with pytest.raises(UserError, match=r'there is no folder .*nowhere'):
        open_runs([str(tmp_path / 'nowhere')])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match=r'run x=.*empty holds no mask .*--show-dir'):
        open_runs([f'x={tmp_path / "empty"}'])
    with pytest.raises(UserError, match="two runs are called 'first'"):
        open_runs([runs[0], runs[0]])
    _write(tmp_path / 'other/77.png', np.zeros((20, 20), np.uint8))
    with pytest.raises(
        UserError, match=r"run other: no image of the test split .*'a', 'd'.*masks '77'"
    ):
        _comparison(data, [*runs, str(tmp_path / 'other')])
    _write(tmp_path / 'first/prediction/a.jpg', np.zeros((20, 20), np.uint8))
    with pytest.raises(UserError, match=r'a\.jpg and .*a\.png have the same name'):
        open_runs(runs)


def test_unequal_sizes_name_both_files_and_sizes(data, runs, tmp_path):
    _write(tmp_path / 'second/d.png', np.zeros((10, 30), np.uint8))
    comparison = _comparison(data, runs)
    message = r'our student: .*second/d\.png is 30 x 10 pixels, but .*label/d\.png is 20 x 20'
    with pytest.raises(UserError, match=message):
        comparison.select(['worst:1'])
    with pytest.raises(UserError, match=message):
        comparison.row('d')


@pytest.mark.parametrize('path', ['second/a.png', 'data/test/A/a.png', 'data/test/label/a.png'])
def test_unreadable_files_are_named(data, runs, tmp_path, path):
    (tmp_path / path).write_bytes(b'no image')
    with pytest.raises(UserError, match=path.replace('.', r'\.')):
        _comparison(data, runs).row('a')


def test_a_missing_split_lists_those_there_are(data, runs):
    with pytest.raises(UserError, match="no split 'val' on disk: there are test"):
        MaskComparison(open_runs(runs), str(data), 'val')


def test_a_validation_split_held_out_of_train_is_shown_by_train(data, runs):
    (data / 'test').rename(data / 'train')
    with pytest.raises(UserError, match=r"there are train; .* is shown by split 'train'"):
        MaskComparison(open_runs(runs), str(data), 'val')
    assert MaskComparison(open_runs(runs), str(data), 'train').num_pairs > 0


@pytest.mark.parametrize('labelled', [True, False])
def test_nodata_of_a_map_counts_nowhere(data, tmp_path, labelled):
    stored = np.zeros((20, 20), np.uint8)
    stored[:10], stored[0, :5] = 255, 1  # GDAL's nodata, and five of 200 pixels
    (tmp_path / 'map').mkdir()
    Image.fromarray(stored).save(tmp_path / 'map/a.tif', tiffinfo={42113: '255'})
    if not labelled:
        shutil.rmtree(data / 'test/label')
    row = MaskComparison(open_runs([str(tmp_path / 'map')]), str(data)).row('a')
    note = 'CAR 2.44%'  # 5 of the 205 that are known
    assert row.notes['map'] == (f'IoU 100.0   mIoU 100.0   {note}' if labelled else note)
    if labelled:  # 40 pixels of 400, all in the first two rows
        assert row.caption == 'a    CAR 10.00%'
        assert (row.tiles['map'][1:10] == 127).all()
