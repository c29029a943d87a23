"""Damaged records, curves, routings and tables: an error of the user's, or a right value; never a
traceback."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.hooks.validation_curve import read_curve
from mtkd_cd.engine.record import read_data, read_record
from mtkd_cd.evaluation import load_table
from mtkd_cd.models.mtkd.routing import load_routing

ROUTING = {
    'thresholds': [0.05, 0.2],
    'names': ['small', 'medium', 'large'],
    'teachers': {'small': 'small', 'medium': 'origin', 'large': 'large'},
    'cascade': {'cuts': [0.1], 'detectors': ['origin', 'large']},
    'evidence': {},
}
TABLE = {
    'thresholds': [0.05, 0.2],
    'names': ['small', 'medium', 'large'],
    'zero_division': 1.0,
    'images': [{'file': 'a.png', 'tp': 1, 'fp': 2, 'fn': 3, 'tn': 4}],
}
READERS = {
    'run.json': (lambda path: read_record(path.parent), {'settings': {}, 'finished': True}),
    'data.json': (lambda path: read_data(path.parent), {'train': {'A/1.png': 'ab'}}),
    'routing.json': (lambda path: load_routing(path, CARPartition()), ROUTING),
    'table.json': (load_table, TABLE),
}
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
        assert path.name in str(error) or path.parent.name in str(error)  # noqa: PT017


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


@pytest.mark.parametrize('name', READERS)
@often
@given(content=st.binary(max_size=60))
def test_random_bytes(name, tmp_path, content):
    (tmp_path / name).write_bytes(content)
    try_to_read(READERS[name][0], tmp_path / name)


@pytest.mark.parametrize('name', READERS)
@often
@given(data=st.data())
def test_another_value_in_any_place(name, tmp_path, data):
    read, good = READERS[name]
    changed = json.loads(json.dumps(good))
    place = data.draw(st.sampled_from(list(places(good))))
    value = data.draw(values)
    if place:
        node = changed
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value
    else:
        changed = value
    (tmp_path / name).write_text(json.dumps(changed))
    try_to_read(read, tmp_path / name)


@pytest.mark.parametrize('name', READERS)
@pytest.mark.parametrize('content', ['[' * 100_000, '{"a":' * 100_000, '1e999', 'NaN', '"\\ud800"'])
def test_deep_and_odd_json(name, tmp_path, content):
    (tmp_path / name).write_text(content)
    try_to_read(READERS[name][0], tmp_path / name)


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
    content=st.binary(max_size=80) | st.text('file,tpn0123456789.\n"-', max_size=80).map(str.encode)
)
def test_table_as_csv(tmp_path, content):
    path = tmp_path / 'table.csv'
    path.write_bytes(content)
    try_to_read(load_table, path)
    path.write_bytes(b'file,tp,fp,fn,tn\n' + content)
    try_to_read(load_table, path)
