"""Random and damaged bytes for every reader: an error that a user can act on, or a right value."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.car_index import label_cars
from mtkd_cd.data.images import read_image
from mtkd_cd.data.labels import label_coding, read_label
from mtkd_cd.data.layout import PairFolders
from mtkd_cd.data.pairs import list_pairs

hypothesis = pytest.importorskip('hypothesis')
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

FUZZ = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
pytestmark = pytest.mark.filterwarnings('ignore')


def encoded(suffix: str) -> bytes:
    array = np.random.default_rng(0).integers(0, 2, (9, 7), dtype=np.uint8) * 255
    buffer = io.BytesIO()
    Image.fromarray(array).convert('RGB').save(buffer, suffix)
    return buffer.getvalue()


WHOLE = {suffix: encoded(suffix) for suffix in ('PNG', 'JPEG', 'TIFF', 'BMP')}
STARTS = (b'', b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff\xe0', b'II*\0\x08\0\0\0', b'MM\0*', b'II+\0')


@st.composite
def files(draw) -> bytes:
    """Random bytes behind a known beginning, or a whole file with a few bytes changed or cut."""
    if draw(st.booleans()):
        return draw(st.sampled_from(STARTS)) + draw(st.binary(max_size=300))
    content = bytearray(WHOLE[draw(st.sampled_from(sorted(WHOLE)))])
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


@FUZZ
@given(content=files())
def test_any_bytes_are_an_image_or_an_error(tmp_path, content):
    path = tmp_path / 'a.png'
    path.write_bytes(content)
    try:
        picture = read_image(path)
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.shape[2] == 3


@FUZZ
@given(content=files(), coding=st.sampled_from([None, 'to_binary', 'with_ignored']))
def test_any_bytes_are_a_label_or_an_error(tmp_path, content, coding):
    path = tmp_path / 'a.png'
    path.write_bytes(content)
    for read in (lambda: read_label(path, format_seg_map=coding), lambda: label_coding(path)):
        try:
            result = read()
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert isinstance(result, str) or set(np.unique(result)) <= {0, 1, 255}


@FUZZ
@given(
    content=st.binary(max_size=60)
    | st.text(max_size=30).map(lambda text: text.encode('gbk', 'ignore'))
)
def test_any_bytes_are_a_list_or_an_error(tmp_path, content):
    for folder in 'AB':
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / '1.png').touch()
    (tmp_path / 'list.txt').write_bytes(content)
    folders = PairFolders(str(tmp_path / 'A'), str(tmp_path / 'B'))
    try:
        pairs, problems = list_pairs(folders, str(tmp_path / 'list.txt'), '.png')
    except UserError as error:
        assert 'list.txt' in str(error)  # noqa: PT017
    else:
        assert pairs or problems
        assert all(str(problem).encode() for problem in problems)


def json_values():
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    keys = st.sampled_from(['version', 'cars', '{}', '000.png']) | st.text(max_size=4)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=8,
    )


@pytest.fixture
def labels(tmp_path, write_pairs):
    files = write_pairs(tmp_path, [0, 20, 21, 400])
    return [str(tmp_path / 'label' / name) for name in files]


CARS = [0, 20 / 400, 21 / 400, 1]


@FUZZ
@given(content=st.binary(max_size=80) | json_values().map(lambda value: json.dumps(value).encode()))
def test_any_bytes_as_index_give_the_right_cars(tmp_path, labels, content):
    (tmp_path / '.label.car_index.json').write_bytes(content)
    assert label_cars(labels, format_seg_map='to_binary').tolist() == CARS


@FUZZ
@given(value=json_values())
def test_any_entry_of_the_index_is_right_or_not_used(tmp_path, labels, value):
    key = json.dumps({'format_seg_map': 'to_binary'})
    for entries in (value, {'001.png': value}, {'001.png': [*stamp(labels[1]), value]}):
        index = {'version': 1, 'cars': {key: entries}}
        (tmp_path / '.label.car_index.json').write_text(json.dumps(index))
        cars = label_cars(labels, format_seg_map='to_binary').tolist()
        # A number in [0, 1] with the file's own size and time cannot be told from the right one.
        possible = type(value) in (int, float) and 0 <= value <= 1 and isinstance(entries, dict)
        assert cars == CARS or (possible and cars[1] == value)


def stamp(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


@pytest.mark.parametrize('car', ['NaN', '7', '-0.1', 'Infinity', '"0.5"', 'true', 'null', '[0.5]'])
def test_a_car_that_is_none_is_read_anew(tmp_path, labels, car):
    key = json.dumps(json.dumps({'format_seg_map': 'to_binary'}))
    size, time = stamp(labels[1])
    (tmp_path / '.label.car_index.json').write_text(
        f'{{"version": 1, "cars": {{{key}: {{"001.png": [{size}, {time}, {car}]}}}}}}'
    )
    assert label_cars(labels, format_seg_map='to_binary').tolist() == CARS


def test_deep_nesting_is_no_index(tmp_path, labels):
    Path(tmp_path / '.label.car_index.json').write_text('[' * 100_000 + ']' * 100_000)
    assert label_cars(labels, format_seg_map='to_binary').tolist() == CARS
