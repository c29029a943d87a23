"""Settings that nothing can be trained or tested with: a line that names the entry, before anything
is written."""

import pytest

REFUSED = {
    'optim_wrapper.optimizer.lr=abc': "optim_wrapper.optimizer.lr='abc': a number",
    'optim_wrapper.optimizer.lr=None': 'optim_wrapper.optimizer.lr=None: a number',
    'optim_wrapper.optimizer.lr=nan': 'optim_wrapper.optimizer.lr=nan: a finite number',
    'train_dataloader.batch_size=0': 'train_dataloader.batch_size=0: a whole number from 1 up',
    'train_dataloader.batch_size=four': "train_dataloader.batch_size='four'",
    'val_dataloader.num_workers=-1': 'val_dataloader.num_workers=-1: a whole number from 0 up',
    'train_cfg.max_iters=0': 'train_cfg.max_iters=0: a whole number from 1 up',
    'train_cfg.max_iters=many': "train_cfg.max_iters='many'",
    'train_cfg.val_interval=0': 'train_cfg.val_interval=0',
    'default_hooks.logger.interval=0': 'default_hooks.logger.interval=0',
    'randomness.seed=-1': 'randomness.seed=-1: a whole number from 0 to 4294967295',
    'randomness.seed=abc': "randomness.seed='abc'",
    'train_dataloader=None': 'has no train_dataloader: give one that has',
}


@pytest.mark.parametrize('option', REFUSED)
def test_refused_in_a_training(tool, train_argv, tmp_path, option):
    argv = [arg for arg in train_argv() if not option.startswith(arg.split('.')[0] + '=')]
    code, err = tool('train', *argv, option)
    assert code == 2
    assert err.startswith('error: ')
    assert REFUSED[option] in err
    assert err.count('\n') == 1
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize('name', ['train', 'test'])
def test_config_of_nothing(tool, tmp_path, name):
    (tmp_path / 'empty.py').write_text('')
    code, err = tool(name, tmp_path / 'empty.py', '--work-dir', tmp_path / 'work')
    assert code == 2
    assert err.startswith(f'error: config {tmp_path / "empty.py"} has no model, ')


def test_comma_in_a_path_is_part_of_it(tool, train_argv):
    argv = train_argv(options=('train_dataloader.dataset.data_root=da,ta',))
    code, err = tool('train', *argv)
    assert code == 2
    assert err.startswith('error: data_root da,ta does not exist')
