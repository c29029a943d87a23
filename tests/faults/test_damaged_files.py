"""Damaged records, curves, routings, tables, archives and lists: an error of the user's, or a right
value; never a traceback."""

import copy
import csv
import gzip
import io
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import Layout
from mtkd_cd.engine.hooks.validation_curve import read_curve
from mtkd_cd.engine.record import check_settings, read_data
from mtkd_cd.evaluation import load_table
from mtkd_cd.experiments.budget import read_speed
from mtkd_cd.inference.batch import read_results
from mtkd_cd.inference.pair_lists import read_pairs
from mtkd_cd.models.mtkd.routing import load_routing
from mtkd_cd.recipe.collect import collect_results
from mtkd_cd.reporting.archive import read_archive
from mtkd_cd.reporting.collect import collect_runs
from mtkd_cd.reporting.curves import read_curves
from mtkd_cd.reporting.summaries import recipe_markdown

ROUTING = {
    'thresholds': [0.05, 0.2],
    'names': ['small', 'medium', 'large'],
    'teachers': {'small': 'small', 'medium': 'origin', 'large': 'large'},
    'cascade': {'cuts': [0.1], 'detectors': ['origin', 'large']},
    'evidence': {},
}
IMAGE = {'file': 'a.png', 'TP': 1, 'FP': 2, 'FN': 3, 'TN': 4}
TABLE = {
    'provenance': {'model': 'fc_ef', 'strategy': 'origin', 'seed': 1, 'dataset': 'd'},
    'thresholds': [0.05, 0.2],
    'names': ['small', 'medium', 'large'],
    'zero_division': 1.0,
    'images': [{**IMAGE, 'range': 'large', 'coarse_car': 0.1, 'coarse_range': 'small'}],
}
RUN = {'settings': {'a': 1}, 'finished': True, 'seed': 1, 'seconds': 1.5, 'iter': 4, 'score': 50.0}
METRICS = dict.fromkeys(('mFscore', 'mPrecision', 'mRecall', 'mIoU'), 50.0)
TEST = {'stamp': {}, 'data': {'a': 'b'}, 'metrics': METRICS, 'seconds': 2.0}
ITEM = {
    'type': 'Feature',
    'stac_version': '1.0.0',
    'id': 'a',
    'properties': {'datetime': '2020-01-01T00:00:00Z'},
    'geometry': None,
    'links': [],
    'assets': {'visual': {'href': 'a.tif'}},
}


def use_table(path):
    table = load_table(path)
    table.means()
    table.save(path.with_name('again.csv'))
    assert len(load_table(path.with_name('again.csv'), table.partition, table.zero_division))


def use_results(path):
    """``<recipe>/origin/fc_ef/<record>``"""
    results = collect_results(Layout('fc_ef', path.parents[2]))
    results.write(path.parents[2])
    recipe_markdown(results)


def use_archive(path):
    for run in read_archive(path).runs:
        run.table.means()


def use_runs(path):
    """``<work dir>/report/fc_ef/curves.csv`` beside a table."""
    path.with_name('origin.json').write_text(json.dumps(TABLE))
    read_curves(collect_runs([str(path.parents[2])]).runs)


READERS = {
    'run.json': (lambda path: check_settings(path.parent, {'a': 1}), RUN),
    'data.json': (lambda path: read_data(path.parent), {'train': {'A/1.png': 'ab'}}),
    'routing.json': (lambda path: load_routing(path, CARPartition()), ROUTING),
    'table.json': (use_table, TABLE),
    'origin/fc_ef/run.json': (use_results, RUN),
    'origin/fc_ef/test.json': (use_results, TEST),
    'speed.json': (lambda path: read_speed(path.parent), {'iteration': 0.1, 'validation': 2.0}),
    'pairs.json': (lambda path: read_pairs(path, ['visual']), [[ITEM, {**ITEM, 'id': 'b'}]]),
}
COUNTS = {'TP': '1', 'FP': '2', 'FN': '3', 'TN': '4'}
ARCHIVED = {
    'model': 'fc_ef',
    'strategy': 'origin',
    'seed': '1',
    'dataset': 'd',
    'version': '1',
    'thresholds': '0.05 0.2',
    'names': '',
    'zero_division': '1.0',
    'file': 'a.png',
    **COUNTS,
    'coarse_car': '',
    'coarse_range': '',
}
PAIR = {'a': 'a.tif', 'b': 'b.tif', 'out': 'o.tif', 'mask': '', 'date_a': '', 'label': ''}
CSV_READERS = {
    'curve.csv': (read_curve, {'iter': '2', 'mIoU': '50.1', 'mFscore': '60'}),
    'table.csv': (use_table, {'file': 'a.png', **COUNTS, 'mIoU': ''}),
    'tables.csv.gz': (use_archive, ARCHIVED),
    'report/fc_ef/curves.csv': (
        use_runs,
        {'strategy': 'origin', 'range': '', 'iter': '2', 'mIoU': '50.1'},
    ),
    'results.csv': (read_results, {'name': 'n', 'status': 'done', 'out': 'n.tif', 'a': 'a'}),
    'pairs.csv': (read_pairs, PAIR),
}
HOSTILE = (
    *(None, True, -1, 0, 0.5, 1e300, math.inf, math.nan, 10**25, '', 'x', 'NaN', '9' * 5000),
    *([], {}, [[]], [1], {'a': 1}, '\ud800', '../../x', '=1+1', 'nul\0', 'a' * 200_000),
)
HOSTILE_CELLS = (
    *('', ' ', 'x', '-1', '1e300', 'inf', 'nan', '9' * 5000, '0x10', '1_0', '\u0661', '0.5'),
    *('=1', "'=1", 'a\nb', 'a,b', '"', '\0', '../../x', str(10**25), 'a' * 200_000),
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
often = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def try_to_read(read, path):
    try:
        read(path)
    except UserError as error:
        # No pytest.raises: reading may as well succeed.
        assert any(part in str(error) for part in path.parts[-3:])  # noqa: PT017


def places(node, at=()):
    yield at
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, value in items:
        yield from places(value, (*at, key))


def replaced(node, place, value):
    if not place:
        return value
    node = copy.deepcopy(node)
    inner = node
    for key in place[:-1]:
        inner = inner[key]
    if value is Ellipsis:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return node


@pytest.fixture
def file(tmp_path):
    """``file(name)``: a path whose folder is there."""

    def at(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    return at


@pytest.mark.slow
@pytest.mark.parametrize('name', READERS)
def test_every_place_with_every_hostile_value(name, file):
    read, good = READERS[name]
    path = file(name)
    path.write_text(json.dumps(good))
    read(path)  # what the others are changed from is good
    for place in places(good):
        for value in (*HOSTILE, *([...] if place else [])):
            path.write_text(json.dumps(replaced(good, place, value)))
            try_to_read(read, path)
        # An integer of more digits than Python reads, and more nesting.
        for raw in ('9' * 5000, '[' * 50_000 + ']' * 50_000):
            text = json.dumps(replaced(good, place, '@'))
            path.write_text(text.replace('"@"', raw))
            try_to_read(read, path)


def write_csv(path, header, rows):
    text = io.StringIO(newline='')
    writer = csv.writer(text, lineterminator='\n')
    writer.writerows([header, *rows])
    write_bytes(path, text.getvalue().encode())


def write_bytes(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == '.gz' else content)


@pytest.mark.slow
@pytest.mark.parametrize('name', CSV_READERS)
def test_every_cell_with_every_hostile_value(name, file):
    read, good = CSV_READERS[name]
    path = file(name)
    header, row = list(good), list(good.values())
    write_csv(path, header, [row])
    read(path)
    for column in range(len(row)):
        for value in HOSTILE_CELLS:
            write_csv(path, header, [[*row[:column], value, *row[column + 1 :]]])
            try_to_read(read, path)
        for other in ('zz', header[0], ''):
            write_csv(path, [*header[:column], other, *header[column + 1 :]], [row])
            try_to_read(read, path)
    for rows in ([[*row, 'more']], [row[:-1]], [row, row], []):
        write_csv(path, header, rows)
        try_to_read(read, path)
    first = ','.join(header).encode()
    for raw in (b'', b'\n', b'\0', b'\xff\xfea\0', b'"', b'\xef\xbb\xbf' + first, first + b'\r"'):
        write_bytes(path, raw)
        try_to_read(read, path)
    path.write_bytes(gzip.compress(first * 100)[:-6])
    try_to_read(read, path)


@pytest.mark.parametrize('name', READERS)
@often
@given(content=st.binary(max_size=60))
def test_random_bytes(name, file, content):
    path = file(name)
    path.write_bytes(content)
    try_to_read(READERS[name][0], path)


@pytest.mark.parametrize('name', READERS)
@often
@given(data=st.data())
def test_another_value_in_any_place(name, file, data):
    read, good = READERS[name]
    place = data.draw(st.sampled_from(list(places(good))))
    path = file(name)
    path.write_text(json.dumps(replaced(good, place, data.draw(values))))
    try_to_read(read, path)


@pytest.mark.parametrize('name', READERS)
@pytest.mark.parametrize('content', ['[' * 100_000, '{"a":' * 100_000, '1e999', 'NaN', '"\\ud800"'])
def test_deep_and_odd_json(name, file, content):
    path = file(name)
    path.write_text(content)
    try_to_read(READERS[name][0], path)


@often
@given(
    content=st.binary(max_size=80)
    | st.text('iter,mIoUFscore0123456789.\n\r"-', max_size=80).map(str.encode)
)
def test_curve(tmp_path, content):
    path = tmp_path / 'curve.csv'
    path.write_bytes(content)
    try_to_read(read_curve, path)
    path.write_bytes(b'iter,mIoU,mFscore\n' + content)
    try_to_read(read_curve, path)


@often
@given(
    content=st.binary(max_size=80)
    | st.text('file,TPFNa.png0123456789.\n"-', max_size=80).map(str.encode)
)
def test_table_as_csv(tmp_path, content):
    path = tmp_path / 'table.csv'
    path.write_bytes(content)
    try_to_read(load_table, path)
    path.write_bytes(b'file,TP,FP,FN,TN\n' + content)
    try_to_read(load_table, path)
