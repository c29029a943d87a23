"""A prediction that is kept: what another threshold counts, shows and writes is what a prediction
at it does, without the network."""

import json

import cv2
import numpy as np
import pytest
from scipy import ndimage

from mtkd_cd.core.errors import UserError
from mtkd_cd.demo.prediction import SHOWN_SIDE, Choices, predict
from mtkd_cd.demo.uploads import Limits

from .conftest import difference

pyogrio = pytest.importorskip('pyogrio')
rasterio = pytest.importorskip('rasterio')
EIGHT = np.ones((3, 3))


def features_of(path):
    meta, _, geometries, fields = pyogrio.raw.read(path)
    return geometries, dict(zip(meta['fields'], fields)), meta


def test_another_threshold_is_counted_without_the_network(
    inferencer, network, images, write_tif, folder
):
    a, b = (write_tif(f'{name}.tif', image) for name, image in zip('ab', images))
    found = predict(inferencer, a, b, folder)
    calls = network.calls
    assert calls > 0
    probability = difference(*images)
    seen = set()
    for threshold in (0.1, 0.4, 0.55):
        changed = probability > threshold
        counts = found.counts(threshold)
        assert counts.changed == changed.sum()
        assert counts.valid == changed.size
        assert counts.polygons == ndimage.label(changed, EIGHT)[1]
        assert counts.area_m2 == pytest.approx(100 * changed.sum(), rel=1e-3)
        seen.add((counts.changed, counts.polygons))
    assert len(seen) == 3
    assert network.calls == calls


def test_date_b_is_shown_where_it_was_predicted(inferencer, write_tif, folder):
    noise = np.random.default_rng(1).integers(0, 255, (280, 280)).astype(np.float32)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
    texture = np.repeat(texture.astype(np.uint8)[:, :, None], 3, 2)
    a = write_tif('a.tif', texture[10:266, 10:266])
    b = write_tif('b.tif', texture[13:269, 6:262])
    found = predict(inferencer, a, b, folder, choices=Choices(coregister=True))
    shown_a, shown_b = (image[20:-20, 20:-20].astype(int) for image in found.shown)
    assert np.abs(shown_a - shown_b).max() <= 2
    assert np.abs(shown_a[:, 8:] - shown_b[:, :-8]).max() > 50


def test_files_at_a_threshold_are_those_of_predict(
    inferencer, network, images, write_tif, folder, tmp_path
):
    a, b = (write_tif(f'{name}.tif', image) for name, image in zip('ab', images))
    found = predict(inferencer, a, b, folder)
    calls = network.calls
    written = found.write(0.3)
    assert network.calls == calls
    wanted = inferencer.predict_raster(
        a,
        b,
        tmp_path / 'change.tif',
        probability=tmp_path / 'p.tif',
        probability_dtype='float32',
        vector=tmp_path / 'change.gpkg',
        threshold=0.3,
    )
    assert found.counts(0.3).area_m2 == pytest.approx(wanted.area_m2, rel=1e-12)
    for name, other in (('change', 'change.tif'), ('probability', 'p.tif')):
        with rasterio.open(written[name]) as ours, rasterio.open(tmp_path / other) as theirs:
            assert np.array_equal(ours.read(), theirs.read())
            assert (ours.crs, ours.transform, ours.nodata) == (
                theirs.crs,
                theirs.transform,
                pytest.approx(theirs.nodata, nan_ok=True),
            )
            if name == 'change':
                tags, others = ours.tags(), theirs.tags()
    assert tags.pop('MTKD_CD_INPUT_A') == 'image A (a.tif)'
    assert tags.pop('MTKD_CD_INPUT_B') == 'image B (b.tif)'
    assert json.loads(tags['MTKD_CD_THRESHOLD']) == 0.3
    assert tags.items() <= others.items()
    (ours, fields, meta), (theirs, other_fields, other_meta) = (
        features_of(path) for path in (written['polygons'], tmp_path / 'change.gpkg')
    )
    assert list(ours) == list(theirs)
    assert len(ours) == found.counts(0.3).polygons > 1
    assert meta['crs'] == other_meta['crs']
    for name, values in fields.items():
        assert np.array_equal(values, other_fields[name]), name


def test_noise_is_not_written_as_polygons(inferencer, images, write_png, folder, monkeypatch):
    a, b = (write_png(f'{name}.png', image) for name, image in zip('ab', images))
    found = predict(inferencer, a, b, folder)
    count = found.counts(0.4).polygons
    monkeypatch.setattr('mtkd_cd.demo.prediction.MOST_POLYGONS', count - 1)
    assert set(found.write(0.4)) == {'change', 'probability'}
    monkeypatch.setattr('mtkd_cd.demo.prediction.MOST_POLYGONS', count)
    assert set(found.write(0.4)) == {'change', 'probability', 'polygons'}


def test_removed_prediction_writes_nothing(inferencer, images, write_png, folder):
    a, b = (write_png(f'{name}.png', image) for name, image in zip('ab', images))
    found = predict(inferencer, a, b, folder)
    found.remove()
    assert not folder.exists()
    with pytest.raises(UserError, match='press Predict again'):
        found.write(0.4)
    assert not folder.exists()


def test_pictures_are_counted_in_pixels(inferencer, images, write_png, folder):
    a, b = (write_png(f'{name}.png', image) for name, image in zip('ab', images))
    found = predict(inferencer, a, b, folder)
    counts = found.counts(0.4)
    assert counts.area_m2 is None
    assert any('no CRS' in note for note in found.notes)
    written = found.write(0.4)
    assert written['change'].suffix == '.png'
    with rasterio.open(written['change']) as file:
        assert np.array_equal(file.read(1) == 255, difference(*images) > 0.4)
    geometries, fields, meta = features_of(written['polygons'])
    assert len(geometries) == counts.polygons
    assert fields['pixels'].sum() == counts.changed
    assert meta['crs'] is None


def test_nothing_is_known_where_a_date_has_no_data(inferencer, images, write_tif, folder):
    a, b = images
    b = np.maximum(b, 1)
    b[:20] = 0
    paths = write_tif('a.tif', a), write_tif('b.tif', b, nodata=0)
    found = predict(inferencer, *paths, folder)
    counts = found.counts(0.0)
    assert counts.valid == 76 * 120
    assert counts.changed == (difference(a, b)[20:] > 0).sum()
    with rasterio.open(found.write(0.0)['change']) as file:
        assert np.array_equal(file.read(1) == 255, np.arange(96)[:, None].repeat(120, 1) < 20)


def test_overlay_colours_what_has_changed(inferencer, images, write_png, folder):
    a, b = (write_png(f'{name}.png', image) for name, image in zip('ab', images))
    found = predict(inferencer, a, b, folder)
    picture = found.overlay(0.4).astype(int)
    factor = 4  # 120 pixels are shown as 480
    assert picture.shape == (96 * factor, 120 * factor, 3)
    coloured = picture[:, :, 0] - picture[:, :, 2] > 50
    wanted = (difference(*images) > 0.4).repeat(factor, 0).repeat(factor, 1)
    assert np.array_equal(coloured, wanted)
    grey = picture[~coloured]
    assert (grey == grey[:, :1]).all()


def test_large_images_are_shown_smaller_with_every_change(inferencer, write_png, folder):
    a = np.full((40, 2100, 3), 90, np.uint8)
    b = a.copy()
    b[17, 1203] = 200  # one pixel
    paths = write_png('a.png', a), write_png('b.png', b)
    found = predict(inferencer, *paths, folder)
    picture = found.overlay(0.4).astype(int)
    assert max(picture.shape) <= SHOWN_SIDE
    rows, cols = np.nonzero(picture[:, :, 0] - picture[:, :, 2] > 50)
    assert (int(rows.mean() * 3), int(cols.mean() * 3)) == pytest.approx((17, 1203), abs=3)
    assert found.counts(0.4).changed == 1


def test_dates_are_shown_on_one_grid_and_stretched(inferencer, images, write_tif, folder):
    """B is 16 bits deep and shifted by ten pixels, with the place in its georeference."""
    a = images[0].astype(np.uint16) * 20
    moved = np.zeros_like(a)
    moved[:, :-10] = a[:, 10:]
    paths = write_tif('a.tif', a), write_tif('b.tif', moved, origin=(500_100.0, 4_800_000.0))
    choices = Choices(stretch='linear(low=0, high=5100)')
    found = predict(inferencer, *paths, folder, choices=choices)
    shown_a, shown_b = (shown[::4, ::4] for shown in found.shown)
    assert np.array_equal(shown_a, images[0])
    assert np.abs(shown_b[:, 12:108].astype(int) - images[0][:, 12:108]).max() <= 1
    assert not (folder / '.warped.tif').exists()


def test_choices_are_those_of_predict(inferencer, images, write_tif, folder):
    a, b = images
    four = [np.concatenate([image[:, :, ::-1], image[:, :, :1]], 2) for image in (a, b)]
    plain = dict(photometric='MINISBLACK', alpha='NO')
    paths = [write_tif(f'{name}.tif', image, **plain) for name, image in zip('ab', four)]
    with pytest.raises(UserError, match=r'image A \(a.tif\) has 4 bands'):
        predict(inferencer, *paths, folder)
    found = predict(inferencer, *paths, folder, choices=Choices(bands='3, 2, 1'))
    assert found.counts(0.4).changed == (difference(a, b) > 0.4).sum()
    assert np.array_equal(found.shown[0][::4, ::4], a)
    with pytest.raises(UserError, match='whole numbers'):
        predict(inferencer, *paths, folder, choices=Choices(bands='red'))


VRT = (
    '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1">'
    '<SimpleSource><SourceFilename>/etc/passwd</SourceFilename></SimpleSource>'
    '</VRTRasterBand></VRTDataset>'
)


def test_no_image_is_a_sentence(
    inferencer, network, images, write_png, write_tif, folder, tmp_path
):
    a, b = images
    good = write_png('good.png', a)
    files = {
        'notes.png': b'no image at all',
        'other.tif': VRT.encode(),
        'empty.tif': b'',
        'cut.png': good.read_bytes()[:2000],
        'head.png': good.read_bytes()[:20],
        'head.tif': write_tif('whole.tif', b).read_bytes()[:100],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    expected = {
        None: 'image B is missing: give a PNG, a JPEG or a GeoTIFF',
        'notes.png': r'image B \(notes.png\) is no image that this page reads',
        'other.tif': r'image B \(other.tif\) is no image that this page reads',
        'empty.tif': r'image B \(empty.tif\) is no image that this page reads',
        'cut.png': r'image B \(cut.png\) is not a readable image',
        'head.png': r'image B \(head.png\) is damaged',
        'head.tif': r'image B \(head.tif\) is damaged',
    }
    for name, message in expected.items():
        with pytest.raises(UserError, match=message) as caught:
            predict(inferencer, good, name and tmp_path / name, folder)
        assert str(folder) not in str(caught.value)
    assert network.calls == 0


def test_too_large_is_a_sentence(inferencer, network, images, write_png, folder):
    paths = [write_png(f'{name}.png', image) for name, image in zip('ab', images)]
    size = paths[0].stat().st_size
    with pytest.raises(
        UserError, match=r'image A \(a.png\) has .* MB, and this page takes at most'
    ):
        predict(inferencer, *paths, folder, Limits(file_bytes=size - 1))
    with pytest.raises(UserError, match=r'120 x 96 pixels, 0\.01152 million, and this page'):
        predict(inferencer, *paths, folder, Limits(pixels=120 * 96 - 1))
    assert network.calls == 0
    assert predict(inferencer, *paths, folder, Limits(pixels=120 * 96)).counts(0.4).changed


def test_pairs_that_do_not_fit_are_a_sentence(
    inferencer, network, images, write_png, write_tif, folder
):
    a, b = images
    png, smaller = write_png('a.png', a), write_png('b.png', b[:-8])
    with pytest.raises(
        UserError, match=r'image B \(b.png\) is 120 x 88 .*image A \(a.png\) is 120'
    ):
        predict(inferencer, png, smaller, folder)
    placed = write_tif('b.tif', b)
    with pytest.raises(UserError, match=r'image A \(a.png\) has no CRS, but image B \(b.tif\) has'):
        predict(inferencer, png, placed, folder)
    found = predict(inferencer, png, placed, folder, choices=Choices(assume_aligned=True))
    assert found.counts(0.4).changed == (difference(a, b) > 0.4).sum()
    far = write_tif('c.tif', b, origin=(600_000.0, 4_800_000.0))
    with pytest.raises(UserError, match='image B'):
        predict(inferencer, placed, far, folder)
