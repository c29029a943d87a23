"""The recipe with a validated routing: who serves where follows from tests on the validation
split."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.files import CONFIGS
from mtkd_cd.data.synthetic import make_dataset
from mtkd_cd.engine.config import load_config, starting_weights
from mtkd_cd.evaluation import load_table
from mtkd_cd.models.mtkd.routing import Routing, load_routing

NAMES = ('origin', 'small', 'medium', 'large')


@pytest.fixture(scope='module')
def validated_scenes(tmp_path_factory) -> Path:
    """Enough validation images for a choice in each range."""
    root = tmp_path_factory.mktemp('validated') / 'data'
    make_dataset(root, num_train=12, num_val=24, num_test=5, size=64, seed=0)
    return root


_DONE: list[Path] = []


@pytest.fixture
def done(tool, recipe_argv, validated_scenes, tmp_path):
    """The folder of a recipe with the paper's and with the validated routing; worked through once,
    only read by the tests."""
    if not _DONE:
        assert tool(
            'run_mtkd', *recipe_argv('--stages', 'origin', 'partition', 'op', data=validated_scenes)
        ) == (0, '')
        assert tool(
            'run_mtkd',
            *recipe_argv('--stages', 'op', 'mtkd', '--routing', 'validated', data=validated_scenes),
        ) == (0, '')
        _DONE.append(tmp_path / 'recipe')
    return _DONE[0]


def test_every_detector_is_tested_on_the_whole_validation_split(done, validated_scenes):
    files = {path.name for path in (validated_scenes / 'val' / 'label').iterdir()}
    tables = {name: load_table(done / f'routing/fc_ef/{name}.json') for name in NAMES}
    assert all({Path(file).name for file in table.files} == files for table in tables.values())
    assert len({table.counts.tobytes() for table in tables.values()}) == 4
    weights = json.loads((done / 'routing/fc_ef/medium/test.json').read_text())['stamp']['weights']
    assert [path for path, *_ in weights] == [str(done / 'partition/fc_ef/medium/best.pth')]


def test_routing_follows_from_the_tables(done):
    routing = load_routing(done / 'routing/fc_ef/routing.json')
    tables = {name: load_table(done / f'routing/fc_ef/{name}.json').rows() for name in NAMES}
    for index, name in enumerate(NAMES[1:]):
        means = {
            by: np.mean([row['mIoU'] for row in rows if row['range'] == name])
            for by, rows in tables.items()
        }
        assert means[routing.teachers[index]] == pytest.approx(max(means.values()))
    assert routing.evidence['mIoU']['origin'] == pytest.approx(
        np.mean([row['mIoU'] for row in tables['origin']]), abs=1e-4
    )


def test_cascade_and_student_start_from_those_that_serve(done):
    routing = load_routing(done / 'routing/fc_ef/routing.json')
    cascade = json.loads((done / 'op@validated/fc_ef/test.json').read_text())['stamp']['weights']
    used = [f'partition/fc_ef/{name}/best.pth' for name in NAMES[1:] if name in routing.detectors]
    assert [path for path, *_ in cascade] == [
        str(done / place)
        for place in ('origin/fc_ef/best.pth', *used, 'routing/fc_ef/routing.json')
    ]
    settings = json.loads((done / 'mtkd@validated/fc_ef/run.json').read_text())['settings']
    used = {f'weights.{name}' for name in NAMES[1:] if name in routing.teachers}
    assert {key for key in settings if key.startswith('weights.')} == {
        'weights.student',
        'weights.routing',
        *used,
    }
    assert settings['model.routing'] == 'validated'
    report = json.loads((done / 'report/fc_ef/report.json').read_text())
    assert list(report['metrics']) == ['origin', 'op', 'op@validated', 'mtkd@validated']


def test_finished_routing_is_not_repeated(done, tool, recipe_argv, validated_scenes):
    def times():
        made = [path for path in (done / 'routing').rglob('*') if path.is_file()] + [
            *done.rglob('*.pth'),
            *done.glob('report/*/*.json'),
        ]
        return {path: path.stat().st_mtime_ns for path in made if path.name != 'report.json'}

    before = times()
    argv = recipe_argv(
        '--routing',
        'validated',
        '--stages',
        'op',
        'mtkd',
        '--work-dir',
        done,
        data=validated_scenes,
    )
    assert tool('run_mtkd', *argv) == (0, '')
    assert times() == before


def test_student_of_another_routing_is_not_taken_for_this_ones(
    done, tool, recipe_argv, validated_scenes, tmp_path
):
    """The routing changes when the validation scores do, here because the origin's weights are
    another's."""
    changed = Path(shutil.copytree(done, tmp_path / 'changed'))
    there = load_routing(changed / 'routing/fc_ef/routing.json')
    shutil.copy(changed / 'partition/fc_ef/small/best.pth', changed / 'origin/fc_ef/best.pth')
    argv = recipe_argv(
        '--routing', 'validated', '--stages', 'mtkd', '--work-dir', changed, data=validated_scenes
    )
    code, err = tool('run_mtkd', *argv)
    assert code == 2
    assert 'mtkd@validated/fc_ef holds another run: weights.student' in err
    assert load_routing(changed / 'routing/fc_ef/routing.json').evidence != there.evidence


def test_routing_file_is_needed_before_training_starts(train_argv, tool, tmp_path):
    missing = tmp_path / 'routing' / 'fc_ef' / 'routing.json'
    code, err = tool(
        'train',
        *train_argv('mtkd', options=('model.routing=validated', f'model.routing_file={missing}')),
    )
    assert code == 2
    assert (
        f'{missing} does not exist. Make it with: mtkd-cd recipe fc_ef --strategies op '
        f'--routing validated --work-dir {tmp_path}' in err
    )
    assert not (tmp_path / 'work' / 'run.json').exists()


def test_files_of_a_config_are_those_that_its_routing_uses(tmp_path):
    cfg = load_config(Path(__file__).parents[2] / 'configs/op/fc_ef.py')
    assert set(starting_weights(cfg)) == set(NAMES)
    file = tmp_path / 'routing.json'
    cfg.model.update(routing='validated', routing_file=str(file))
    Routing(CARPartition(), ('small',) * 3, (0.1,), ('origin', 'medium')).save(file)
    assert set(starting_weights(cfg)) == {'origin', 'medium', 'routing'}


def test_another_models_finished_detectors_teach(
    done, tool, recipe_argv, validated_scenes, tmp_path
):
    """``run_mtkd.py fc_siam_diff --teachers fc_ef``: only the student's own steps are done."""
    place = tmp_path / 'other'
    for name in ('origin', 'partition'):
        shutil.copytree(done / name, place / name)
    teachers = tmp_path / 'fc_ef.py'  # as the fixture's recipe changed it
    teachers.write_text(
        f'_base_ = {str(CONFIGS / "origin" / "fc_ef.py")!r}\n'
        'model = dict(backbone=dict(base_channel=4), decode_head=dict(in_channels=4, channels=4))\n'
    )
    argv = recipe_argv(
        *('--strategies', 'origin', 'mtkd', '--routing', 'best', '--teachers', teachers),
        place='other',
        data=validated_scenes,
    )
    wide = ['fc_ef' if one == str(teachers) else one for one in argv[1:]]
    code, said = tool('run_mtkd', 'fc_siam_diff', *wide)
    assert code == 2
    assert '--teachers fc_ef: checkpoint' in said
    assert 'is of another model' in said
    assert 'give its path as --teachers' in said
    assert not (place / 'origin' / 'fc_siam_diff').exists()  # nothing was trained before
    assert tool('run_mtkd', 'fc_siam_diff', *argv[1:]) == (0, '')
    student = place / 'mtkd@best+by_fc_ef' / 'fc_siam_diff'
    settings = json.loads((student / 'run.json').read_text())['settings']
    assert {key for key in settings if key.startswith('weights.')} == {
        f'weights.{name}' for name in ('student', *NAMES)
    }
    assert not (place / 'partition' / 'fc_siam_diff').exists()
    report = json.loads((place / 'report' / 'fc_siam_diff' / 'report.json').read_text())
    assert 'mtkd@best+by_fc_ef' in json.dumps(report)
    record = place / 'partition' / 'fc_ef' / 'medium' / 'run.json'
    finished = json.loads(record.read_text())
    record.write_text(json.dumps(finished | dict(finished=False)))
    code, said = tool('run_mtkd', 'fc_siam_diff', *argv[1:])
    assert code
    assert 'medium/best.pth (medium of the teachers) is of a training that has not finished' in said
    shutil.rmtree(place / 'partition')
    argv = [*argv[: argv.index('best')], 'car', *argv[argv.index('best') + 1 :]]
    code, said = tool('run_mtkd', 'fc_siam_diff', *argv[1:])
    assert code
    assert 'partition/fc_ef/small/best.pth (small of the teachers) does not exist' in said
