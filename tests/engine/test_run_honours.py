"""Whatever hooks, loops, metrics and data a config has: they are honoured, or refused at once."""

import json
import shutil
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.hooks import Hook

from mtkd_cd.core.checkpoint import read_checkpoint, read_weights
from mtkd_cd.models.tta import ChangeTTAModel
from mtkd_cd.registry import HOOKS


@HOOKS.register_module()
class ShiftedValidationHook(Hook):
    """Validates other weights than it trains, early to swap them in and to swap them back."""

    priority = 'VERY_HIGH'

    def before_val_epoch(self, runner):
        self._shift(runner, 1)

    def after_val_epoch(self, runner, metrics=None):
        self._shift(runner, -1)

    def _shift(self, runner, step):
        with torch.no_grad():
            next(runner.model.parameters()).add_(step)


@pytest.fixture
def derived(train_argv, tmp_path):
    """``derived(text, *flags, **kwargs)``: as ``train_argv``, with a config of a few lines more."""

    def argv(text, *flags, **kwargs):
        plain = train_argv('origin', *flags, **kwargs)
        config = tmp_path / 'derived.py'
        config.write_text(f"_base_ = '{plain[0]}'\n{text}\n")
        return [str(config), *plain[1:]]

    return argv


def interrupt(work: Path, *lost: str) -> None:
    """As if the run had been killed before it wrote these."""
    record = json.loads((work / 'run.json').read_text())
    (work / 'run.json').write_text(json.dumps(record | dict(finished=False)))
    for name in (*lost, 'best.pth'):
        (work / name).unlink()


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


BEST = "dict(type='BestWeightsHook', metric='mIoU')"
LAST_ALONE = ('train_cfg.val_interval=4', 'optim_wrapper.optimizer.lr=0.01')


def test_best_weights_with_averaging_are_the_averages(tool, derived, tmp_path):
    hooks = f"custom_hooks = [{BEST}, dict(type='EMAHook', momentum=0.1)]"
    assert tool('train', *derived(hooks, options=LAST_ALONE)) == (0, '')
    checkpoint = read_checkpoint(tmp_path / 'work' / 'iter_4.pth', trusted=True)
    best = read_weights(tmp_path / 'work' / 'best.pth')
    assert equal(best, dict(checkpoint['state_dict']))  # mmengine puts the averages there
    assert equal(best, read_weights(tmp_path / 'work' / 'iter_4.pth'))
    name = next(iter(best))
    assert not torch.equal(best[name], checkpoint['ema_state_dict'][f'module.{name}'])


def test_best_weights_with_any_hook_that_swaps_are_those_validated(tool, derived, tmp_path):
    hooks = f"custom_hooks = [dict(type='ShiftedValidationHook'), {BEST}]"
    assert tool('train', *derived(hooks, options=LAST_ALONE)) == (0, '')
    best, last = (read_weights(tmp_path / 'work' / f'{name}.pth') for name in ('best', 'iter_4'))
    name = next(iter(best))
    torch.testing.assert_close(best[name], last[name] + 1)


EPOCHS = """
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=3, val_interval=1)
train_dataloader = dict(sampler=dict(type='DefaultSampler', shuffle=True), batch_size=6)
param_scheduler = []
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1, max_keep_ckpts=9{more}))
log_processor = dict(by_epoch=True)
"""


@pytest.mark.parametrize(
    ('more', 'places'),
    [
        ('', ['work/epoch_{}.pth']),
        (", filename_tmpl='step-{}.pth'", ['work/step-{}.pth']),
        (", out_dir='{tmp_path}/elsewhere'", ['elsewhere/work/epoch_{}.pth']),
    ],
)
def test_loop_by_epochs_is_resumed_whatever_its_checkpoints_are_called(
    tool, derived, tmp_path, more, places
):
    text = EPOCHS.replace('{more}', more.replace('{tmp_path}', str(tmp_path)))
    argv = derived(text, '--resume')
    # What concerns iterations alone has no place in such a config.
    argv = [arg for arg in argv if 'iters=' not in arg and 'interval=' not in arg]
    argv = [arg for arg in argv if 'batch_size' not in arg and 'log_level' not in arg]
    assert tool('train', *argv)[0] == 0
    work = tmp_path / 'work'
    last = tmp_path / places[0].format(3)
    assert last.is_file()
    last.unlink()
    interrupt(work)
    code, err = tool('train', *[arg for arg in argv if arg != '--resume'])
    assert code == 2
    assert '--resume' in err
    assert tool('train', *argv)[0] == 0
    log = max(work.glob('*/*.log')).read_text()
    assert 'resumed epoch: 2' in log
    assert 'not exactly the uninterrupted: EpochBasedTrainLoop' in log


def test_seed_that_is_left_open_is_drawn_once(tool, train_argv, tmp_path):
    argv = train_argv('origin', '--resume', options=('randomness.seed=None',))
    assert tool('train', *argv) == (0, '')
    work = tmp_path / 'work'
    whole = read_weights(work / 'iter_4.pth')
    seed = json.loads((work / 'run.json').read_text())['seed']
    interrupt(work, 'iter_4.pth')
    assert tool('train', *argv) == (0, '')
    assert json.loads((work / 'run.json').read_text())['seed'] == seed
    assert equal(read_weights(work / 'iter_4.pth'), whole)


OPENCD = """
custom_hooks = []
default_hooks = dict(checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False,
                                     interval=2, save_best='mIoU'))
val_evaluator = dict(_delete_=True, type='mmseg.IoUMetric', iou_metrics=['mFscore', 'mIoU'])
test_evaluator = dict(_delete_=True, type='mmseg.IoUMetric', iou_metrics=['mFscore', 'mIoU'])
"""


def test_config_in_the_form_of_opencd_trains_resumes_and_gives_a_table(tool, derived, tmp_path):
    argv = derived(OPENCD, '--resume')
    assert tool('train', *argv) == (0, '')
    work = tmp_path / 'work'
    whole = read_weights(work / 'iter_4.pth')
    interrupt(work, 'iter_4.pth')
    assert tool('train', *argv) == (0, '')
    assert equal(read_weights(work / 'iter_4.pth'), whole)
    config, _, _, _, *options = argv
    out = tmp_path / 'table.csv'
    test = (config, work / 'best.pth', '--work-dir', tmp_path / 'test', '--out', out, *options)
    code, err = tool('test', *test)
    assert (code, err) == (0, '')
    assert len(out.read_text().splitlines()) == 1 + 7


def test_metric_that_nothing_reports_is_refused_before_the_first_iteration(tool, derived, tmp_path):
    code, err = tool('train', *derived(OPENCD.replace("save_best='mIoU'", "save_best='mIuO'")))
    assert code == 2
    assert "save_best='mIuO'" in err
    assert 'mIoU' in err
    assert not (tmp_path / 'work').exists()


def test_optimiser_that_nobody_knows_is_named(tool, train_argv, tmp_path):
    code, err = tool('train', *train_argv(options=('optim_wrapper.optimizer.type=AdmW',)))
    assert code == 2
    assert "optim_wrapper.optimizer.type='AdmW'" in err
    assert 'AdamW' in err
    assert not (tmp_path / 'work').exists()


def test_failed_start_leaves_the_work_dir_free(tool, train_argv):
    # Known when the model is built: after the settings were checked, before the first step.
    code, _ = tool('train', *train_argv(options=('model.backbone.base_chanel=3',)))
    assert code == 2
    assert tool('train', *train_argv()) == (0, '')


def test_workers_are_switched_off_with_what_needs_them(tool, train_argv):
    options = ('train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=True')
    assert tool('train', *train_argv(options=options)) == (0, '')


@pytest.mark.parametrize(
    'content',
    [
        '[]', '1', '"x"', '{"settings": []}', '{"finished": "yes"}', '[' * 3000, '{"seed": "x"}',
        '{"settings": {}, "iter": {}}', '\0', '',
    ],
)  # fmt: skip
def test_damaged_record_is_a_line(tool, train_argv, tmp_path, content):
    work = tmp_path / 'work'
    work.mkdir()
    torch.save(dict(state_dict={}), work / 'iter_2.pth')
    (work / 'run.json').write_text(content)
    code, err = tool('train', *train_argv('origin', '--resume'))
    assert code == 2
    assert 'run.json' in err
    assert 'damaged' in err


@pytest.mark.parametrize('how', ['no folder', 'no evaluator', 'views'])
def test_pairs_without_labels_are_predicted(tool, derived, train_argv, own_scenes, tmp_path, how):
    text = 'test_evaluator = []' if how == 'no evaluator' else ''
    shutil.rmtree(own_scenes / 'test' / 'label')
    assert tool('train', *train_argv()) == (0, '')
    config, _, _, *options = derived(text, data=own_scenes)
    flags = ['--tta'] if how == 'views' else []
    test = (config, tmp_path / 'work' / 'best.pth', '--work-dir', tmp_path / 'test', *flags)
    code, err = tool('test', *test, *options)
    assert code == 2
    assert '--show-dir' in err
    show = tmp_path / 'show'
    assert tool('test', *test, '--show-dir', show, *options) == (0, '')
    masks = sorted((show / 'prediction').glob('*.png'))
    assert len(masks) == 7
    assert cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED).shape == (64, 64)
    assert not (show / 'label').exists()


def test_views_are_averaged_into_table_and_pictures(tool, train_argv, tmp_path, monkeypatch):
    seen = []
    merge = ChangeTTAModel.merge_preds
    monkeypatch.setattr(
        ChangeTTAModel,
        'merge_preds',
        lambda model, pairs: seen.append([len(views) for views in pairs]) or merge(model, pairs),
    )
    assert tool('train', *train_argv()) == (0, '')
    config, _, _, *options = train_argv()
    best, out = tmp_path / 'work' / 'best.pth', tmp_path / 'views.csv'
    test = (config, best, '--work-dir', tmp_path / 'test', '--out', out, '--tta', *options)
    assert tool('test', *test) == (0, '')
    assert seen == [[3]] * 7
    assert len(out.read_text().splitlines()) == 1 + 7
