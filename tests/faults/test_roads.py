"""One option, every road that it is promised on: views averaged, files that are trusted, metrics of
other packages beside ours, shared memory that is full."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtkd_cd.core import checkpoint
from mtkd_cd.evaluation import load_table
from mtkd_cd.models.tta import ChangeTTAModel

REPO = Path(__file__).parents[2]
RANGES = ('small', 'medium', 'large')
TINY = ('backbone.base_channel=4', 'decode_head.in_channels=4', 'decode_head.channels=4')
pytestmark = pytest.mark.slow


def test_recipe_and_cascade_average_views(tool, recipe_argv, train_argv, tmp_path, monkeypatch):
    views = []
    merge = ChangeTTAModel.merge_preds
    monkeypatch.setattr(
        ChangeTTAModel,
        'merge_preds',
        lambda model, pairs: views.extend(map(len, pairs)) or merge(model, pairs),
    )
    flags = ('--tta', '--strategies', 'origin', 'partition', 'op')
    assert tool('run_mtkd', *recipe_argv(*flags)) == (0, '')
    assert views == [3] * 7 * 2  # origin and cascade, seven pairs each
    work = tmp_path / 'recipe'
    weights = {'origin': work / 'origin' / 'fc_ef' / 'best.pth'} | {
        name: work / 'partition' / 'fc_ef' / name / 'best.pth' for name in RANGES
    }
    config, _, _, *options = train_argv('op')
    options = [
        arg for arg in options if not arg.startswith(('model.', 'train_', 'val_', 'default'))
    ]
    options += [f'model.checkpoints.{name}={path}' for name, path in weights.items()]
    options += [f'model.origin.{entry}' for entry in TINY]
    out = tmp_path / 'op.json'
    flags = ('--tta', '--image-size', 32, '--out', out, '--work-dir', tmp_path / 'test')
    assert tool('test', config, *flags, *options) == (0, '')
    assert views == [3] * 7 * 3
    own, recipes = load_table(out), load_table(work / 'report' / 'fc_ef' / 'op.json')
    assert own.counts.tolist() == recipes.counts.tolist()


@pytest.fixture
def suspicious(tool, train_argv, tmp_path, monkeypatch):
    """A checkpoint that holds a pickled object; trust does not outlast the test."""
    monkeypatch.setattr(checkpoint, '_trusted', False)
    assert tool('train', *train_argv()) == (0, '')
    path = tmp_path / 'ns.pth'
    content = torch.load(tmp_path / 'work' / 'best.pth', weights_only=True)
    torch.save({'state_dict': content['state_dict'], 'args': argparse.Namespace(lr=1)}, path)
    return path


def trusted_only(tool, name, *argv):
    """Refused with the advice that helps, and taken when the advice is followed."""
    checkpoint.load_only_tensors()
    code, err = tool(name, *argv)
    assert code == 2
    assert 'pass --trust-checkpoint' in err
    at = next((index for index, arg in enumerate(argv) if arg == '--cfg-options'), len(argv))
    code, err = tool(name, *argv[:at], '--trust-checkpoint', *argv[at:])
    checkpoint.load_only_tensors()
    assert 'holds pickled objects' not in err
    return code, err


def test_trust_holds_on_every_road(tool, train_argv, suspicious, tmp_path):
    def training(stage, place, *options):
        argv = train_argv(stage, options=options)
        return [str(tmp_path / place) if arg == str(tmp_path / 'work') else arg for arg in argv]

    config, _, _, *options = train_argv()
    test = (config, suspicious, '--work-dir', tmp_path / 'test', *options)
    assert trusted_only(tool, 'test', *test) == (0, '')
    assert trusted_only(tool, 'train', *training('continued', 'a', f'load_from={suspicious}')) == (
        0,
        '',
    )
    teachers = [f'model.checkpoints.{name}={suspicious}' for name in ('student', *RANGES)]
    argv = training('mtkd', 'b', *teachers)
    argv = [arg.replace('model.backbone', 'model.student.backbone') for arg in argv]
    argv = [arg.replace('model.decode_head', 'model.student.decode_head') for arg in argv]
    assert trusted_only(tool, 'train', *argv) == (0, '')
    # A run that was killed after its second step, and whose checkpoint is not of plain values.
    work = tmp_path / 'work'
    record = json.loads((work / 'run.json').read_text())
    (work / 'run.json').write_text(json.dumps(record | {'finished': False}))
    content = torch.load(work / 'iter_2.pth', weights_only=False)
    content['args'] = argparse.Namespace(lr=1)
    content['meta'].pop('digest', None)
    torch.save(content, work / 'iter_2.pth')
    (work / 'iter_4.pth').unlink()
    argv = train_argv('origin', '--resume')
    assert trusted_only(tool, 'train', *argv) == (0, '')
    # A published file in name only, so that it ends in what it is, not in what it holds.
    code, err = trusted_only(tool, 'convert_weights', suspicious, tmp_path / 'out.pth')
    assert code == 2
    assert 'cannot be converted' in err


def test_recipe_with_another_metric_first(tool, recipe_argv, tmp_path):
    """Reports give our scores, not those of the same name of all pixels together."""
    config = tmp_path / 'fc_ef.py'
    config.write_text(
        f"_base_ = '{REPO / 'configs/origin/fc_ef.py'}'\n"
        "val_evaluator = dict(_delete_=True, type='mmseg.IoUMetric', iou_metrics=['mIoU'])\n"
        "test_evaluator = dict(_delete_=True, type='mmseg.IoUMetric', iou_metrics=['mIoU'])\n"
    )
    _, *rest = recipe_argv('--strategies', 'origin')
    assert tool('run_mtkd', config, *rest) == (0, '')
    folder = tmp_path / 'recipe' / 'report' / 'fc_ef'
    told = json.loads((folder / 'report.json').read_text())['metrics']['origin']
    means = load_table(folder / 'origin.json').means()
    assert {name: told[name] for name in means} == pytest.approx(means, abs=1e-4)


_SMALL = 'mount -t tmpfs -o size=6m tmpfs /dev/shm && exec "$@"'


def test_full_shared_memory_ends_the_run(train_argv, tmp_path):
    config, *rest = train_argv(options=('train_dataloader.batch_size=4',))
    loaders = [
        arg for arg in rest if '_dataloader.num_workers' not in arg and 'persistent' not in arg
    ]
    tool = [sys.executable, '-W', 'ignore', '-m', 'mtkd_cd', 'train', config]
    flags = ['--num-workers', '2', '--image-size', '512']
    command = ['unshare', '-m', 'bash', '-c', _SMALL, 'small', *tool, *flags, *loaders]
    probe = ['unshare', '-m', 'bash', '-c', _SMALL, 'small', 'true']
    if os.name == 'nt' or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip('nothing can be mounted here')
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 2
    assert 'Traceback' not in done.stderr
    assert 'Loader workers hand images over in /dev/shm: free it' in done.stderr
    assert not (tmp_path / 'work' / 'run.json').exists()
