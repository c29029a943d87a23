import json
import os

import numpy as np
import pytest
import torch

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.models.mtkd.routing import (
    Routing,
    car_routing,
    check_routing,
    choose_routing,
    load_routing,
)

THREE = CARPartition()


@pytest.fixture
def routing():
    return Routing(
        THREE,
        ('origin', 'large', 'large'),
        (0.03, 0.4),
        ('origin', 'medium', 'origin'),
        {'images': 58},
    )


def test_routing_survives_the_file(routing, tmp_path):
    routing.save(tmp_path / 'deep' / 'routing.json')
    loaded = load_routing(tmp_path / 'deep' / 'routing.json', THREE)
    assert loaded == routing
    assert loaded.evidence == {'images': 58}
    assert [path.name for path in (tmp_path / 'deep').iterdir()] == ['routing.json']


def test_predicted_cars_are_served_by_the_range_that_the_cuts_make(routing):
    cars = [0.0, 0.03, 0.031, 0.4, 0.9]
    assert [routing.detectors[i] for i in routing.serving(torch.tensor(cars))] == [
        'origin',
        'origin',
        'medium',
        'medium',
        'origin',
    ]
    assert routing.serving(np.array(cars)).tolist() == [0, 0, 1, 1, 2]


def test_file_is_written_anew_only_when_it_changes(routing, tmp_path):
    file = tmp_path / 'routing.json'
    routing.save(file)
    os.utime(file, ns=(0, 0))
    routing.save(file)
    assert file.stat().st_mtime_ns == 0
    car_routing(THREE).save(file)
    assert load_routing(file) == car_routing(THREE)


@pytest.mark.parametrize('cars', [torch.tensor([0.0, 1.0]), np.array([0.0, 1.0])])
def test_without_cuts_one_detector_serves_everything(cars):
    assert Routing(THREE, THREE.names, (), ('medium',)).serving(cars).tolist() == [0, 0]


def test_the_papers_routing_is_the_partition():
    two = CARPartition((0.1,))
    routing = car_routing(two)
    assert routing.teachers == routing.detectors == ('small', 'large')
    assert routing.serving(torch.tensor([0.1, 0.11])).tolist() == [0, 1]
    assert choose_routing('car', 'absent.json', two) == routing


@pytest.mark.parametrize(
    ('path', 'command'),
    [
        ('work_dirs/routing/tinycd/routing.json', 'tinycd --strategies op --routing validated'),
        (
            '/tmp/w/routing@0.1_0.3/bit_r18/routing.json',
            'bit_r18 --strategies op --thresholds 0.1 0.3 --routing validated --work-dir /tmp/w',
        ),
        ('elsewhere.json', 'MODEL --strategies op --routing validated'),
    ],
)
def test_missing_file_names_the_command_that_makes_it(path, command):
    with pytest.raises(
        UserError, match=f'{path} does not exist. Make it with: mtkd-cd recipe {command}$'
    ):
        load_routing(path)


def test_file_about_other_ranges_is_refused(routing, tmp_path):
    routing.save(tmp_path / 'routing.json')
    with pytest.raises(
        UserError,
        match=r'other ranges: small: CAR <= 0.05, .* there, '
        r'small: CAR <= 0.1, large: CAR > 0.1 in the config',
    ):
        load_routing(tmp_path / 'routing.json', CARPartition((0.1,)))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            dict(teachers=dict(small='huge', medium='medium', large='large')),
            "teachers names the detector 'huge': there are origin, small",
        ),
        (dict(teachers=dict(small='small')), 'one is needed for each of small, medium, large'),
        (
            dict(cascade=dict(cuts=[0.1], detectors=['small', 'giant'])),
            "detectors names the detector 'giant'",
        ),
        (
            dict(cascade=dict(cuts=[0.1], detectors=['small'])),
            r"detectors=\['small'\]: 2 are needed",
        ),
        (
            dict(cascade=dict(cuts=[0.4, 0.1], detectors=['small', 'large', 'origin'])),
            'increasing order',
        ),
        (dict(cascade=None), 'is damaged'),
        (dict(cascade=dict(cuts=[0.1])), "is damaged .*'detectors'"),
        (dict(teachers=['small', 'medium', 'large']), 'is damaged'),
        (dict(thresholds=[0.2, 0.05]), 'increasing order'),
    ],
)
def test_bad_entry_is_named_with_the_file(routing, change, message, tmp_path):
    file = tmp_path / 'routing.json'
    routing.save(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=f'{file}.*{message}.*mtkd-cd recipe'):
        load_routing(file)


@pytest.mark.parametrize('text', ['{"thresholds": [0.05', '[]', '', 'null'])
def test_damaged_file_is_named(text, tmp_path):
    file = tmp_path / 'routing.json'
    file.write_text(text)
    with pytest.raises(UserError, match=f'{file} is damaged.*mtkd-cd recipe'):
        load_routing(file)


def test_kind_is_checked():
    with pytest.raises(UserError, match="routing='best': choose one of car, validated"):
        check_routing('best', None)
    with pytest.raises(UserError, match='needs routing_file'):
        choose_routing('validated', None, THREE)
