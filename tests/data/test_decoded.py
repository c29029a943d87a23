import errno
import multiprocessing
import os
import pickle
import time

import cv2
import numpy as np
import pytest
from filelock import lock_descriptor

from mtkd_cd.core.errors import UserError
from mtkd_cd.data import decoded
from mtkd_cd.data.decoded import DecodedImages, open_cache
from mtkd_cd.data.radiometry import Linear, Percentile
from mtkd_cd.data.transforms import MultiImgLoadAnnotations, MultiImgLoadImageFromFile, loading

_MIB = 1 << 20


@pytest.fixture
def store(tmp_path):
    def build(size=_MIB, checked=True, name='ring'):
        return DecodedImages(os.open(tmp_path / name, os.O_RDWR | os.O_CREAT), size, checked)

    return build


@pytest.fixture(params=['ram', 'disk'])
def kind(request, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return request.param


def _image(seed, side=40):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def test_gives_back_what_was_put_in(store):
    arrays = [_image(0), np.eye(4, dtype=bool), np.float32([[0.5, np.nan]])]
    cache = store()
    cache.put('one', dict(orientation=6), arrays)
    meta, found = cache.get('one')
    assert meta == dict(orientation=6)
    for array, same in zip(arrays, found):
        np.testing.assert_array_equal(array, same)
        assert array.dtype == same.dtype
    found[0][:] = 0  # one's own
    np.testing.assert_array_equal(cache.get('one')[1][0], arrays[0])
    assert cache.get('two') is None


def test_never_grows_beyond_its_bound_and_keeps_the_newest(store, tmp_path):
    cache = store()
    for number in range(200):  # of 19 KB: 3.7 times the ring
        cache.put(str(number), {}, [_image(number, 80)])
    kept = [number for number in range(200) if cache.get(str(number))]
    assert kept == list(range(kept[0], 200))
    assert 50 < len(kept) <= _MIB // 19200
    for number in kept:
        np.testing.assert_array_equal(cache.get(str(number))[1][0], _image(number, 80))
    assert os.stat(tmp_path / 'ring').st_size < 1.05 * _MIB
    cache.put('too large', {}, [np.zeros(2 * _MIB, np.uint8)])
    assert cache.get('too large') is None


def test_damage_on_disk_is_not_taken_for_an_image(store, tmp_path):
    store().put('one', {}, [_image(0)])
    content = bytearray((tmp_path / 'ring').read_bytes())
    place = content.index(_image(0).tobytes())
    content[place + 100] ^= 4
    (tmp_path / 'ring').write_bytes(content)
    assert store().get('one') is None
    (tmp_path / 'ring').write_bytes(b'something else')
    assert store().get('one') is None
    store().put('one', {}, [_image(0)])
    assert store().get('one') is not None


def _fill(cache, first, queue):
    for number in range(first, first + 40):
        cache.put(str(number), {}, [_image(number)])
        queue.put(all((cache.get(str(n)) is not None) for n in range(first, number + 1)))


@pytest.mark.parametrize('start', ['fork', pytest.param('spawn', marks=pytest.mark.slow)])
def test_processes_share_it(kind, start):
    cache = open_cache(kind, 4 / 1024)
    cache.put('before', {}, [_image(1)])
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    workers = [context.Process(target=_fill, args=(cache, 100 * i, queue)) for i in (1, 2)]
    for worker in workers:
        worker.start()
    assert all(queue.get(timeout=300) for _ in range(80))
    for worker in workers:
        worker.join(300)
        assert worker.exitcode == 0
    for number in (*range(100, 140), *range(200, 240)):
        np.testing.assert_array_equal(cache.get(str(number))[1][0], _image(number))


def _write_over_and_over(cache, first, stop):
    number = first
    while not stop.is_set():
        cache.put(str(number % 20), {}, [np.full(300_000 + number % 20, number % 20, np.uint8)])
        number += 1


def test_reads_whole_images_while_two_processes_overwrite_them(store):
    cache = store(checked=False)  # no check sums: of three images the oldest is overwritten
    context = multiprocessing.get_context('fork')
    stop = context.Event()
    writers = [
        context.Process(target=_write_over_and_over, args=(cache, i * 7, stop)) for i in (0, 1)
    ]
    for writer in writers:
        writer.start()
    hits, deadline = 0, time.monotonic() + 3
    try:
        while time.monotonic() < deadline:
            for number in range(20):
                if (record := cache.get(str(number))) is not None:
                    hits += 1
                    (image,) = record[1]
                    assert image.size == 300_000 + number
                    assert (image == number).all()
    finally:
        stop.set()
        for writer in writers:
            writer.join(60)
    assert hits > 20
    assert [writer.exitcode for writer in writers] == [0, 0]


def test_an_image_that_is_overwritten_while_it_is_copied_is_not_found(store, monkeypatch):
    cache, other = store(checked=False), store(checked=False)
    cache.put('one', {}, [_image(0)])
    copy = os.preadv

    def late(*args):
        for number in range(250):  # 1.1 times the ring
            other.put(str(number), {}, [_image(number)])
        return copy(*args)

    monkeypatch.setattr(os, 'preadv', late)
    assert cache.get('one') is None


def test_a_writer_that_hangs_stops_nobody(store, tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, '_PATIENCE', 0.01)
    cache = store()
    cache.put('one', {}, [_image(0)])
    with open(tmp_path / 'ring', 'rb') as hanging:
        assert lock_descriptor(hanging.fileno(), blocking=False)
        assert cache.get('one') is not None
        assert store().get('one') is not None  # opened meanwhile
        cache.put('two', {}, [_image(1)])
        assert cache.get('two') is None
    cache.put('two', {}, [_image(1)])
    assert cache.get('two') is not None


def test_a_pickled_one_is_the_same():
    cache = open_cache('ram', 3 / 1024)
    assert pickle.loads(pickle.dumps(cache)) is cache


def test_a_pickled_one_that_outlives_its_process_touches_no_other_file(tmp_path):
    theirs = tmp_path / 'theirs'
    theirs.write_bytes(b'precious')
    with open(theirs, 'r+b') as file:  # has the place that a store had in a process of that number
        path = f'/proc/{os.getpid()}/fd/{file.fileno()}'
        cache = decoded._opened_again(path, _MIB, False)
    assert theirs.read_bytes() == b'precious'
    assert cache.size == _MIB
    assert decoded._opened_again('/proc/0/fd/3', _MIB, False) is cache


@pytest.mark.parametrize('part', [b'orientation', b'size'])
def test_a_damaged_text_is_noticed(part, store, tmp_path):
    cache = store()
    cache.put('one', dict(orientation=6, size=40), [_image(0)])
    content = (tmp_path / 'ring').read_bytes()
    place = content.index(part)
    for damage in (b'\xff\xff', b'00'):
        with open(tmp_path / 'ring', 'r+b') as file:
            file.seek(place + len(part) + 2)
            file.write(damage)
        assert cache.get('one') is None


def test_on_a_full_disk_the_newest_take_the_place_of_the_oldest(store, monkeypatch):
    cache = store()
    full_from = cache._start + 100_000
    write = os.pwrite

    def on_a_full_disk(fd, data, at):
        if at + len(data) > full_from:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return write(fd, data, at)

    monkeypatch.setattr(os, 'pwrite', on_a_full_disk)
    for number in range(40):
        cache.put(str(number), {}, [_image(number)])
    kept = [number for number in range(40) if cache.get(str(number))]
    assert len(kept) >= 15
    assert kept[-1] >= 38
    for number in kept:
        np.testing.assert_array_equal(cache.get(str(number))[1][0], _image(number))


@pytest.fixture
def pair(tmp_path):
    for name, seed in (('a', 0), ('b', 1)):
        cv2.imwrite(str(tmp_path / f'{name}.png'), _image(seed))
    cv2.imwrite(str(tmp_path / 'label.png'), np.uint8(_image(2)[..., 0] > 200) * 255)
    return dict(
        img_path=[str(tmp_path / f'{name}.png') for name in 'ab'],
        seg_map_path=str(tmp_path / 'label.png'),
        format_seg_map='to_binary',
    )


def _load(info, **cache):
    results = MultiImgLoadImageFromFile(**cache)(dict(info))
    return MultiImgLoadAnnotations(**cache)(results)


def test_images_from_the_cache_are_those_of_the_files(kind, pair, monkeypatch):
    from_files = _load(pair)
    _load(pair, cache=kind)
    reads = []
    for name in ('read_image', 'read_label'):
        monkeypatch.setattr(loading, name, lambda *args, **kwargs: reads.append(args))
    kept = _load(pair, cache=kind)
    assert not reads
    assert set(kept) == set(from_files)
    for key in ('ori_shape', 'car'):
        assert kept[key] == from_files[key]
    for image, same in zip(
        [*from_files['img'], from_files['gt_seg_map']], [*kept['img'], kept['gt_seg_map']]
    ):
        np.testing.assert_array_equal(image, same)
        same[:] = 7  # as a transform may
    again = _load(pair, cache=kind)
    np.testing.assert_array_equal(again['img'][0], from_files['img'][0])


def test_another_content_or_another_reading_is_another_image(kind, pair):
    _load(pair, cache=kind)
    cv2.imwrite(pair['img_path'][0], _image(5))
    os.utime(pair['img_path'][0], ns=(1, 1))
    assert (_load(pair, cache=kind)['img'][0] == _image(5)).all()
    other = MultiImgLoadImageFromFile(cache=kind, bands=(3, 2, 1))(dict(pair))
    assert (other['img'][0] == _image(5)[..., ::-1]).all()
    os.unlink(pair['img_path'][1])
    with pytest.raises(UserError, match='does not exist'):
        _load(pair, cache=kind)


@pytest.mark.parametrize(
    ('first', 'second'),
    [
        (Linear(high=1000.001), Linear(high=1000.004)),
        (Percentile(bounds=((0, 100),) * 3), Percentile(bounds=((0, 200),) * 3)),
    ],
)
def test_another_rule_is_another_image(kind, pair, first, second):
    load = MultiImgLoadImageFromFile(cache=kind)
    before = load(dict(pair, radiometry=first))['img'][0]
    after = load(dict(pair, radiometry=second))['img'][0]
    np.testing.assert_array_equal(
        after, MultiImgLoadImageFromFile()(dict(pair, radiometry=second))['img'][0]
    )
    assert (after != before).any()


def test_pixels_without_data_are_kept_too(kind, tmp_path, pair):
    rasterio = pytest.importorskip('rasterio')
    path = str(tmp_path / 'a.tif')
    image = np.moveaxis(_image(0), -1, 0).copy()
    image[:, :4] = 0
    shape = dict(height=40, width=40, count=3, dtype='uint8', nodata=0)
    with rasterio.open(path, 'w', driver='GTiff', photometric='RGB', **shape) as file:
        file.write(image)
    pair = dict(pair, img_path=[path, pair['img_path'][1]])
    first, second = _load(pair, cache=kind), _load(pair, cache=kind)
    assert not second['valid'][:4].any()
    np.testing.assert_array_equal(first['valid'], second['valid'])
    np.testing.assert_array_equal(first['gt_seg_map'], second['gt_seg_map'])


@pytest.mark.parametrize(
    'options',
    [dict(cache='tape'), dict(cache='ram', cache_gib=0), dict(cache='ram', cache_gib=float('inf'))],
)
def test_another_kind_or_size_is_refused(options):
    with pytest.raises(UserError, match='cache'):
        MultiImgLoadImageFromFile(**options)


@pytest.mark.parametrize('kind', ['ram', 'disk'])
def test_a_system_without_proc_is_told_to_leave_it_out(kind, monkeypatch):
    monkeypatch.setattr(os.path, 'isdir', lambda path: path != '/proc/self/fd')
    with pytest.raises(UserError, match='needs Linux and its /proc, leave it out'):
        open_cache(kind, 5 / 1024)
