"""Change maps against labels: brought to one grid, scored as scikit-learn does, objects as SciPy
labels them."""

import json

import cv2
import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from mtkd_cd.core.errors import UserError
from mtkd_cd.inference.evaluate import evaluate

rasterio = pytest.importorskip('rasterio')


def blobs(height: int, width: int, seed: int, count: int = 12) -> np.ndarray:
    """(H, W) uint8 of 0 and 1: rectangles."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(count):
        row, col = rng.integers(0, height - 4), rng.integers(0, width - 4)
        mask[row : row + rng.integers(2, 14), col : col + rng.integers(2, 14)] = 1
    return mask


def shaken(mask: np.ndarray, seed: int) -> np.ndarray:
    """A prediction of a label: moved a little, some of it lost, some of it made up."""
    other = blobs(*mask.shape, seed=seed, count=4)
    return np.clip(
        np.roll(mask, (1, 1), (0, 1)) * (other == 0) + blobs(*mask.shape, seed + 1, 3), 0, 1
    )


@pytest.fixture
def write_map(write_raster):
    """``write_map(name, mask, window=None, **of write_raster)``."""

    def write(name, mask, window=None, **options):
        path = write_raster(name, mask[None], **options)
        if window is not None:
            with rasterio.open(path, 'r+') as file:
                file.update_tags(MTKD_CD_WINDOW=str(window))
        return path

    return write


def test_scores_are_those_of_scikit_learn_without_nodata(write_map):
    label = blobs(60, 90, 0)
    change = shaken(label, 1)
    stored = change.copy()
    stored[:10, :20] = 255
    found = evaluate(
        write_map('p.tif', stored, window=30, nodata=255), write_map('l.tif', label * 255)
    )
    kept = stored != 255
    truth, guess = label[kept], change[kept]
    pooled = found.table.pooled()
    assert pooled['Fscore_changed'] == pytest.approx(100 * f1_score(truth, guess))
    assert pooled['IoU_changed'] == pytest.approx(100 * jaccard_score(truth, guess))
    assert pooled['Precision_changed'] == pytest.approx(100 * precision_score(truth, guess))
    assert pooled['Recall_changed'] == pytest.approx(100 * recall_score(truth, guess))
    assert found.ignored_pixels == 200
    # Six tiles of 30 x 30, of which each counts once in the mean.
    assert found.table.files == [f'p/{row}_{col}' for row in (0, 30) for col in (0, 30, 60)]
    tiles = [(slice(r, r + 30), slice(c, c + 30)) for r in (0, 30) for c in (0, 30, 60)]
    each = [
        100 * jaccard_score(label[t][kept[t]], change[t][kept[t]], zero_division=1) for t in tiles
    ]
    assert found.table.means()['IoU_changed'] == pytest.approx(np.mean(each))
    low, high = found.table.intervals()['IoU_changed'][1:]
    assert low <= np.mean(each) <= high


def test_tiles_share_a_map_evenly_and_unknown_ones_are_left_out(write_map):
    label = blobs(100, 70, 0)
    stored = label.copy()
    stored[:50, :35] = 255
    path = write_map('p.tif', stored, nodata=255)
    found = evaluate(path, write_map('l.tif', label), tile=48)
    # round(100 / 48) x round(70 / 48) = 2 x 1: no sliver of 4 or 22 pixels
    assert found.table.files == ['p/0_0', 'p/50_0']
    assert evaluate(path, write_map('l.tif', label)).table.files == ['p']
    found = evaluate(path, write_map('l.tif', label), tile=35)
    assert 'p/0_0' not in found.table.files
    assert int(found.table.counts.sum()) == 100 * 70 - 50 * 35


def test_objects_are_matched_as_scipy_labels_them(write_map):
    label = blobs(120, 150, 3, 25)
    change = shaken(label, 5)
    bounds = [30, 90]
    found = evaluate(write_map('p.tif', change), write_map('l.tif', label), sizes=bounds)

    square = np.ones((3, 3))
    truth, count_truth = ndimage.label(label, square)
    guess, count_guess = ndimage.label(change, square)
    iou = np.zeros((count_guess, count_truth))
    for i in range(count_guess):
        for j in range(count_truth):
            one, two = guess == i + 1, truth == j + 1
            iou[i, j] = (one & two).sum() / (one | two).sum()
    hit = iou > 0.5
    assert 0 < hit.sum() < min(hit.shape)
    size_truth = ndimage.sum(label, truth, range(1, count_truth + 1))
    size_guess = ndimage.sum(change, guess, range(1, count_guess + 1))
    edges = [0, *bounds, np.inf]
    for one, low, high in zip(found.objects, edges, edges[1:]):
        in_truth = (size_truth >= low) & (size_truth < high)
        in_guess = (size_guess >= low) & (size_guess < high)
        assert (one.label, one.predicted) == (in_truth.sum(), in_guess.sum())
        assert one.found == (hit.any(0) & in_truth).sum()
        assert one.right == (hit.any(1) & in_guess).sum()
    everything = found.objects[-1]
    assert everything.recall == pytest.approx(100 * hit.any(0).mean())
    assert everything.precision == pytest.approx(100 * hit.any(1).mean())


def test_sizes_in_square_metres_are_geodesic(write_map):
    label = np.zeros((20, 20), np.uint8)
    label[2:6, 2:6] = 1  # 16 pixels of 100 m2
    path = write_map('p.tif', label, pixel=10.0)
    found = evaluate(path, write_map('l.tif', label), sizes=[1590, 1610], sizes_in_m2=True)
    assert [one.label for one in found.objects] == [0, 1, 0, 1]
    with pytest.raises(UserError, match='no CRS'):
        evaluate(
            write_map('q.tif', label, crs=None), write_map('l.tif', label, crs=None),
            sizes=[1], sizes_in_m2=True,
        )  # fmt: skip


def test_label_on_a_finer_grid_is_brought_by_nearest_neighbour(write_map):
    label = blobs(80, 80, 0)
    change = shaken(label, 1)[10:50, 20:60]
    fine = np.kron(label, np.ones((2, 2), np.uint8))
    x, y = 500_000.0, 4_800_000.0
    path = write_map('p.tif', change, origin=(x + 200, y - 100))
    found = evaluate(path, write_map('l.tif', fine, pixel=5.0, origin=(x, y)))
    truth = label[10:50, 20:60]
    assert found.table.counts[0].tolist() == [
        int(((change == 1) & (truth == 1)).sum()),
        int(((change == 1) & (truth == 0)).sum()),
        int(((change == 0) & (truth == 1)).sum()),
        int(((change == 0) & (truth == 0)).sum()),
    ]


def test_label_in_another_crs_falls_where_its_pixels_lie(write_map):
    label = np.zeros((300, 300), np.uint8)
    label[100:200, 120:180] = 1
    path = write_map('p.tif', label, pixel=10.0)
    with rasterio.open(path) as dataset:
        bounds = rasterio.warp.transform_bounds(dataset.crs, 'EPSG:4326', *dataset.bounds)
        target = rasterio.transform.from_bounds(*bounds, 900, 900)
        warped = np.full((900, 900), 255, np.uint8)
        rasterio.warp.reproject(
            label, warped, src_transform=dataset.transform, src_crs=dataset.crs,
            dst_transform=target, dst_crs='EPSG:4326', dst_nodata=255,
        )  # fmt: skip
    other = write_map('l.tif', warped, transform=target, crs='EPSG:4326', nodata=255)
    assert evaluate(path, other).table.pooled()['IoU_changed'] > 98
    far = write_map('far.tif', label, origin=(0.0, 0.0))
    with pytest.raises(UserError, match='do not overlap'):
        evaluate(path, far)


def test_label_covers_a_part_and_the_rest_is_left_out(write_map):
    label = blobs(40, 60, 0)
    path = write_map('p.tif', label)
    found = evaluate(path, write_map('l.tif', label[:, :30]))
    assert found.ignored_pixels == 40 * 30
    assert found.table.pooled()['Fscore_changed'] == 100


def test_polygons_of_the_map_score_as_perfect_and_none_as_no_change(write_map, tmp_path):
    pytest.importorskip('pyogrio')
    from mtkd_cd.inference.vector import write_polygons

    change = blobs(50, 70, 2)
    path = write_map('p.tif', change, nodata=255)
    write_polygons(path, None, tmp_path / 'l.gpkg')
    found = evaluate(path, tmp_path / 'l.gpkg')
    assert found.table.counts[0].tolist() == [change.sum(), 0, 0, (change == 0).sum()]
    write_polygons(path, None, tmp_path / 'l.geojson')  # in degrees
    assert evaluate(path, tmp_path / 'l.geojson').table.pooled()['IoU_changed'] > 99
    empty = write_map('none.tif', np.zeros_like(change), nodata=255)
    write_polygons(empty, None, tmp_path / 'none.gpkg')
    found = evaluate(path, tmp_path / 'none.gpkg')
    assert found.table.counts[0].tolist() == [0, change.sum(), 0, (change == 0).sum()]


def test_folders_and_results_of_a_batch_are_paired_by_name(write_map, tmp_path):
    maps, labels = tmp_path / 'maps', tmp_path / 'labels'
    maps.mkdir()
    labels.mkdir()
    rows = ['name,status,out,label,error']
    for index in range(3):
        label = blobs(30, 30, index)
        write_map(f'maps/{index}.tif', shaken(label, index + 9), crs=None)
        cv2.imwrite(str(labels / f'{index}.png'), label * 255)
        rows.append(f'{index},done,{index}.tif,{labels / f"{index}.png"},')
    write_map('maps/0_probability.tif', np.zeros((30, 30), np.uint8), crs=None)
    found = evaluate(maps, labels)
    assert found.table.files == ['0', '1', '2']
    assert '0_probability' in found.notes[0]
    rows.append('3,failed,3.tif,x.png,no')
    (maps / 'results.csv').write_text('\n'.join(rows) + '\n')
    same = evaluate(maps / 'results.csv')
    assert np.array_equal(same.table.counts, found.table.counts)
    assert same.objects == found.objects
    assert '1 pairs are left out' in same.notes[0]
    (maps / '1.tif').unlink()
    with pytest.raises(UserError, match=r'1 labels .* have no change map'):
        evaluate(maps, labels)


@pytest.mark.parametrize('profile', [{}, dict(nbits=1), dict(nbits=1, compress='CCITTFAX4')])
def test_masks_that_store_white_as_0_are_turned_round(write_map, profile):
    mask = np.zeros((20, 30), np.uint8)
    mask[3:8, 5:20] = 1
    stored = 1 - mask if profile else 255 - 255 * mask
    plain = write_map('map.tif', mask)
    turned = write_map('turned.tif', stored, photometric='MINISWHITE', **profile)
    for pair in ((plain, turned), (turned, plain)):
        assert evaluate(*pair).table.pooled()['mIoU'] == 100


def test_ignored_value_of_the_label(write_map):
    label = blobs(40, 40, 0)
    stored = label.copy()
    stored[:5] = 2
    path = write_map('p.tif', label)
    found = evaluate(path, write_map('l.tif', stored), ignore_index=2)
    assert int(found.table.counts.sum()) == 35 * 40
    with pytest.raises(UserError, match='holds 0, 1, 2'):
        evaluate(path, write_map('l.tif', stored))


def test_bad_input_is_named(write_map, tmp_path):
    label = blobs(40, 40, 0)
    path = write_map('p.tif', label, crs=None)
    cv2.imwrite(str(tmp_path / 'small.png'), label[:30] * 255)
    with pytest.raises(UserError, match='40 x 30 pixels'):
        evaluate(path, tmp_path / 'small.png')
    with pytest.raises(UserError, match='does not exist'):
        evaluate(path, tmp_path / 'none.tif')
    with pytest.raises(UserError, match='give its label'):
        evaluate(path)
    with pytest.raises(UserError, match='two files or two folders'):
        evaluate(path, tmp_path)
    with pytest.raises(UserError, match='ascending'):
        evaluate(path, path, sizes=[9, 3])


def test_command_prints_the_table_and_writes_it(write_map, tmp_path, tool):
    label = blobs(60, 60, 0)
    path, truth = write_map('p.tif', label, window=20), write_map('l.tif', label)
    out = tmp_path / 'scores.json'
    assert tool('evaluate', path, truth, '--out', out)[0] == 0
    written = json.loads(out.read_text())
    assert len(written['images']) == 9
    assert written['pooled']['Fscore_changed'] == 100
    assert written['objects']['classes'][-1]['recall'] == 100
    code, said = tool('evaluate', path, truth, '--out', out)
    assert (code, '--overwrite' in said) == (2, True)
    assert tool('evaluate', path, truth, '--out', truth.with_suffix('.csv'), '--tile', 30)[0] == 0
    assert len(truth.with_suffix('.csv').read_text().splitlines()) == 5


@pytest.mark.parametrize('which', ['p', 'l'])
def test_truncated_map_or_label_is_named(write_map, which):
    files = {name: write_map(f'{name}.tif', blobs(200, 300, 0)) for name in 'pl'}
    content = files[which].read_bytes()
    files[which].write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf'{which}\.tif cannot be read to its end'):
        evaluate(files['p'], files['l'])
