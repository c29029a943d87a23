import argparse
import errno
import os
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import load_checkpoint
from torch import nn

from mtkd_cd.core import checkpoint
from mtkd_cd.core.checkpoint import (
    load_only_tensors,
    load_weights,
    non_finite,
    read_checkpoint,
    read_weights,
    save_checkpoint,
)
from mtkd_cd.core.errors import UserError


class Marker:
    """A pickled object that leaves a trace when it is built."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.fixture
def linear(tmp_path):
    module = nn.Linear(3, 2)
    path = tmp_path / 'best.pth'
    save_checkpoint(dict(state_dict=module.state_dict(), meta=dict(iter=3)), path)
    return module, path


@pytest.mark.parametrize(
    'wrap',
    [
        lambda s: s,
        lambda s: dict(state_dict=s),
        lambda s: dict(model=s),
        lambda s: dict(model_state_dict=s),
        lambda s: dict(model_G_state_dict=s, optimizer_G_state_dict={}),
        lambda s: {f'module.{k}': v for k, v in s.items()},
        lambda s: {f'_orig_mod.{k}': v for k, v in s.items()},
        lambda s: {f'module._orig_mod.{k}': v for k, v in s.items()},
        lambda s: dict(state_dict={f'model.{k}': v for k, v in s.items()}),
        lambda s: dict(state_dict={f'model._orig_mod.module.{k}': v for k, v in s.items()}),
    ],
)
def test_weights_load_from_every_usual_nesting(linear, tmp_path, wrap):
    module, _ = linear
    torch.save(wrap(module.state_dict()), tmp_path / 'file.pth')
    other = nn.Linear(3, 2)
    load_weights(other, tmp_path / 'file.pth')
    assert torch.equal(other.weight, module.weight)


def test_mmengine_checkpoint_with_its_message_hub_loads_as_tensors_only(tmp_path):
    hub = MessageHub.get_instance('test_checkpoint')
    for value in (1.0, 2.0):
        hub.update_scalar('train/loss', torch.tensor(value))
        hub.update_scalar('train/time', value)
    torch.save(
        dict(
            state_dict=dict(weight=torch.ones(2)), message_hub=hub.state_dict(), meta=dict(iter=1)
        ),
        tmp_path / 'iter_1.pth',
    )
    assert read_weights(tmp_path / 'iter_1.pth')['weight'].tolist() == [1.0, 1.0]


def test_pickled_code_is_refused_and_does_not_run(tmp_path):
    torch.save(dict(state_dict={}, extra=Marker(tmp_path / 'ran')), tmp_path / 'evil.pth')
    with pytest.raises(UserError, match=r'evil.pth holds pickled objects.*--trust-checkpoint'):
        read_checkpoint(tmp_path / 'evil.pth')
    assert not (tmp_path / 'ran').exists()


def test_trusted_file_may_hold_objects(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    torch.save(
        dict(state_dict=dict(a=torch.ones(1)), extra=Marker(tmp_path / 'ran')), tmp_path / 'own.pth'
    )
    assert 'a' in read_weights(tmp_path / 'own.pth', trusted=True)
    assert (tmp_path / 'ran').exists()
    assert os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] == '1'


def test_load_only_tensors_closes_mmengines_fallback(tmp_path, monkeypatch):
    """mmengine retries a refused file with weights_only=False; after load_only_tensors() that is
    refused too."""
    monkeypatch.setattr(checkpoint, '_trusted', checkpoint._trusted)  # is put back
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '')  # likewise
    path, ran = tmp_path / 'evil.pth', tmp_path / 'ran'
    torch.save(dict(state_dict={}, extra=Marker(ran)), path)
    checkpoint.load_only_tensors(False)
    load_checkpoint(nn.Linear(1, 1), str(path))
    assert ran.exists()
    ran.unlink()
    checkpoint.load_only_tensors()
    with pytest.raises(Exception, match=r'[Ww]eights_only'):
        load_checkpoint(nn.Linear(1, 1), str(path))
    assert not ran.exists()


@pytest.mark.parametrize('length', [0, 10, 500])
def test_truncated_file_is_named(linear, length):
    _, path = linear
    with open(path, 'r+b') as file:
        file.truncate(length)
    with pytest.raises(UserError, match=r'best.pth'):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (b'<html>not found</html>', 'a web page'),
        (b'\xef\xbb\xbf\n<!DOCTYPE HTML><title>Sign in</title>', 'a web page'),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', 'a web page'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
        (b'../../.git/annex/objects/X/Y/SHA256-s1--a/b.pth\n', 'git annex get'),
        (b'outs:\n- md5: 1\n', 'dvc pull'),
        (b'{"error": "404"}', 'a JSON text'),
        (b'\x1f\x8b\x08\x00', 'gzip'),
        (b'', 'is empty'),
        (b'P' * 600, 'truncated or not a torch file'),
    ],
)
def test_file_that_is_no_checkpoint_is_called_what_it_is(tmp_path, content, said):
    (tmp_path / 'weights.pth').write_bytes(content)
    with pytest.raises(UserError, match=rf'weights.pth .*{said}'):
        read_checkpoint(tmp_path / 'weights.pth')


def test_archive_of_other_files_is_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / 'weights.pth', 'w') as archive:
        archive.writestr('model/best.pth', b'x')
    with pytest.raises(UserError, match=r'zip archive of other files \(model/best.pth\)'):
        read_checkpoint(tmp_path / 'weights.pth')


@pytest.mark.parametrize('kind', ['ours', 'foreign'])
def test_every_flipped_bit_of_a_checkpoint_is_noticed(linear, tmp_path, kind):
    module, path = linear
    if kind == 'foreign':
        torch.save(dict(state_dict=module.state_dict()), path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entry = next(one for one in archive.infolist() if one.filename.endswith('data/0'))
        name = archive.open(entry).read()
    start = content.index(name)
    for bit in range(0, 8 * len(name), 7):
        flipped = bytearray(content)
        flipped[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError, match='is damaged'):
            load_weights(nn.Linear(3, 2), path)


def test_weights_changed_behind_the_digest_are_noticed_and_dropped_entries_are_not(tmp_path):
    save_checkpoint(
        dict(state_dict=dict(a=torch.ones(2)), optimizer=dict(lr=np.float64(0.1))), tmp_path / 'a'
    )
    content = read_checkpoint(tmp_path / 'a')
    del content['optimizer']
    torch.save(content, tmp_path / 'b')
    assert read_weights(tmp_path / 'b')['a'].tolist() == [1, 1]
    content['state_dict']['a'][1] = 1.5
    torch.save(content, tmp_path / 'c')
    with pytest.raises(UserError, match='does not fit the digest'):
        read_weights(tmp_path / 'c')


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_weights_that_are_no_numbers_are_neither_read_nor_written(linear, tmp_path, value):
    module, _ = linear
    weights = {**module.state_dict(), 'attention_mask': torch.tensor(-float('inf'))}
    weights['weight'] = weights['weight'].clone()
    weights['weight'][1, 2] = value
    with pytest.raises(UserError, match='weight are no finite numbers'):
        save_checkpoint(dict(state_dict=weights), tmp_path / 'own.pth')
    assert not (tmp_path / 'own.pth').exists()
    torch.save(weights, tmp_path / 'foreign.pth')
    with pytest.raises(UserError, match=r'no finite numbers \(weight\): .* diverged'):
        read_weights(tmp_path / 'foreign.pth')


@pytest.mark.parametrize('dtype', [torch.int8, torch.bool, torch.int64])
def test_integers_are_no_weights(linear, tmp_path, dtype):
    module, _ = linear
    weights = {key: value.to(dtype) for key, value in module.state_dict().items()}
    torch.save(weights, tmp_path / 'quantised.pth')
    with pytest.raises(UserError, match=r'2 keys with integers .*weight ' + str(dtype)[6:]):
        load_weights(module, tmp_path / 'quantised.pth')


def test_reading_leaves_the_allowed_globals_as_they_are(linear):
    load_only_tensors()
    before = torch.serialization.get_safe_globals()
    read_checkpoint(linear[1])
    assert set(torch.serialization.get_safe_globals()) == set(before)
    assert before


def test_finite_weights_whose_sum_overflows_are_in_order():
    large = torch.full((4,), torch.finfo(torch.float32).max)
    infinite = torch.tensor([float('inf'), float('-inf'), 1.0])
    half = torch.full((4,), 6e4, dtype=torch.float16)
    weights = {'large': large, 'infinite': infinite, 'half': half, 'mask': infinite}
    assert non_finite(weights) == ['infinite']
    assert non_finite({'large': large, 'count': torch.ones(1, dtype=torch.long)}) == []


@pytest.mark.parametrize('dtype', [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_8_bits_are_looked_at(dtype):
    ones = torch.ones(3).to(dtype)
    assert non_finite({'ones': ones, 'nan': torch.tensor([1, float('nan')]).to(dtype)}) == ['nan']


def test_trust_is_one_setting_for_all_readers(linear, tmp_path, monkeypatch):
    module, _ = linear
    path = tmp_path / 'args.pth'
    torch.save(dict(state_dict=module.state_dict(), args=argparse.Namespace(lr=1)), path)
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    try:
        load_only_tensors(False)
        load_weights(nn.Linear(3, 2), path)
        with pytest.raises(UserError, match='--trust-checkpoint'):
            load_weights(nn.Linear(3, 2), path, trusted=False)
    finally:
        load_only_tensors()
    with pytest.raises(UserError, match='--trust-checkpoint'):
        load_weights(nn.Linear(3, 2), path)


def test_disk_that_is_full_when_torch_closes_its_archive_is_the_error(tmp_path, monkeypatch):
    def full(content, file):
        try:
            raise OSError(errno.ENOSPC, 'No space left on device')
        except OSError:
            raise RuntimeError('[enforce fail at inline_container.cc:862]') from None

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(OSError, match='No space left'):
        save_checkpoint(dict(state_dict={}), tmp_path / 'best.pth')
    assert list(tmp_path.iterdir()) == []


def test_file_without_weights_says_what_it_holds(tmp_path):
    torch.save(dict(meta=dict(a=1)), tmp_path / 'meta.pth')
    with pytest.raises(UserError, match='holds no weights: its entries are meta'):
        read_weights(tmp_path / 'meta.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(UserError, match='holds a list'):
        read_checkpoint(tmp_path / 'list.pth')


def test_weights_of_another_model_list_the_keys_and_leave_the_module_alone(linear):
    _, path = linear
    other = nn.Sequential(nn.Linear(3, 2))
    before = other[0].weight.clone()
    with pytest.raises(
        UserError,
        match=r'2 keys missing in the file: 0.weight, 0.bias; '
        r'2 keys the model does not have: weight, bias',
    ):
        load_weights(other, path)
    with pytest.raises(UserError, match=r'weight \(2, 3\) in the file, \(2, 4\) in the model'):
        load_weights(nn.Linear(4, 2), path)
    assert torch.equal(other[0].weight, before)


def test_batch_norm_counters_may_be_missing(tmp_path):
    norm = nn.BatchNorm2d(2)
    torch.save(
        {key: value for key, value in norm.state_dict().items() if 'num_batches' not in key},
        tmp_path / 'old.pth',
    )
    load_weights(nn.BatchNorm2d(2), tmp_path / 'old.pth')


def test_failed_save_leaves_the_previous_checkpoint(linear, monkeypatch):
    _, path = linear
    before = path.read_bytes()

    def full_disk(content, file):
        file.write(b'half a checkpoint')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full_disk)
    with pytest.raises(OSError, match='No space left'):
        save_checkpoint(dict(state_dict={}), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ['best.pth']
