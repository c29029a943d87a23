"""What users get wrong, through the real tools: one clear message, exit code 2, no traceback,
nothing left behind."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mtkd_cd.core.checkpoint import read_checkpoint
from mtkd_cd.engine.config import load_config
from mtkd_cd.inference.predictor import build_plain


def first(root: Path, folder: str) -> Path:
    return min((root / 'train' / folder).iterdir())


def remove_data(root):
    return root.parent / 'nowhere'


def empty_folders(root):
    for folder in ('A', 'B', 'label'):
        for path in (root / 'train' / folder).iterdir():
            path.unlink()
    return root


def lose_date_b(root):
    first(root, 'B').unlink()
    return root


def shrink_label(root):
    cv2.imwrite(str(first(root, 'label')), np.zeros((48, 64), np.uint8))
    return root


def truncate_image(root):
    path = first(root, 'A')
    path.write_bytes(path.read_bytes()[:200])
    return root


def paint_label_gray(root):
    path = first(root, 'label')
    cv2.imwrite(str(path), np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) % 7)
    return root


def add_channel(root):
    cv2.imwrite(str(first(root, 'A')), np.zeros((64, 64, 4), np.uint8))
    return root


@pytest.mark.parametrize(
    ('damage', 'said'),
    [
        (remove_data, ['nowhere', 'does not exist']),
        (empty_folders, ['train/A']),
        (lose_date_b, ['{first}', 'B']),
        (shrink_label, ['{first}', '64', '48']),
        (truncate_image, ['{first}']),
        (paint_label_gray, ['{first}', '0']),
        (add_channel, ['{first}', '4']),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_bad_data(damage, said, own_scenes, tool, train_argv, tmp_path):
    name = first(own_scenes, 'A').name
    # So many steps that every image is read; of those before the bad one, whole checkpoints may be
    # left.
    code, err = tool(
        'train', *train_argv('origin', data=damage(own_scenes), options=('train_cfg.max_iters=12',))
    )
    assert code == 2
    assert err.startswith('error: ')
    assert 'Traceback' not in err
    for text in said:
        assert text.format(first=name) in err
    for path in (tmp_path / 'work').glob('*.pth'):
        read_checkpoint(path)


def student_argv(train_argv, teacher: Path, good: Path) -> list[str]:
    """A student whose teacher for small changes is ``teacher``."""
    options = [f'model.checkpoints.{name}={good}' for name in ('student', 'medium', 'large')] + [
        f'model.checkpoints.small={teacher}'
    ]
    argv = train_argv('mtkd', options=tuple(options))
    return [
        arg.replace('model.backbone', 'model.student.backbone').replace(
            'model.decode_head', 'model.student.decode_head'
        )
        for arg in argv
    ]


class Payload:
    """Runs code when unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code ran')",)


def missing(path, weights):
    pass


def corrupt(path, weights):
    torch.save(dict(state_dict=weights), path)
    path.write_bytes(path.read_bytes()[:-500])


def of_another_model(path, weights):
    torch.save(
        dict(state_dict={key.replace('conv11', 'conv99'): value for key, value in weights.items()}),
        path,
    )


def with_code(path, weights):
    torch.save(dict(state_dict=weights, meta=Payload()), path)


def bare_pickle(path, weights):
    path.write_bytes(pickle.dumps(Payload()))


@pytest.mark.parametrize(
    ('damage', 'said'),
    [
        (missing, ['does not exist']),
        (corrupt, ['cannot be read']),
        (of_another_model, ['another model', 'conv11', 'conv99']),
        (with_code, ['could run code', '--trust-checkpoint']),
        (bare_pickle, []),
    ],
)
def test_bad_teacher(damage, said, tool, train_argv, tmp_path):
    options = {
        'model.backbone.base_channel': 4,
        'model.decode_head.in_channels': 4,
        'model.decode_head.channels': 4,
    }
    cfg = load_config(train_argv()[0], options)
    weights = build_plain(cfg, cfg.model).state_dict()
    good, teacher = tmp_path / 'good.pth', tmp_path / 'teacher.pth'
    torch.save(dict(state_dict=weights), good)
    damage(teacher, weights)
    code, err = tool('train', *student_argv(train_argv, teacher, good))
    assert code == 2
    assert err.startswith('error: ')
    assert 'Traceback' not in err
    for text in ('teacher.pth', *said):
        assert text in err
    assert not list((tmp_path / 'work').glob('*.pth'))


@pytest.mark.parametrize(
    ('name', 'flags', 'said'),
    [
        ('train', ['--partition', 'tiny'], "unknown CAR range 'tiny'"),
        ('run_mtkd', ['--thresholds', '0.2', '0.05'], 'increasing order'),
        ('run_mtkd', ['--thresholds', '1.5'], 'between 0 and 1'),
        ('run_mtkd', ['--thresholds', '0.05', '0.99'], 'CAR > 0.99'),
        ('run_mtkd', ['--launcher', 'pytorch'], 'torchrun'),
    ],
)
def test_bad_arguments(name, flags, said, tool, train_argv, recipe_argv, tmp_path):
    argv = (
        train_argv('partition', *flags)
        if name == 'train'
        else recipe_argv(*flags, '--stages', 'partition')
    )
    code, err = tool(name, *argv)
    assert code == 2
    assert err.startswith('error: ')
    assert said in err
    assert 'Traceback' not in err
    assert not list(tmp_path.rglob('*.pth'))


def test_unknown_model_suggests_the_closest(tool):
    code, err = tool('run_mtkd', 'chnger_mitb0')
    assert (code, err) == (
        2,
        "error: unknown model 'chnger_mitb0': did you mean 'changer_mitb0'?\n",
    )


def test_cascade_is_not_trained(tool, train_argv):
    code, err = tool('train', train_argv()[0].replace('origin', 'op'))
    assert code == 2
    assert 'a cascade is tested' in err


def test_testing_what_is_not_trained_names_the_command(tool, train_argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, err = tool('test', train_argv()[0])
    assert code == 2
    assert 'work_dirs/origin/fc_ef/best.pth' in err
    assert 'mtkd-cd train configs/origin/fc_ef.py' in err
    code, err = tool('test', train_argv()[0].replace('origin', 'op'))
    assert code == 2
    assert 'mtkd-cd train configs/origin/fc_ef.py' in err
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_of_another_model_is_not_tested(tool, train_argv, tmp_path):
    torch.save(dict(state_dict={'conv.weight': torch.zeros(1)}), tmp_path / 'other.pth')
    config, *options = train_argv()
    code, err = tool('test', config, tmp_path / 'other.pth', *options)
    assert code == 2
    assert 'another model' in err
    assert 'conv.weight' in err
