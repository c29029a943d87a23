import re
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score, precision_recall_fscore_support

from mtkd_cd.cli.common import run_tool
from mtkd_cd.core.errors import UserError
from mtkd_cd.evaluation import load_table, per_image_scores

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis' / 'score_folders.py'


@pytest.fixture(scope='module')
def masks():
    """Predictions and labels (200, 24, 20) of 0 and 1: random ones, empty and full ones in every
    combination."""
    rng = np.random.default_rng(4)
    rates = rng.choice([0, 0, 0.02, 0.1, 0.5, 0.9, 1], (2, 200, 1, 1))
    return (rng.random((2, 200, 24, 20)) < rates).astype(np.uint8)


def _write(folder, masks, suffix='.png', white=255):
    for index, mask in enumerate(masks):
        path = folder / f'town{index % 2}' / f'{index:03d}{suffix}'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), mask * np.uint8(white))
    return folder


def _pair(tmp_path, prediction, label):
    """Folders with one mask each."""
    for name, mask in (('prediction', prediction), ('label', label)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / '0.png'), np.asarray(mask, np.uint8))
    return tmp_path / 'prediction', tmp_path / 'label'


def _run(*argv):
    with pytest.raises(SystemExit) as exit_info:
        run_tool(runpy.run_path(str(TOOL))['main'], [str(arg) for arg in argv])
    return exit_info.value.code


def _sklearn_scores(prediction, label):
    """(unchanged, changed) of each score, in percent."""
    settings = dict(labels=[0, 1], average=None, zero_division=1.0)
    precision, recall, fscore, _ = precision_recall_fscore_support(label, prediction, **settings)
    iou = jaccard_score(label, prediction, **settings)
    return {
        name: (100 * values).tolist()
        for name, values in dict(IoU=iou, Precision=precision, Recall=recall, Fscore=fscore).items()
    }


def test_scored_folders_equal_scikit_learn_image_by_image(masks, tmp_path, capsys):
    predictions, labels = (
        _write(tmp_path / 'prediction', masks[0], white=1),
        _write(tmp_path / 'label', masks[1], '.tif'),
    )
    assert _run(predictions, labels, '--out', tmp_path / 'scores.csv') == 0
    rows = {row['file']: row for row in load_table(tmp_path / 'scores.csv').rows()}
    assert len(rows) == 200
    mious = []
    for index, (prediction, label) in enumerate(zip(*masks)):
        row = rows[f'town{index % 2}/{index:03d}.tif']
        for name, by_class in _sklearn_scores(prediction.ravel(), label.ravel()).items():
            assert [row[f'{name}_unchanged'], row[f'{name}_changed']] == pytest.approx(by_class)
            assert row[f'm{name}'] == pytest.approx(np.mean(by_class))
        mious.append(row['mIoU'])
        assert row['car'] == pytest.approx(label.mean())
        assert row['pred_car'] == pytest.approx(prediction.mean())
    assert re.search(rf'per-image mean +\| +{np.mean(mious):.2f} ', capsys.readouterr().out)


def test_arrays_tensors_lists_and_folders_score_alike(masks, tmp_path):
    predictions, labels = masks[:, :9]
    expected = per_image_scores(predictions, labels).counts
    assert expected.sum() == 9 * 24 * 20
    assert (
        per_image_scores(torch.from_numpy(predictions), torch.from_numpy(labels).float()).counts
        == expected
    ).all()
    assert (
        per_image_scores(list(predictions * 255), [label.astype(bool) for label in labels]).counts
        == expected
    ).all()
    folders = _write(tmp_path / 'a', predictions), _write(tmp_path / 'b', labels)
    table = per_image_scores(*map(str, folders), num_workers=1)
    order = [int(Path(file).stem) for file in table.files]
    assert (table.counts == expected[order]).all()


def test_masks_may_come_one_after_the_other(masks):
    given = per_image_scores((mask for mask in masks[0]), iter(masks[1]))
    assert given.counts.tolist() == per_image_scores(*masks).counts.tolist()


def test_masked_pixels_of_either_array_do_not_count(masks):
    hidden = np.random.default_rng(0).random((2, *masks[0].shape)) < 0.2
    table = per_image_scores(*map(np.ma.masked_array, masks, hidden))
    for prediction, label, out, counts in zip(*masks, hidden.any(0), table.counts):
        expected = [
            ((prediction == p) & (label == t) & ~out).sum()
            for p, t in ((1, 1), (1, 0), (0, 1), (0, 0))
        ]
        assert counts.tolist() == expected


def test_masks_of_a_list_may_differ_in_size():
    table = per_image_scores([np.ones((2, 3)), np.zeros((4, 4))], [np.ones((2, 3)), np.eye(4)])
    assert table.counts.tolist() == [[6, 0, 0, 0], [0, 0, 4, 12]]
    assert table.files == ['image00000', 'image00001']


def test_antialiased_files_are_cut_at_128(tmp_path):
    sharp = cv2.circle(np.zeros((64, 64), np.uint8), (32, 32), 20, 255, -1)
    blurred = cv2.GaussianBlur(sharp, (5, 5), 0)
    counts = per_image_scores(*_pair(tmp_path, blurred, sharp)).counts[0]
    hits = (blurred >= 128) & (sharp == 255)
    assert counts[0] == hits.sum()
    assert counts.sum() == 64 * 64


@pytest.mark.parametrize(('white', 'ignored'), [(1, 255), (255, 127)])
def test_ignored_pixels_do_not_count_in_files_and_arrays(tmp_path, white, ignored):
    label = np.zeros((8, 8), np.uint8)
    label[:4], label[3:5] = white, ignored
    prediction = np.full((8, 8), 255, np.uint8)
    folders = _pair(tmp_path, prediction, label)
    for arguments in (folders, ([prediction], [label])):
        assert per_image_scores(*arguments, ignore_index=ignored).counts.tolist() == [
            [24, 24, 0, 0]
        ]


def test_a_set_of_one_image_has_a_degenerate_interval(tmp_path):
    table = per_image_scores([[[1, 0]]], [[[1, 0]]])
    assert table.intervals()['mIoU'] == (100, 100, 100)
    assert 'Scores of 1 images' in table.report()


def test_other_thresholds_make_other_ranges():
    table = per_image_scores(np.ones((1, 2, 2)), np.ones((1, 2, 2)), thresholds=(0.1,))
    assert [car_bin.name for car_bin in table.ranges()] == ['small', 'large']


@pytest.mark.parametrize('lacking', ['prediction', 'label'])
def test_a_mask_without_partner_is_named_with_the_folder_it_is_missing_in(
    tmp_path, masks, capsys, lacking
):
    folders = {name: _write(tmp_path / name, masks[0, :4]) for name in ('prediction', 'label')}
    (folders[lacking] / 'town1' / '003.png').unlink()
    assert _run(*folders.values()) == 2
    other = 'label' if lacking == 'prediction' else 'prediction'
    error = capsys.readouterr().err
    assert f'{folders[other]}/town1/003.png: has no partner in {folders[lacking]}\n' in error
    assert 'masks without a partner: 1; pairs: 3' in error


def test_folders_of_other_names_list_five_of_them_and_say_what_is_compared(tmp_path, masks):
    _write(tmp_path / 'a', masks[0, :4])
    for index in range(4):
        (tmp_path / 'b').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / 'b' / f'{index:03d}_pred.png'), masks[0, index])
    with pytest.raises(
        UserError,
        match=r'partner: 8; pairs: 0(.|\n)*and 3 more\n.*the same path below their folders',
    ):
        per_image_scores(tmp_path / 'b', tmp_path / 'a')


def test_unequal_sizes_name_both_files_and_both_sizes(tmp_path):
    prediction, label = _pair(tmp_path, np.zeros((16, 20)), np.zeros((32, 24)))
    with pytest.raises(
        UserError,
        match=(
            rf'prediction {prediction}/0\.png is 20 x 16 pixels, '
            rf'but label {label}/0\.png is 24 x 32'
        ),
    ):
        per_image_scores(prediction, label)


def test_a_truncated_file_is_named(tmp_path):
    prediction, label = _pair(tmp_path, np.eye(64) * 255, np.eye(64) * 255)
    content = (label / '0.png').read_bytes()
    (label / '0.png').write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf'{label}/0\.png is not a readable image'):
        per_image_scores(prediction, label)


def test_probabilities_are_refused_in_files_and_arrays(tmp_path):
    gray = np.tile(np.arange(0, 256, 4, np.uint8), (64, 1))
    prediction, label = _pair(tmp_path, gray, np.zeros((64, 64)))
    with pytest.raises(UserError, match=rf'{prediction}/0\.png holds the values {{0, 4, 8'):
        per_image_scores(prediction, label)
    with pytest.raises(
        UserError, match=r'image 1: a mask holds 0 and 1, or 0 and 255; found 0, 0\.25, 0\.5'
    ):
        per_image_scores([np.zeros((1, 3)), np.array([[0, 0.25, 0.5]])], np.zeros((2, 1, 3)))


def test_predictions_with_nodata_are_scored_where_nothing_changed(tmp_path):
    predictions, labels = _pair(tmp_path, [[0]], [[0, 0], [0, 0]])
    (predictions / '0.png').unlink()
    stored = Image.fromarray(np.array([[0, 1], [0, 255]], np.uint8))
    stored.save(predictions / '0.tif', tiffinfo={42113: '255'})  # GDAL's nodata value
    assert per_image_scores(predictions, labels).counts.tolist() == [[0, 1, 0, 2]]


def test_change_taken_for_ignored_is_noticed(tmp_path):
    with pytest.raises(
        UserError, match=r'no label in .* has a changed pixel: if 255 means change, leave it out'
    ):
        per_image_scores(*_pair(tmp_path, np.eye(8) * 255, np.eye(8) * 255), ignore_index=255)


@pytest.mark.parametrize(
    ('predictions', 'labels', 'kwargs', 'message'),
    [
        (
            np.zeros((2, 4, 4)),
            np.zeros((3, 4, 4)),
            {},
            '2 predictions cannot be compared with 3 labels',
        ),
        ([], [], {}, 'no masks to score'),
        (
            np.zeros((4, 4)),
            np.zeros((4, 4)),
            {},
            r'image 0: a mask has the shape \(H, W\), found \(4,\)',
        ),
        ([np.zeros((4, 4))], [np.zeros((4, 5))], {}, r'image 0: a prediction of shape \(4, 4\)'),
        ('/nowhere', np.zeros((1, 4, 4)), {}, 'one of predictions and labels is a folder'),
        ('/nowhere', '/nowhere', {}, '/nowhere does not exist'),
        (__file__, '/nowhere', {}, r'test_masks\.py is a file'),
        (np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), {'ignore_index': 1}, 'ignore_index=1: '),
        (
            np.zeros((1, 4, 4)),
            np.eye(4)[None] * 255,
            {'ignore_index': 255},
            'ignore_index=255 no label has a changed pixel: if 255 means change, leave it out',
        ),
        (np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), {'zero_division': 2}, 'zero_division=2: '),
        (np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), {'thresholds': (0.3, 0.1)}, 'thresholds='),
    ],
)
def test_what_cannot_be_scored_is_refused(predictions, labels, kwargs, message):
    with pytest.raises(UserError, match=message):
        per_image_scores(predictions, labels, **kwargs)


def test_an_empty_folder_is_named(tmp_path):
    prediction, label = _pair(tmp_path, np.zeros((4, 4)), np.zeros((4, 4)))
    (prediction / '0.png').unlink()
    with pytest.raises(UserError, match=rf'folder {prediction} has no file .* it is empty'):
        per_image_scores(prediction, label)


def test_a_bad_table_name_is_refused_before_anything_is_read(tmp_path, capsys):
    assert _run('/nowhere', '/nowhere', '--out', tmp_path / 'scores.txt') == 2
    assert "suffix '.txt'" in capsys.readouterr().err
