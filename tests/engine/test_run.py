"""A training run in its work dir: what it leaves, when it goes on, what it refuses, what a full
disk does to it."""

import errno
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import dataloader

from mtkd_cd.core import files
from mtkd_cd.core.checkpoint import load_weights, read_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import CONFIGS
from mtkd_cd.engine import runner, testing, training
from mtkd_cd.engine.config import load_config
from mtkd_cd.engine.record import check_settings, settings_of, write_record
from mtkd_cd.registry import MODELS

REPO = Path(__file__).parents[2]
_FINISHED: list[Path] = []


@pytest.fixture
def trained(tool, train_argv, tmp_path):
    """A finished run; trained once, a copy for each test."""
    if not _FINISHED:
        assert tool('train', *train_argv()) == (0, '')
        _FINISHED.append(Path(shutil.copytree(tmp_path / 'work', tmp_path.parent / 'finished')))
        return tmp_path / 'work'
    return Path(shutil.copytree(_FINISHED[0], tmp_path / 'work'))


def content(folder):
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_run_leaves_best_weights_and_its_record(trained):
    record = json.loads((trained / 'run.json').read_text())
    best = torch.load(trained / 'best.pth', weights_only=True)
    assert set(best) == {'state_dict', 'meta'}
    assert best['meta']['iter'] in (2, 4)
    assert best['meta']['config'] == 'origin/fc_ef.py'
    assert record['finished']
    assert record['score'] == best['meta']['score']
    assert record['seconds'] > 0
    assert record['settings']['train_cfg.max_iters'] == 4
    assert record['settings']['data.images'] == 22  # of 24, a tenth is held out
    assert sorted(path.name for path in trained.glob('*.pth')) == [
        'best.pth',
        'iter_2.pth',
        'iter_4.pth',
    ]


@pytest.mark.parametrize(('lr', 'code'), [(1e-3, 0), (1e30, 2)])
def test_loader_processes_are_asked_to_end_and_do(tool, train_argv, monkeypatch, lr, code):
    """Those that are not asked are waited for, are sent SIGTERM, and outlive the run."""
    started = []
    loading = dataloader._MultiProcessingDataLoaderIter
    init = loading.__init__

    def recorded(self, loader):
        init(self, loader)
        started.extend(self._workers)

    monkeypatch.setattr(loading, '__init__', recorded)
    workers = [
        f'{loader}_dataloader.{key}'
        for loader in ('train', 'val')
        for key in ('num_workers=1', 'persistent_workers=True')
    ]
    rate = f'optim_wrapper.optimizer.lr={lr}'
    assert tool('train', *train_argv(options=(*workers, rate)))[0] == code
    assert started
    assert [worker.exitcode for worker in started] == [0] * len(started)


def test_test_takes_the_weights_that_training_left(trained, tool, train_argv, tmp_path):
    config, _, work_dir, *options = train_argv()
    code, err = tool(
        'test',
        config,
        work_dir + '/best.pth',
        '--work-dir',
        tmp_path / 'test',
        '--out',
        tmp_path / 'scores.csv',
        *options,
    )
    assert (code, err) == (0, '')
    assert len((tmp_path / 'scores.csv').read_text().splitlines()) == 1 + 7


def test_test_of_a_config_that_leaves_the_seed_open(trained, tool, train_argv):
    config, _, work_dir, *options = train_argv(
        options=('randomness._delete_=True', 'randomness.deterministic=False')
    )
    assert tool('test', config, work_dir + '/best.pth', *options) == (0, '')


def test_pictures_of_every_image(trained, tool, train_argv, tmp_path):
    config, _, work_dir, *options = train_argv()
    code, err = tool(
        'test',
        config,
        work_dir + '/best.pth',
        '--work-dir',
        tmp_path / 'test',
        '--show-dir',
        tmp_path / 'show',
        *options,
    )
    assert (code, err) == (0, '')
    assert len(list((tmp_path / 'show' / 'error_map').rglob('*.png'))) == 7


def test_finished_run_is_not_overwritten_and_not_repeated(trained, tool, train_argv):
    before = content(trained)
    code, err = tool('train', *train_argv())
    assert code == 2
    assert '--resume' in err
    assert tool('train', *train_argv('origin', '--resume')) == (0, '')
    assert content(trained) == before


@pytest.mark.parametrize('flags', [(), ('--resume',)])
def test_other_settings_are_refused_with_both_values(trained, tool, train_argv, flags):
    before = content(trained)
    code, err = tool(
        'train',
        *train_argv(
            'origin', *flags, options=('train_cfg.max_iters=6', 'train_dataloader.batch_size=3')
        ),
    )
    assert code == 2
    assert (
        'train_cfg.max_iters is 4 there, 6 now; train_dataloader.batch_size is 2 there, 3 now'
        in err
    )
    assert content(trained) == before


def test_other_machine_settings_are_not_other_settings(trained, tool, train_argv, own_scenes):
    options = ('train_dataloader.num_workers=1', 'default_hooks.logger.interval=1')
    assert tool('train', *train_argv('origin', '--resume', data=own_scenes, options=options)) == (
        0,
        '',
    )


def test_other_data_are_refused(trained, tool, train_argv, own_scenes):
    for name in ('A', 'B', 'label'):
        next(iter(sorted((own_scenes / 'train' / name).iterdir()))).unlink()
    code, err = tool('train', *train_argv('origin', '--resume', data=own_scenes))
    assert code == 2
    assert 'train data: ' in err
    assert ' gone (A/' in err


def test_weights_of_unknown_origin_are_not_overwritten(trained, tool, train_argv):
    for path in trained.iterdir():
        if path.name != 'best.pth':
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for flags in ((), ('--resume',)):
        assert tool('train', *train_argv('origin', *flags))[0] == 2
    assert [path.name for path in trained.iterdir()] == ['best.pth']


def test_resume_takes_the_newest_readable_checkpoint(trained, tool, train_argv, capfd):
    expected = torch.load(trained / 'best.pth', weights_only=True)
    record = json.loads((trained / 'run.json').read_text())
    (trained / 'run.json').write_text(json.dumps(record | dict(finished=False)))
    newest = trained / 'iter_4.pth'
    newest.write_bytes(newest.read_bytes()[:1000])
    (trained / 'last_checkpoint').write_text(str(newest)[:-3])
    (trained / 'best.pth').unlink()
    assert tool('train', *train_argv('origin', '--resume')) == (0, '')
    best = torch.load(trained / 'best.pth', weights_only=True)
    # The run was cut at 2: it has validated there, trained to 4 as before, and found the same best
    # weights.
    assert best['meta'] == expected['meta']
    assert all(
        torch.equal(best['state_dict'][key], value) for key, value in expected['state_dict'].items()
    )


def test_specialist_of_a_range_that_validation_lacks_is_validated_on_everything(
    tool, train_argv, tmp_path
):
    # Two images are held out; CARs of the synthetic scenes spread over all ranges, so one range at
    # least has none.
    logs = []
    for name in ('small', 'medium', 'large'):
        argv = train_argv(
            'partition', '--partition', name, options=('log_level=INFO', 'train_cfg.max_iters=1')
        )
        argv[argv.index('--work-dir') + 1] = str(tmp_path / name)
        assert tool('train', *argv)[0] == 0
        logs.append(next((tmp_path / name).rglob('*.log')).read_text())
    assert any('validating on all of them' in log for log in logs)
    assert not all('validating on all of them' in log for log in logs)


def test_full_disk_leaves_the_previous_checkpoint(tool, train_argv, tmp_path, monkeypatch):
    """The second checkpoint meets a full disk half-way."""
    real, checkpoints = files.os.fdopen, []

    class FullDisk:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, 'No space left on device')

    def fdopen(handle, *args, **kwargs):
        file = real(handle, *args, **kwargs)
        target = files.os.readlink(f'/proc/self/fd/{handle}')
        if '/.iter_' in target and target.split('/.iter_')[1].startswith('4'):
            checkpoints.append(target)
            return FullDisk(file)
        return file

    monkeypatch.setattr(files.os, 'fdopen', fdopen)
    code, err = tool('train', *train_argv())
    assert code == 2
    assert 'No space left on device' in err
    assert 'Traceback' not in err
    assert len(checkpoints) == 1
    monkeypatch.undo()
    work = tmp_path / 'work'
    assert sorted(
        path.name for path in work.iterdir() if 'iter_' in path.name or 'best' in path.name
    ) == ['best.pth', 'iter_2.pth']
    assert tool('train', *train_argv('origin', '--resume')) == (0, '')
    assert json.loads((work / 'run.json').read_text())['finished']


def test_control_starts_from_every_weight_of_the_origin(tool, train_argv, trained, tmp_path):
    origin = trained / 'best.pth'
    argv = train_argv(
        'continued', options=(f'load_from={origin}', 'optim_wrapper.optimizer.lr=0.0')
    )
    argv[argv.index('--work-dir') + 1] = str(tmp_path / 'control')
    assert tool('train', *argv) == (0, '')
    learned, start = (dict(MODELS.build(tiny_origin().model).named_parameters()) for _ in range(2))
    before, after = (
        torch.load(path, weights_only=True)['state_dict']
        for path in (origin, tmp_path / 'control' / 'best.pth')
    )
    assert learned
    assert all(torch.equal(before[name], after[name]) for name in learned)
    assert not any(
        torch.equal(before[name], value) for name, value in start.items() if value.dim() > 1
    )
    settings = json.loads((tmp_path / 'control' / 'run.json').read_text())['settings']
    assert settings['weights.start'] == hashlib.sha256(origin.read_bytes()).hexdigest()[:16]


def test_control_refuses_weights_that_do_not_fit(tool, train_argv, trained, tmp_path):
    wider = (
        'model.backbone.base_channel=8',
        'model.decode_head.in_channels=8',
        'model.decode_head.channels=8',
    )
    argv = train_argv('continued', options=(f'load_from={trained / "best.pth"}', *wider))
    argv[argv.index('--work-dir') + 1] = str(tmp_path / 'control')
    code, err = tool('train', *argv)
    assert code == 2
    assert 'keys of another shape' in err


def test_control_without_an_origin_names_the_command_that_makes_it(tool, train_argv):
    code, err = tool(
        'train',
        *train_argv('continued', options=('load_from=work_dirs/nowhere/origin/fc_ef/best.pth',)),
    )
    assert code == 2
    assert 'mtkd-cd train configs/origin/fc_ef.py' in err


def test_mixed_precision_trains_resumes_and_leaves_float32(tool, train_argv, tmp_path):
    argv = train_argv('origin', '--amp', '--device', 'cpu')
    assert tool('train', *argv) == (0, '')
    work = tmp_path / 'work'
    settings = json.loads((work / 'run.json').read_text())['settings']
    assert settings['optim_wrapper.type'] == 'BFloat16OptimWrapper'
    whole = read_weights(work / 'iter_4.pth')
    assert {value.dtype for name, value in whole.items() if 'num_batches' not in name} == {
        torch.float32
    }
    (work / 'iter_4.pth').unlink()
    record = json.loads((work / 'run.json').read_text())
    (work / 'run.json').write_text(json.dumps(record | dict(finished=False)))
    assert tool('train', *argv[:1], '--resume', *argv[1:]) == (0, '')
    assert all(
        torch.equal(value, whole[name]) for name, value in read_weights(work / 'iter_4.pth').items()
    )


def tiny_origin():
    return load_config(
        REPO / 'configs' / 'origin' / 'fc_ef.py',
        {
            'model.backbone.base_channel': 4,
            'model.decode_head.in_channels': 4,
            'model.decode_head.channels': 4,
        },
    )


def test_best_weights_of_the_student_load_into_the_origins_config(
    tool, train_argv, trained, tmp_path
):
    argv = train_argv(
        'mtkd',
        options=(
            *(
                f'model.checkpoints.{name}={trained / "best.pth"}'
                for name in ('student', 'small', 'medium', 'large')
            ),
        ),
    )
    argv = [
        arg.replace('model.backbone', 'model.student.backbone').replace(
            'model.decode_head', 'model.student.decode_head'
        )
        for arg in argv
    ]
    argv[argv.index('--work-dir') + 1] = str(tmp_path / 'student')
    assert tool('train', *argv) == (0, '')
    load_weights(MODELS.build(tiny_origin().model), tmp_path / 'student' / 'best.pth')


def test_run_of_a_config_without_a_stopwatch_is_timed(tool, train_argv, tmp_path):
    assert tool('train', *train_argv(options=('custom_hooks=[]',))) == (0, '')
    assert json.loads((tmp_path / 'work' / 'run.json').read_text())['seconds'] > 0


def test_run_that_keeps_weights_by_another_score_is_another_run(tmp_path):
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    write_record(tmp_path, dict(settings=settings_of(cfg)))
    check_settings(tmp_path, settings_of(cfg))
    cfg.custom_hooks[0].metric = 'pooled_mIoU'
    with pytest.raises(UserError, match=r'best_weights.metric is "mIoU" there, "pooled_mIoU" now'):
        check_settings(tmp_path, settings_of(cfg))
    cfg.custom_hooks = [dict(type='BestWeightsHook', metric='mIoU'), dict(type='EMAHook')]
    with pytest.raises(UserError, match=r'best_weights.ema is null there, .*EMAHook.* now'):
        check_settings(tmp_path, settings_of(cfg))
    cfg.custom_hooks = []  # before a training it gets one
    check_settings(tmp_path, settings_of(cfg))


def test_run_whose_best_weights_are_scored_otherwise_is_another_run(tmp_path):
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    write_record(tmp_path, dict(settings=settings_of(cfg)))
    cfg.val_evaluator.out_file = 'elsewhere.json'
    check_settings(tmp_path, settings_of(cfg))
    cfg.val_evaluator.zero_division = 0.0
    with pytest.raises(UserError, match=r'best_weights.evaluator is .*zero_division.* now'):
        check_settings(tmp_path, settings_of(cfg))


def test_run_with_a_scaled_learning_rate_is_another_run(tmp_path):
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    write_record(tmp_path, dict(settings=settings_of(cfg)))
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=16)
    check_settings(tmp_path, settings_of(cfg))
    cfg.auto_scale_lr.enable = True
    with pytest.raises(UserError, match=r'auto_scale_lr.enable is not set there, true now'):
        check_settings(tmp_path, settings_of(cfg))


def test_run_that_normalises_otherwise_is_another_run(tmp_path):
    """Also where the preprocessor stands at the top of a config, as mmengine lets it."""
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
    settings = settings_of(cfg)
    earlier = {k: v for k, v in settings.items() if not k.startswith('data_preprocessor')}
    write_record(tmp_path, dict(settings=earlier))
    check_settings(tmp_path, settings)  # of an earlier version, which did not say it
    write_record(tmp_path, dict(settings=settings))
    check_settings(tmp_path, settings)
    cfg.data_preprocessor.bgr_to_rgb = False
    with pytest.raises(UserError, match=r'data_preprocessor.bgr_to_rgb is true there, false now'):
        check_settings(tmp_path, settings_of(cfg))


def test_record_that_does_not_say_which_weights_it_keeps_is_gone_on_with(tmp_path):
    settings = settings_of(load_config(CONFIGS / 'origin' / 'fc_ef.py'))
    earlier = {k: v for k, v in settings.items() if not k.startswith('best_weights.')}
    assert len(earlier) == len(settings) - 4
    write_record(tmp_path, dict(settings=earlier))
    check_settings(tmp_path, settings)


def test_collector_passes_over_what_is_imported_before_data_are_opened(monkeypatch, tmp_path):
    seen = []

    def refuse(_):
        seen.append('data')
        raise UserError('seen enough')

    monkeypatch.setattr(runner, 'pass_over_imports', lambda: seen.append('imports'))
    monkeypatch.setattr(testing, 'open_test_data', refuse)
    monkeypatch.setattr(training, 'open_training_data', refuse)
    cfg = load_config(REPO / 'configs' / 'origin' / 'fc_ef.py', {'work_dir': str(tmp_path)})
    (tmp_path / 'weights.pth').touch()
    for start in (
        training.prepare_training,
        lambda cfg: testing.run_test(cfg, tmp_path / 'weights.pth'),
    ):
        with pytest.raises(UserError, match='seen enough'):
            start(cfg)
    assert seen == ['imports', 'data'] * 2
