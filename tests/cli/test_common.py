"""How tools end: one line and exit code 2 for a user's mistake, a traceback for a bug."""

import argparse
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from mtkd_cd.cli.common import (
    add_data_arguments,
    add_machine_arguments,
    add_run_arguments,
    apply_data_arguments,
    run_tool,
)
from mtkd_cd.core.checkpoint import load_only_tensors
from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.config import load_config
from mtkd_cd.registry import DATASETS

REPO = Path(__file__).parents[2]


class BadImages(torch.utils.data.Dataset):
    """Its items are unreadable."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise UserError('a.png is truncated\nsecond line')


def outcome(main, capsys, argv=()):
    with pytest.raises(SystemExit) as exit_info:
        run_tool(main, list(argv))
    return exit_info.value.code, capsys.readouterr().err


def failing(error):
    def main(argv):
        raise error

    return main


def test_success_and_own_exit_codes(capsys):
    assert outcome(lambda argv: None, capsys) == (0, '')
    assert outcome(lambda argv: 1, capsys) == (1, '')


def run_into_pipe(body, reader_gone):
    code = f'from mtkd_cd.cli.common import run_tool\ndef main(argv): {body}\nrun_tool(main, [])'
    reader, writer = os.pipe()
    if reader_gone:
        os.close(reader)
    return subprocess.run(
        [sys.executable, '-c', code], stdout=writer, stderr=subprocess.PIPE, text=True
    )


def test_waiting_threads_sleep_unless_the_user_says_otherwise(monkeypatch):
    for own, wanted in ((None, 'PASSIVE'), ('ACTIVE', 'ACTIVE')):
        monkeypatch.delenv('OMP_WAIT_POLICY', raising=False)
        if own:
            monkeypatch.setenv('OMP_WAIT_POLICY', own)
        with pytest.raises(SystemExit):
            run_tool(lambda _: None, [])
        assert os.environ['OMP_WAIT_POLICY'] == wanted


@pytest.mark.parametrize(
    'size', [1, 100_000]
)  # it is noticed when the output is flushed, or while it is written
def test_closed_pipe_ends_quietly(size):
    ended = run_into_pipe(f"print('x' * {size})", reader_gone=True)
    assert (ended.returncode, ended.stderr) == (141, '')


def test_broken_pipe_between_processes_is_a_bug():
    assert (
        'BrokenPipeError: of a worker'
        in run_into_pipe("raise BrokenPipeError('of a worker')", reader_gone=False).stderr
    )


_OF_ONE_PROCESS = """
import atexit, sys, time
from contextlib import suppress
from pathlib import Path
from mtkd_cd.cli.common import run_tool

def has_loop(wanted):
    # On a busy machine a thread takes its time to have its name, and to end.
    until = time.monotonic() + 20
    while True:
        names = []
        for path in Path('/proc/self/task').glob('*/comm'):
            with suppress(OSError):  # it has just ended
                names.append(path.read_text())
        found = 'loop' in ''.join(names)
        if found is wanted or time.monotonic() > until:
            return found
        time.sleep(0.01)

def main(argv):
    import torch.distributed as dist
    dist.init_process_group('gloo', init_method='file://' + argv[0], rank=0, world_size=1)
    model = type('Model', (), {})()
    model.itself, model.group = model, dist.group.WORLD  # as DDP keeps it
    print(has_loop(True))

atexit.register(lambda: print(has_loop(False)))
run_tool(main, sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='looks at /proc')
def test_threads_of_a_process_group_end_before_the_process(tmp_path):
    """Those that go on end it with SIGABRT now and then."""
    command = [sys.executable, '-c', _OF_ONE_PROCESS, str(tmp_path / 'store')]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ['True', 'False']


def test_user_error_is_its_message_alone(capsys):
    assert outcome(failing(UserError('no such folder: x')), capsys) == (
        2,
        'error: no such folder: x\n',
    )


def test_user_error_in_a_loader_worker_is_its_message_alone(capsys):
    assert outcome(lambda argv: list(DataLoader(BadImages(), num_workers=1)), capsys) == (
        2,
        'error: a.png is truncated\nsecond line\n',
    )


@pytest.mark.parametrize(
    ('cfg', 'said'),
    [
        (
            dict(type='LEVIR_CD_Datset'),
            'LEVIR_CD_Datset is not in the mtkd_cd::dataset registry: did you mean '
            "'LEVIR_CD_Dataset'?",
        ),
        (dict(type='Xyz'), 'Xyz is not in the mtkd_cd::dataset registry: check its spelling'),
        (
            dict(type='LEVIR_CD_Dataset', _scope_='mmseg'),
            "it is in scope mtkd_cd: write 'mtkd_cd.LEVIR_CD_Dataset', or default_scope = "
            "'mtkd_cd'",
        ),
        (dict(type='ConcatDataset', nope=1), "unexpected keyword argument 'nope'"),
    ],
)
def test_config_that_names_what_does_not_exist(cfg, said, capsys):
    code, err = outcome(lambda argv: DATASETS.build(cfg), capsys)
    assert code == 2
    assert err.startswith('error: the config cannot be built: ')
    assert said in err


def test_full_disk(capsys):
    code, err = outcome(
        failing(OSError(errno.ENOSPC, 'No space left on device', 'w/best.pth')), capsys
    )
    assert code == 2
    assert 'w/best.pth' in err
    assert 'No space left on device' in err


def test_interrupt(capsys):
    assert outcome(failing(KeyboardInterrupt()), capsys) == (130, 'interrupted\n')


@pytest.mark.parametrize(
    'bug',
    [
        TypeError("f() got an unexpected keyword argument 'x'"),
        KeyError('x'),
        FileNotFoundError(2, 'No such file'),
    ],
)
def test_bug_keeps_its_traceback(bug):
    with pytest.raises(type(bug)):
        run_tool(failing(bug), [])


@pytest.mark.parametrize(('argv', 'strict'), [([], True), (['--trust-checkpoint'], False)])
def test_pickled_code_loads_only_when_trusted(argv, strict, capsys, monkeypatch):
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', raising=False)
    seen = []

    def main(argv):
        parser = argparse.ArgumentParser()
        add_run_arguments(parser)
        assert parser.parse_args(argv).trust_checkpoint is not strict
        seen.append(os.environ.get('TORCH_FORCE_WEIGHTS_ONLY_LOAD') == '1')

    assert outcome(main, capsys, argv) == (0, '')
    load_only_tensors()
    assert seen == [strict]


def test_options_that_are_no_pairs_are_a_usage_error(capsys):
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    add_machine_arguments(parser)
    assert parser.parse_args(
        ['--cfg-options', 'a.b=1', 'c=[1,2]', '--local-rank', '3']
    ).cfg_options == {'a.b': 1, 'c': [1, 2]}
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', 'a.b'])
    assert 'KEY=VALUE' in capsys.readouterr().err
    for value in ("a=[dict(type='PolyLR')]", "a=dict(type='PolyLR', end=4)"):
        with pytest.raises(SystemExit):
            parser.parse_args(['--cfg-options', 'b=1', value])
        assert 'a dict(...) is no value here: write its entries' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', 'a=[f(1, 2), 3]'])
    assert 'put the entry in a config' in capsys.readouterr().err


def test_rules_in_options_are_texts():
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    rule = 'linear(low=0, high=3000)'
    arguments = ['a.radiometry=' + rule, 'b=1', 'c=percentile(2,98)']
    assert parser.parse_args(['--cfg-options', *arguments]).cfg_options == {
        'a.radiometry': rule,
        'b': 1,
        'c': 'percentile(2,98)',
    }


def test_data_arguments_reach_every_split_and_size():
    parser = argparse.ArgumentParser()
    add_data_arguments(parser)
    cfg = load_config(REPO / 'configs' / 'mtkd' / 'fc_ef.py')
    apply_data_arguments(
        cfg,
        parser.parse_args(
            ['--data-root', 'elsewhere', '--dataset-type', 'SYSU_CD_Dataset', '--image-size', '96']
        ),
    )
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert (dataset.data_root, dataset.type) == ('elsewhere', 'SYSU_CD_Dataset')
    sizes = {
        step.type: step.get('crop_size') or step.get('scale')
        for step in cfg.train_dataloader.dataset.pipeline + cfg.test_dataloader.dataset.pipeline
    }
    assert (sizes['MultiImgRandomCrop'], sizes['MultiImgResize']) == ((96, 96), (96, 96))


def test_without_data_arguments_the_config_stays_as_it_is():
    parser = argparse.ArgumentParser()
    add_data_arguments(parser)
    cfg, untouched = (load_config(REPO / 'configs' / 'mtkd' / 'fc_ef.py') for _ in range(2))
    apply_data_arguments(cfg, parser.parse_args([]))
    assert cfg.to_dict() == untouched.to_dict()


def test_names_that_the_terminal_has_no_letters_for_are_escaped(monkeypatch):
    file = io.BytesIO()
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(file, encoding='ascii'))
    with pytest.raises(SystemExit) as ended:
        run_tool(lambda argv: print('map: \u6570\u636e.tif'), [], builds=False)
    assert ended.value.code == 0
    assert file.getvalue().decode() == 'map: \\u6570\\u636e.tif\n'


@pytest.mark.parametrize(('argv', 'at_the_end'), [(None, '700 True'), ([], '700 False')])
def test_short_tools_end_without_a_search_for_garbage_in_a_process_of_their_own(argv, at_the_end):
    code = (
        'import atexit, gc\n'
        'from mtkd_cd.cli.common import run_tool\n'
        'atexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count() > 0))\n'
        f'run_tool(lambda argv: print(gc.get_threshold()[0], gc.get_freeze_count() > 0), {argv},'
        ' builds=False)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    ).stdout
    assert done.splitlines() == ['50000 False', at_the_end]
