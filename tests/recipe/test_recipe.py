"""The whole recipe: every stage once, in order, across interruptions, with one table at the end."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mtkd_cd.core.checkpoint import read_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import CONFIGS
from mtkd_cd.core.strategy import Layout, Strategy
from mtkd_cd.engine.config import check_checkpoints, load_config
from mtkd_cd.engine.costs import set_costs
from mtkd_cd.engine.record import file_digest, write_json, write_record
from mtkd_cd.evaluation import load_table
from mtkd_cd.evaluation.scores import MEAN_NAMES
from mtkd_cd.experiments.matrix import RUN_SETTINGS
from mtkd_cd.inference import bundle
from mtkd_cd.inference.bundle import SUFFIX, Bundle
from mtkd_cd.recipe import run, testing
from mtkd_cd.recipe.collect import collect_results
from mtkd_cd.recipe.configs import step_config
from mtkd_cd.recipe.options import RecipeOptions
from mtkd_cd.recipe.run import _bundle_student, _summary, drop_checkpoints
from mtkd_cd.recipe.steps import Step, recipe
from mtkd_cd.recipe.testing import _test_stamp, run_test_once
from mtkd_cd.reporting.summaries import recipe_markdown

REPO = Path(__file__).parents[2]


def run_and_kill(tool, argv: list[str], moment: Path) -> None:
    """Run the recipe in a process of its own that is killed when it next touches a file once the
    file ``moment`` is there."""

    def kill_at_moment(event, _):
        if event in ('open', 'os.mkdir', 'os.rename', 'os.remove') and moment.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    def run():
        sys.addaudithook(kill_at_moment)
        tool('run_mtkd', *argv)

    process = multiprocessing.get_context('fork').Process(target=run)
    process.start()
    process.join(120)
    exitcode = process.exitcode
    process.kill()  # should it hang, the tests need not
    assert exitcode == -signal.SIGKILL, f'exit code {exitcode}, and not killed at {moment}'


def figures(folder: Path) -> dict:
    """What the report says, and the per-image tables, byte for byte."""
    report = json.loads((folder / 'report' / 'fc_ef' / 'report.json').read_text())
    tables = {
        path.name: path.read_bytes()
        for path in (folder / 'report' / 'fc_ef').glob('*.json')
        if path.name != 'report.json'
    }
    return (
        dict(
            metrics=report['metrics'],
            differences=report['differences'],
            steps=steps_in(report),
        )
        | tables
    )


def steps_in(report: dict) -> list[str]:
    """The steps that a report knows the times of, as :class:`Step` writes them."""
    return [
        f'{step["action"]} {step["strategy"]}' + (f'/{step["range"]}' if step['range'] else '')
        for step in report['steps']
    ]


_WHOLE: list[Path] = []


@pytest.fixture
def whole(tool, recipe_argv, tmp_path):
    """The folder of an uninterrupted recipe; worked through once, only read by the tests."""
    if not _WHOLE:
        # In a folder that no test copies to: each comes first when it runs alone.
        assert tool('run_mtkd', *recipe_argv(place='whole')) == (0, '')
        _WHOLE.append(tmp_path / 'whole')
    return _WHOLE[0]


def test_recipe_is_the_papers():
    assert [str(step) for step in recipe()] == [
        'train origin',
        'test origin',
        'train partition/small',
        'train partition/medium',
        'train partition/large',
        'test op',
        'train continued',
        'test continued',
        'train mtkd',
        'test mtkd',
    ]
    assert [str(step) for step in recipe(Strategy('mtkd', (0.1,)))][2:4] == [
        'train partition@0.1/small',
        'train partition@0.1/large',
    ]


def test_recipe_leaves_weights_tables_and_report(whole):
    for place in (
        'origin/fc_ef',
        'partition/fc_ef/small',
        'partition/fc_ef/medium',
        'partition/fc_ef/large',
        'mtkd/fc_ef',
    ):
        assert (whole / place / 'best.pth').is_file()
    report = json.loads((whole / 'report' / 'fc_ef' / 'report.json').read_text())
    for stage, scores in report['metrics'].items():
        rows = load_table(whole / 'report' / 'fc_ef' / f'{stage}.json').rows()
        assert len(rows) == 7
        assert scores['mIoU'] == pytest.approx(
            sum(float(row['mIoU']) for row in rows) / 7, abs=0.01
        )
    assert report['differences']['mtkd']['mIoU'] == pytest.approx(
        report['metrics']['mtkd']['mIoU'] - report['metrics']['origin']['mIoU']
    )
    assert steps_in(report) == [str(step) for step in recipe() if step.strategy.kind != 'continued']
    markdown = (whole / 'report' / 'fc_ef' / 'report.md').read_text()
    assert (
        f'| O-P    | {report["metrics"]["op"]["mIoU"]:.2f} '
        f'({report["differences"]["op"]["mIoU"]:+.2f})' in markdown
    )


def test_recipe_leaves_its_student_as_a_bundle(whole):
    place = whole / 'mtkd' / 'fc_ef'
    bundle = Bundle.open(place / 'fc_ef.mtkd')
    state_dict = bundle.build('cpu').predictor().detector.state_dict()
    wanted = read_weights(place / 'best.pth')
    assert all(torch.equal(value, state_dict[key]) for key, value in wanted.items())
    assert bundle.description['calibration']['images'] > 0


def test_student_without_distillation_is_the_control(whole, tool, recipe_argv, tmp_path):
    """Same start, images, augmentation and steps: with a weight of 0 the teachers make no
    difference to any weight."""
    shutil.copytree(whole, tmp_path / 'recipe')
    shutil.rmtree(tmp_path / 'recipe' / 'mtkd')
    assert tool('run_mtkd', *recipe_argv('--stages', 'continued', 'mtkd', '--lambda', 0)) == (0, '')
    control, student = (weights_of(tmp_path / 'recipe', stage) for stage in ('continued', 'mtkd'))
    assert control == student
    assert student not in (weights_of(whole, 'mtkd'), weights_of(whole, 'origin'))
    report = json.loads((tmp_path / 'recipe' / 'report' / 'fc_ef' / 'report.json').read_text())
    assert list(report['metrics']) == ['origin', 'op', 'continued', 'mtkd']
    assert report['metrics']['continued'] == report['metrics']['mtkd']


def weights_of(folder: Path, stage: str) -> bytes:
    """Of the last step: the best of the validations may be any."""
    state = read_weights(folder / stage / 'fc_ef' / f'iter_{4 if stage == "origin" else 2}.pth')
    return b''.join(value.numpy().tobytes() for value in state.values())


def weights_and_tables(folder: Path) -> dict[Path, int]:
    """When they were written; the curves are gathered each time, as the report is."""
    files = [
        path
        for path in folder.rglob('*')
        if path.suffix == '.pth' or path.stem in ('origin', 'op', 'mtkd', 'op@0.1')
    ]
    return {path: path.stat().st_mtime_ns for path in files}


def test_finished_recipe_is_not_repeated(whole, tool, recipe_argv):
    before = weights_and_tables(whole)
    assert tool('run_mtkd', *recipe_argv('--work-dir', whole)) == (0, '')
    assert weights_and_tables(whole) == before


@pytest.mark.parametrize(
    ('flags', 'said'),
    [
        (
            ('--batch-size', 3),
            'origin/fc_ef holds another run: train_dataloader.batch_size is 2 there, 3 now',
        ),
        (('--seed', 5), 'randomness.seed is 0 there, 5 now'),
        (
            ('--loss-weight', 2),
            'mtkd/fc_ef holds another run: model.distill_loss.loss_weight is 0.0001 there, 2.0 now',
        ),
    ],
)
def test_settings_are_not_mixed(flags, said, whole, tool, recipe_argv):
    before = weights_and_tables(whole)
    code, err = tool('run_mtkd', *recipe_argv('--work-dir', whole, *flags))
    assert code == 2
    assert said in err
    assert weights_and_tables(whole) == before


def test_student_of_another_origin_is_not_taken_for_this_ones(whole, tool, recipe_argv, tmp_path):
    changed = Path(shutil.copytree(whole, tmp_path / 'changed'))
    best = torch.load(changed / 'origin/fc_ef/best.pth', weights_only=True)
    next(iter(best['state_dict'].values())).add_(1)
    torch.save(best, changed / 'origin/fc_ef/best.pth')
    code, err = tool('run_mtkd', *recipe_argv('--work-dir', changed, '--stages', 'mtkd'))
    assert code == 2
    assert 'mtkd/fc_ef holds another run: weights.student is' in err


def test_killed_stage_does_not_change_the_table(whole, tool, recipe_argv, tmp_path):
    cut, argv = tmp_path / 'cut', recipe_argv('--stages', 'origin', place='cut')
    run_and_kill(tool, argv, cut / 'origin/fc_ef/iter_2.pth')
    assert tool('run_mtkd', *argv) == (0, '')
    assert figures(cut)['metrics']['origin'] == figures(whole)['metrics']['origin']
    assert figures(cut)['origin.json'] == figures(whole)['origin.json']


@pytest.mark.slow
def test_recipe_killed_in_every_stage_ends_with_the_same_table(whole, tool, recipe_argv, tmp_path):
    cut, argv = tmp_path / 'cut', recipe_argv(place='cut')
    moments = (
        'origin/fc_ef/run.json',
        'origin/fc_ef/best.pth',
        'origin/fc_ef/last_checkpoint',
        'origin/fc_ef/iter_4.pth',
        'origin/fc_ef/test',
        'partition/fc_ef/small/iter_2.pth',
        'partition/fc_ef/medium/best.pth',
        'partition/fc_ef/large/iter_4.pth',
        'op/fc_ef/test',
        'report/fc_ef/op.json',
        'mtkd/fc_ef/run.json',
        'mtkd/fc_ef/iter_2.pth',
        'mtkd/fc_ef/test',
        'report/fc_ef/mtkd.json',
    )
    for moment in moments:
        run_and_kill(tool, argv, cut / moment)
    assert tool('run_mtkd', *argv) == (0, '')
    assert figures(cut) == figures(whole)


def test_two_teachers_share_the_origin_with_three(whole, tool, recipe_argv, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / 'recipe'))
    before = weights_and_tables(folder)
    assert tool(
        'run_mtkd', *recipe_argv('--thresholds', 0.1, '--stages', 'origin', 'partition', 'op')
    ) == (0, '')
    new = set(weights_and_tables(folder)) - set(before)
    assert {
        path: time for path, time in before.items() if path.suffix == '.pth'
    }.items() <= weights_and_tables(folder).items()
    assert (folder / 'report' / 'fc_ef' / 'origin.json').read_bytes() == (
        whole / 'report' / 'fc_ef' / 'origin.json'
    ).read_bytes()
    assert {path.relative_to(folder).parts[:3] for path in new} == {
        ('partition@0.1', 'fc_ef', 'small'),
        ('partition@0.1', 'fc_ef', 'large'),
        ('report', 'fc_ef', 'op@0.1.json'),
    }
    cascade = json.loads((folder / 'op@0.1' / 'fc_ef' / 'test.json').read_text())['stamp'][
        'weights'
    ]
    places = ('origin/fc_ef', 'partition@0.1/fc_ef/small', 'partition@0.1/fc_ef/large')
    assert [path for path, *_ in cascade] == [str(folder / place / 'best.pth') for place in places]
    report = json.loads((folder / 'report' / 'fc_ef' / 'report.json').read_text())
    assert set(report['metrics']) == {'origin', 'op', 'mtkd', 'op@0.1'}
    assert report['ranges']['partition@0.1'] == 'small: CAR <= 0.1, large: CAR > 0.1'
    rows = load_table(folder / 'report' / 'fc_ef' / 'op@0.1.json').rows()
    # Scores keep the default's ranges, to be comparable.
    assert {row['range'] for row in rows} == {'small', 'medium', 'large'}


def test_variant_without_specialists_names_the_command_that_makes_them(
    whole, tool, recipe_argv, tmp_path
):
    shutil.copytree(whole / 'origin', tmp_path / 'recipe' / 'origin')
    code, err = tool('run_mtkd', *recipe_argv('--thresholds', 0.1, 0.3, '--stages', 'mtkd'))
    assert code == 2
    command = 'mtkd-cd recipe fc_ef --strategies partition --thresholds 0.1 0.3'
    assert f'{command} --work-dir {tmp_path / "recipe"}' in err


def test_specialists_start_from_the_origin_where_asked(whole, tool, recipe_argv, tmp_path):
    """A learning rate of 0 keeps what was started from."""
    folder = tmp_path / 'recipe'
    shutil.copytree(whole / 'origin', folder / 'origin')
    flags = (
        '--stages',
        'partition',
        '--specialists-from',
        'origin',
        '--specialist-iters',
        2,
        '--lr',
        0,
    )
    assert tool('run_mtkd', *recipe_argv(*flags)) == (0, '')
    origin = read_weights(folder / 'origin' / 'fc_ef' / 'best.pth')
    weights = [key for key in origin if key.endswith('.weight')]
    for name in ('small', 'medium', 'large'):
        place = Path('partition', 'fc_ef', name)
        assert sorted(path.name for path in (folder / place).glob('iter_*')) == ['iter_2.pth']
        assert all(
            torch.equal(read_weights(folder / place / 'best.pth')[key], origin[key])
            for key in weights
        )
        assert not all(
            torch.equal(read_weights(whole / place / 'best.pth')[key], origin[key])
            for key in weights
        )


@pytest.mark.slow
def test_two_processes(recipe_argv, tmp_path):
    torchrun = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc_per_node',
        '2',
    ]
    argv = recipe_argv('--launcher', 'pytorch', '--device', 'cpu')
    done = subprocess.run(
        [*torchrun, 'tools/run_mtkd.py', *argv],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # a process that waits for another would wait half an hour
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / 'recipe' / 'report' / 'fc_ef' / 'report.json').read_text())
    assert steps_in(report) == [str(step) for step in recipe() if step.strategy.kind != 'continued']
    for stage in ('origin', 'op', 'mtkd'):
        # Seven images do not divide by two: each counts once.
        table = load_table(tmp_path / 'recipe' / 'report' / 'fc_ef' / f'{stage}.json')
        assert len(table.files) == 7
    settings = json.loads((tmp_path / 'recipe' / 'mtkd' / 'fc_ef' / 'run.json').read_text())[
        'settings'
    ]
    assert settings['processes'] == 2
    bundle = tmp_path / 'recipe' / 'mtkd' / 'fc_ef' / 'fc_ef.mtkd'
    with zipfile.ZipFile(bundle) as parts:
        card = json.loads(parts.read('card.json'))
    assert card['calibration']['images'] == 2  # all of the split, counted by one process


def test_checkpoints_of_epochs_are_dropped_too(tmp_path):
    names = ('best.pth', 'epoch_2.pth', 'iter_8.pth', 'last_checkpoint', 'own.pth')
    for name in names:
        (tmp_path / name).touch()
    drop_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['best.pth', 'own.pth']


def test_config_without_validation_goes_through_the_recipe_to_its_bundle(tmp_path, monkeypatch):
    """It has no val_interval either: mmengine's loops have a default."""
    config = tmp_path / 'my net v1.5.py'
    config.write_text(
        f"_base_ = '{CONFIGS}/origin/fc_ef.py'\n"
        'val_dataloader = val_cfg = val_evaluator = None\n'
        'train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=8)\n'
        'param_scheduler = dict(_delete_=True, type="LinearLR", start_factor=0.1)\n'
    )
    options = RecipeOptions(CONFIGS, tmp_path / 'work', data_root=tmp_path / 'My set', folds=2)
    step = Step(Strategy('mtkd', folds=2), 'test')
    cfg = step_config(Step(Strategy('origin'), 'train'), str(config), options)
    place = tmp_path / 'work' / 'origin' / 'my net v1.5'
    assert (
        _summary(Step(Strategy('origin'), 'train'), cfg) == f'8 iterations, warm-up 0, in {place}'
    )
    told = []
    monkeypatch.setattr(bundle, 'create_bundle', lambda *_, facts, **__: told.append(facts.data))
    monkeypatch.setattr(run, 'announce', told.append)
    student = step.place(options.layout('my net v1.5'))
    student.mkdir(parents=True)
    (student / 'best.pth').touch()
    _bundle_student(step, str(config), options)
    assert told == [
        f'train split of {tmp_path / "My set"}',
        f'bundle of the student: {student / "my net v1.5"}{SUFFIX}',
    ]


def test_pictures_of_another_run_are_not_taken_for_those_of_this_one(tmp_path, monkeypatch):
    drawn = []
    scores = dict.fromkeys(MEAN_NAMES, 50.0)
    monkeypatch.setattr(
        testing, 'run_test', lambda *_, show_dir, **__: drawn.append(show_dir) or dict(scores)
    )
    monkeypatch.setattr(testing, 'stamp_of_test_data', lambda _: {})
    monkeypatch.setattr(testing, 'set_provenance', lambda *_: None)
    for name in ('best.pth', 'table.json'):
        (tmp_path / name).touch()
    pictures = tmp_path / 'pictures'
    pictures.mkdir()  # of another model, say
    for show_dir in (None, None, pictures, pictures, None):
        cfg = Config(dict(model={}, work_dir=str(tmp_path)))
        run_test_once(cfg, tmp_path / 'table.json', Strategy('origin'), show_dir)
    assert drawn == [None, pictures]


def test_test_with_other_views_is_another_test(tmp_path):
    (tmp_path / 'best.pth').touch()

    def stamp(**entries):
        return _test_stamp(Config(dict(model={}, work_dir=str(tmp_path), **entries)), None)

    views = [[dict(type='TestTimeAug', transforms=[[]])], [dict(type='TestTimeAug')]]
    assert stamp(tta=True, tta_pipeline=views[0]) != stamp(tta=True, tta_pipeline=views[1])
    assert stamp(tta_pipeline=views[0]) == stamp(tta_pipeline=views[1])  # nobody uses them


def test_results_of_another_origin_are_not_set_beside_those_of_this_one(tmp_path):
    layout = Layout('m', tmp_path)
    scores, data = dict.fromkeys(MEAN_NAMES, 50.0), {'A/0.png': '0'}
    strategies = [Strategy(kind) for kind in ('origin', 'op', 'continued', 'mtkd')]
    origin = layout.weights(strategies[0])

    def write(strategy, rows, data=data):
        record = dict(stamp=dict(weights=rows), data=data, metrics=scores, seconds=1.0)
        write_json(layout.place(strategy) / 'test.json', record)

    def found():
        results = collect_results(layout)
        assert results.metrics.keys().isdisjoint(results.outdated)
        return set(results.metrics), recipe_markdown(results)

    write(strategies[0], [[str(origin), 9, 1]])
    origin.write_bytes(b'first')
    write(strategies[1], [[str(origin), 9, 1], ['small', 9, 1]])
    for strategy, name in zip(strategies[2:], ('start', 'student')):
        write(strategy, [[str(layout.weights(strategy)), 9, 1]])
        settings = {f'weights.{name}': file_digest(origin)}
        write_record(layout.place(strategy), dict(settings=settings, finished=True))
    metrics, text = found()
    assert metrics == set(strategies)
    assert 'Left out' not in text

    origin.write_bytes(b'trained anew')
    write(strategies[0], [[str(origin), 9, 2]])
    metrics, text = found()
    assert metrics == {strategies[0]}
    assert 'tested otherwise than the origin: O-P, continued, MTKD.' in text

    origin.write_bytes(b'first')
    write(strategies[0], [[str(origin), 9, 1]], data={'A/0.png': '1'})
    assert found()[0] == {strategies[0]}


@pytest.mark.parametrize(
    'changed',
    [
        dict(tta=True),
        dict(test_evaluator=dict(type='PerImageChangeMetric', zero_division=0.0)),
        dict(test_dataloader=dict(dataset=dict(pipeline=[dict(type='MultiImgResize')]))),
        dict(test_cfg=dict(type='TestLoop', fp16=True)),
        dict(precision='bfloat16'),
        dict(model=dict(type='OriginPartitionCascade', precision='bfloat16')),
    ],
)
def test_results_of_another_way_of_testing_are_not_set_beside_the_origins(tmp_path, changed):
    """As those of ``--strategies op --tta`` are, after a recipe without it."""
    layout = Layout('m', tmp_path)
    metrics = dict.fromkeys(MEAN_NAMES, 50.0)
    base = dict(work_dir='w', test_evaluator=dict(type='PerImageChangeMetric'), model={})
    base |= dict(test_dataloader=dict(batch_size=1, dataset=dict(data_root='here', pipeline=[])))
    same = dict(test_dataloader=dict(batch_size=2, dataset=dict(data_root='there', pipeline=[])))
    (tmp_path / 'best.pth').write_bytes(b'')
    for kind, other in {'origin': {}, 'op': changed, 'mtkd': same}.items():
        stamp = _test_stamp(Config({**base, **other}), tmp_path / 'best.pth')
        record = dict(stamp=stamp, metrics=metrics, seconds=1.0)
        write_json(layout.place(Strategy(kind)) / 'test.json', record)
    layout.weights(Strategy('origin')).write_bytes(b'')
    results = collect_results(layout)
    assert set(results.metrics) == {Strategy('origin'), Strategy('mtkd')}
    assert results.outdated == [Strategy('op')]


def test_compiled_recipe_compiles_the_teachers_as_a_compiled_training_does(tmp_path):
    options = RecipeOptions(CONFIGS, tmp_path, compile=True)
    plain = RecipeOptions(CONFIGS, tmp_path)
    student = Step(Strategy('mtkd', (0.1,), 'best'), 'train')
    trained = load_config(CONFIGS / 'mtkd' / 'fc_ef.py')
    set_costs(trained, compile=True)
    cfg = step_config(student, 'fc_ef', options)
    assert cfg.model.teacher_options == trained.model.teacher_options == dict(compiled=True)
    assert 'teacher_options' not in step_config(student, 'fc_ef', plain).model
    given = {'student_model': dict(teacher_options=dict(precision='bfloat16'))}
    both = step_config(student, 'fc_ef', replace(options, cfg_options=given))
    assert both.model.teacher_options == dict(precision='bfloat16', compiled=True)
    control = step_config(Step(Strategy('continued'), 'train'), 'fc_ef', options)
    assert 'teacher_options' not in control.model


def test_precision_of_teachers_concerns_the_student_alone(tmp_path):
    options = RecipeOptions(CONFIGS, tmp_path, teacher_precision='bfloat16', compile=True)
    for step in recipe(Strategy('mtkd')):
        model = step_config(step, 'fc_ef', options).model
        wanted = dict(compiled=True, precision='bfloat16') if step.strategy.kind == 'mtkd' else None
        assert model.get('teacher_options') == wanted
    with pytest.raises(UserError, match=r'teacher_precision=.*float32, bfloat16'):
        replace(options, teacher_precision='float16')
    assert 'teacher_precision' in RUN_SETTINGS  # of an experiment


def test_missing_start_of_an_own_config_is_made_by_a_command_with_that_config(tmp_path):
    own = tmp_path / 'net.py'
    own.write_text(f"_base_ = '{CONFIGS}/origin/fc_ef.py'\n")
    options = RecipeOptions(CONFIGS, tmp_path / 'w')
    cfg = step_config(Step(Strategy('op'), 'test'), str(own), options)
    command = f'mtkd-cd recipe {own} --strategies origin --work-dir {tmp_path / "w"}'
    with pytest.raises(UserError, match=f'To train it: {command}$'):
        check_checkpoints(cfg)
    # The command is one: it takes the config, and its step makes that very file.
    origin = step_config(Step(Strategy('origin'), 'train'), str(own), options)
    assert cfg.model.checkpoints.origin == f'{origin.work_dir}/best.pth'
