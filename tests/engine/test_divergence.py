"""A training that diverges ends with a line; weights that are no numbers go nowhere."""

import pytest
import torch

from mtkd_cd.core.checkpoint import read_checkpoint, read_weights


@pytest.mark.parametrize('lr', ['1e30', '1e38'])
@pytest.mark.parametrize('stage', ['origin', 'partition'])
def test_divergence_stops_the_run_and_keeps_nothing_of_it(tool, train_argv, tmp_path, lr, stage):
    flags = ['--partition', 'small'] if stage == 'partition' else []
    options = (f'optim_wrapper.optimizer.lr={lr}', 'param_scheduler=[]')
    code, err = tool('train', *train_argv(stage, *flags, options=options))
    assert code == 2
    assert err.startswith('error: training diverged at iteration ')
    assert 'finite' in err
    assert 'Lower the learning rate (optim_wrapper.optimizer.lr is ' in err
    assert err.count('\n') == 1
    for path in (tmp_path / 'work').glob('*.pth'):
        assert all(value.isfinite().all() for value in read_weights(path).values())


def test_run_goes_on_from_before_it_diverged(tool, train_argv, tmp_path):
    work = tmp_path / 'work'
    assert tool('train', *train_argv()) == (0, '')
    path = work / 'iter_4.pth'
    content = read_checkpoint(path)
    next(iter(content['state_dict'].values())).fill_(float('nan'))
    del content['meta']['digest']
    torch.save(content, path)
    (work / 'best.pth').unlink()
    record = (work / 'run.json').read_text()
    (work / 'run.json').write_text(record.replace('"finished": true', '"finished": false'))
    assert tool('train', *train_argv('origin', '--resume')) == (0, '')
    assert all(value.isfinite().all() for value in read_weights(path).values())


@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('optim_wrapper.optimizer.lr', 'nan'),
        ('optim_wrapper.optimizer.lr', 'inf'),
        ('optim_wrapper.optimizer.lr', '-0.1'),
        ('optim_wrapper.optimizer.weight_decay', 'nan'),
    ],
)
def test_settings_that_are_no_numbers_are_refused(tool, train_argv, tmp_path, option, value):
    # `nan` is text to a command line; a config writes float('nan').
    config = tmp_path / 'config.py'
    argv = train_argv()
    entry = f"float('{value}')"
    for name in reversed(option.split('.')):
        entry = f'dict({name}={entry})'
    config.write_text(f"_base_ = '{argv[0]}'\n{entry[5:-1]}\n")
    code, err = tool('train', config, *argv[1:])
    assert code == 2
    assert f'{option}={float(value)}' in err
    assert not (tmp_path / 'work').exists()
