"""Kills, signals and full disks, at many moments of a training: the next start goes on, leaves no
rubbish, and ends with the same weights, scores and curve, bit for bit."""

import contextlib
import errno
import os
import signal
import subprocess
from pathlib import Path

import pytest

from mtkd_cd.core.files import atomic_write

pytestmark = pytest.mark.slow
_UNINTERRUPTED: list[tuple] = []


@pytest.fixture
def argv(train_argv):
    """Eight iterations, three to a step of the optimiser: checkpoints at 2, 4 and 8 are inside."""
    options = (
        'train_cfg.max_iters=8',
        'optim_wrapper.accumulative_counts=3',
        'default_hooks.checkpoint.max_keep_ckpts=9',
    )
    return train_argv('origin', '--resume', options=options)


@pytest.fixture
def uninterrupted(argv, tool, outcome, tmp_path):
    if not _UNINTERRUPTED:
        plain = [str(tmp_path / 'plain') if arg == str(tmp_path / 'work') else arg for arg in argv]
        assert tool('train', *plain) == (0, '')
        _UNINTERRUPTED.append(outcome(tmp_path / 'plain'))
    return _UNINTERRUPTED[0]


def opened(name):
    return lambda event, args: event == 'open' and f'/.{name}.' in str(args[0])


def renamed(name):
    return lambda event, args: event == 'os.rename' and Path(str(args[1])).name == name


MOMENTS = {
    'before the first step': lambda event, args: event == 'os.mkdir' and 'vis_data' in str(args[0]),
    'at the record': renamed('run.json'),
    'as a checkpoint is begun': opened('iter_2.pth'),
    'before a checkpoint is in its place': renamed('iter_2.pth'),
    'as the best weights are begun': opened('best.pth'),
    'before the best weights are in their place': renamed('best.pth'),
    'in the validation after a checkpoint': renamed('curve.csv'),
    'inside a later cycle of the optimiser': renamed('iter_4.pth'),
    'at the last checkpoint': renamed('iter_8.pth'),
}


@pytest.mark.parametrize('moment', MOMENTS)
@pytest.mark.parametrize(
    'sent', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda sent: sent.name
)
def test_interrupted_run_ends_as_if_it_had_not_been(
    uninterrupted, argv, tool, struck, outcome, tmp_path, moment, sent
):
    work = tmp_path / 'work'
    code, err = struck(MOMENTS[moment], lambda: os.kill(os.getpid(), sent), 'train', *argv)
    assert 'Traceback' not in err
    assert code == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[sent]
    if sent == signal.SIGTERM:
        assert 'stopped by SIGTERM' in err
    assert tool('train', *argv) == (0, '')
    assert outcome(work) == uninterrupted
    assert not list(work.rglob('.*'))  # neither temporary files nor locks


def test_sigterm_saves_the_step_that_it_is_in(argv, struck, tmp_path):
    work = tmp_path / 'work'
    argv = [*argv, 'default_hooks.checkpoint.interval=100', 'train_cfg.val_interval=8']
    code, err = struck(
        renamed('run.json'), lambda: os.kill(os.getpid(), signal.SIGTERM), 'train', *argv
    )
    assert code == 143
    assert [path.name for path in work.glob('*.pth')] == ['iter_1.pth']
    assert f'stopped by SIGTERM at iteration 1: saved {work / "iter_1.pth"}' in err
    assert '--resume' in err


@pytest.mark.skipif(os.getuid() != 0, reason='mounting needs root')
@pytest.mark.parametrize('kib', [32, 64, 96, 160, 224, 320])
def test_disk_that_fills_up(uninterrupted, argv, tool, outcome, tmp_path, kib):
    disk = tmp_path / 'disk'
    disk.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={kib}k', 'tmpfs', str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('no tmpfs can be mounted here')
    try:
        small = [str(disk / 'work') if arg == str(tmp_path / 'work') else arg for arg in argv]
        code, err = tool('train', *small)
        assert code in (0, 2)
        assert 'Traceback' not in err
        assert code == 0 or 'no space left' in err
        subprocess.run(['mount', '-o', 'remount,size=64m', str(disk)], check=True)
        assert tool('train', *small) == (0, '')
        assert outcome(disk / 'work') == uninterrupted
        assert not list((disk / 'work').rglob('*.tmp'))
    finally:
        subprocess.run(['umount', str(disk)], check=False)


def test_temporary_files_of_the_living_stay_and_those_of_the_dead_go(tmp_path):
    child = os.fork()
    if child == 0:  # writes half of a file and is gone
        writing = atomic_write(tmp_path / 'best.pth')
        writing.__enter__().write('half')
        os._exit(0)
    os.waitpid(child, 0)
    assert len(list(tmp_path.glob('.best.pth.*.tmp'))) == 1
    with atomic_write(tmp_path / 'other'):
        assert [path.name.split('.')[1] for path in tmp_path.iterdir()] == ['other']


@pytest.mark.parametrize(
    'code', [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EIO, errno.ENAMETOOLONG]
)
def test_what_the_file_system_refuses_is_a_line(tool, argv, tmp_path, monkeypatch, code):
    place = tmp_path / 'work' / 'x'
    mkdir = Path.mkdir

    def refuse(path, *args, **kwargs):
        if tmp_path / 'work' in (path, *path.parents):
            raise OSError(code, os.strerror(code), str(place))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, 'mkdir', refuse)
    exit_code, err = tool('train', *argv)
    assert exit_code == 2
    assert err.startswith(f'error: {place}: ')
    assert err.count('\n') == 1


def test_only_one_process_trains_in_a_work_dir(argv, tool, struck, tmp_path):
    lock = tmp_path / 'work' / '.lock'
    seen = []

    def second():
        assert lock.is_file()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(SystemExit):
                from mtkd_cd.core.errors import UserError
                from mtkd_cd.core.locks import alone

                try:
                    with alone(lock):
                        os._exit(0)
                except UserError:
                    os._exit(7)
        seen.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        (tmp_path / 'second').write_text(str(seen[0]))

    assert struck(renamed('run.json'), second, 'train', *argv)[0] == 0
    assert (tmp_path / 'second').read_text() == '7'
    assert not lock.exists()
