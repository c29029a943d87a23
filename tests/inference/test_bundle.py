"""Bundles: what goes in comes out, and whatever was changed is refused."""

import importlib
import json
import shutil
import sys
import zipfile

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import CONFIGS
from mtkd_cd.engine.config import load_config
from mtkd_cd.inference.bundle import Bundle, create_bundle, decode, encode, verify_bundle
from mtkd_cd.inference.inferencer import ChangeInferencer
from mtkd_cd.inference.predictor import init_model
from mtkd_cd.models.conversion import LAYOUTS
from mtkd_cd.registry import MODELS

TINY = {
    'model.backbone.base_channel': 4,
    'model.decode_head.in_channels': 4,
    'model.decode_head.channels': 4,
}


def tiny_config(data=None, **options):
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py', TINY | options)
    if data is not None:
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            cfg[loader].dataset.data_root = str(data)
            cfg[loader].dataset.serialize_data = False
    return cfg


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A file for each of three detectors."""
    folder = tmp_path_factory.mktemp('weights')
    files = {}
    for seed, name in enumerate(('origin', 'small', 'large')):
        torch.manual_seed(seed)
        detector = init_model(tiny_config())
        detector.decode_head.conv_seg.bias.data[1] += 0.2 * seed
        files[name] = folder / f'{name}.pth'
        torch.save(dict(state_dict=detector.state_dict()), files[name])
    return files


@pytest.fixture(scope='module')
def bundle_file(weights, tmp_path_factory):
    out = tmp_path_factory.mktemp('bundle') / 'student.mtkd'
    create_bundle(tiny_config(), weights['origin'], out, validation=False, gsd_m=0.5)
    return out


@pytest.fixture
def pair():
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (48, 80, 3), dtype=np.uint8) for _ in range(2)]


def rewritten(source, target, change):
    """A copy of a bundle whose parts went through ``change(name, data)``; None leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, 'w') as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return target


def test_bundle_predicts_what_config_and_weights_do(bundle_file, weights, pair):
    wanted = ChangeInferencer(tiny_config(), weights['origin'])([pair])[0]
    found = ChangeInferencer(bundle_file)([pair])[0]
    assert np.array_equal(found.change, wanted.change)
    assert np.array_equal(found.probability, wanted.probability)
    assert ChangeInferencer(bundle_file).card.gsd_m == 0.5


def test_golden_pair_is_replayed(bundle_file):
    assert verify_bundle(bundle_file) <= 1e-6


def test_equal_contents_make_equal_files(weights, tmp_path):
    files = []
    for folder in ('one', 'two'):
        files.append(tmp_path / folder / 'student.mtkd')
        create_bundle(tiny_config(), weights['origin'], files[-1], validation=False)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_cascade_is_one_file(weights, tmp_path, pair):
    cfg = tiny_config()
    cascade = Config(
        dict(
            cfg.to_dict(),
            model=dict(
                type='OriginPartitionCascade',
                origin=cfg.model.to_dict(),
                thresholds=(0.1,),
                checkpoints={name: str(path) for name, path in weights.items()},
            ),
        )
    )
    out = tmp_path / 'cascade.mtkd'
    bundle = create_bundle(cascade, None, out, validation=False)
    assert bundle.routing.detectors == ('small', 'large')
    wanted = ChangeInferencer(cascade)([pair, pair[::-1]])
    found = ChangeInferencer(out)([pair, pair[::-1]])
    for ours, theirs in zip(found, wanted):
        assert ours.detector == theirs.detector
        assert np.array_equal(ours.probability, theirs.probability)
    verify_bundle(out)


def test_threshold_and_temperature_come_from_validation(scenes, weights, tmp_path):
    cfg = tiny_config(scenes)
    bundle = create_bundle(cfg, weights['origin'], tmp_path / 'm.mtkd')
    found = bundle.description['calibration']
    assert len(found['curve']) == 101
    assert found['images'] > 0
    assert bundle.card.threshold == bundle.description['threshold']
    assert bundle.card.temperature != 1
    after, before = (found['negative_log_likelihood'][key] for key in ('after', 'before'))
    assert after <= before
    assert 'mIoU' in found['scores']
    assert 'Threshold' in bundle.readme
    verify_bundle(tmp_path / 'm.mtkd')


def test_config_keeps_no_path_and_no_class(bundle_file):
    with zipfile.ZipFile(bundle_file) as archive:
        assert not any(name.endswith(('.pkl', '.pth')) for name in archive.namelist())
        text = archive.read('config.json').decode()
    assert 'load_from' not in text
    assert 'work_dirs' not in text


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda n, d: d[:-1] + bytes([d[-1] ^ 1]) if n.startswith('weights') else d, 'SHA-256'),
        (lambda n, d: None if n == 'README.md' else d, 'other parts than its card lists'),
        (lambda n, d: None if n == 'card.json' else d, 'no bundle of mtkd-cd'),
        (
            lambda n, d: (
                d.replace(b'"schema_version": 1', b'"schema_version": 9') if n == 'card.json' else d
            ),
            'schema version 9',
        ),
        (lambda n, d: b'[1, 2' if n == 'card.json' else d, 'damaged or no bundle'),
    ],
    ids=['weights', 'part', 'card', 'schema', 'text'],
)
def test_changed_bundle_is_refused(change, said, bundle_file, tmp_path):
    with pytest.raises(UserError, match=said):
        Bundle.open(rewritten(bundle_file, tmp_path / 'other.mtkd', change))


def test_file_that_is_no_archive_is_refused(tmp_path):
    path = tmp_path / 'x.mtkd'
    path.write_bytes(b'<html>not found</html>')
    with pytest.raises(UserError, match='damaged or no bundle'):
        Bundle.open(path)
    with pytest.raises(UserError, match='does not exist'):
        Bundle.open(tmp_path / 'y.mtkd')


def test_config_that_would_run_something_is_refused(bundle_file, tmp_path):
    import hashlib

    with zipfile.ZipFile(bundle_file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts['config.json'])
    config['model']['backbone'] = dict(type='os.system', command='touch /tmp/owned')
    parts['config.json'] = json.dumps(config).encode()
    card = json.loads(parts['card.json'])
    card['parts']['config.json'] = hashlib.sha256(parts['config.json']).hexdigest()
    parts['card.json'] = json.dumps(card).encode()
    path = tmp_path / 'evil.mtkd'
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(UserError, match=r"type 'os\.system'.*refused"):
        ChangeInferencer(path)


def test_model_of_ones_own_says_what_to_import(weights, tmp_path, monkeypatch, pair):
    (tmp_path / 'own_parts.py').write_text(
        'from mtkd_cd.models.backbones import FC_EF\n'
        'from mtkd_cd.registry import MODELS\n'
        '@MODELS.register_module()\n'
        'class OwnEncoder(FC_EF):\n'
        '    pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module('own_parts')
    cfg = tiny_config()
    cfg.model.backbone.type = 'OwnEncoder'
    cfg.custom_imports = dict(imports=['mtkd_cd', 'own_parts'])
    path = tmp_path / 'own.mtkd'
    bundle = create_bundle(cfg, weights['origin'], path, validation=False)
    assert bundle.description['imports'] == ['own_parts']
    assert 'own_parts' in bundle.readme
    wanted = ChangeInferencer(path)([pair])[0].probability

    del sys.modules['own_parts'], MODELS.module_dict['OwnEncoder']
    with pytest.raises(UserError, match=r'own\.mtkd .*OwnEncoder.*import own_parts before'):
        ChangeInferencer(path)([pair])
    assert 'own_parts' not in sys.modules  # nothing of the user's is run
    importlib.import_module('own_parts')
    np.testing.assert_array_equal(ChangeInferencer(path)([pair])[0].probability, wanted)
    del sys.modules['own_parts'], MODELS.module_dict['OwnEncoder']


def test_values_survive_the_json():
    value = dict(a=(1, (2.5, None)), b=[dict(c='x', d=True)], e=float('inf'), f={'1': ()})
    assert decode(json.loads(json.dumps(encode(value)))) == value


def test_published_file_needs_no_options_typed(tmp_path, pair):
    options = {'model.backbone.pretrained': False}
    torch.manual_seed(0)
    cfg = load_config(CONFIGS / 'origin' / 'tinycd.py', options)
    cfg.merge_from_dict(dict(LAYOUTS['tinycd'].options))
    detector = init_model(cfg)
    theirs = {
        key.removeprefix('backbone.').replace('_mixing_mask.2.', '_mixing_mask.2._mixing.'): value
        for key, value in detector.state_dict().items()
    }
    torch.save(theirs, tmp_path / 'published.pth')
    plain = load_config(CONFIGS / 'origin' / 'tinycd.py', options)
    out = tmp_path / 'tinycd.mtkd'
    create_bundle(plain, tmp_path / 'published.pth', out, validation=False)
    wanted = ChangeInferencer(detector)([pair])[0]
    assert np.array_equal(ChangeInferencer(out)([pair])[0].probability, wanted.probability)
    again = load_config(CONFIGS / 'origin' / 'tinycd.py', options)
    direct = ChangeInferencer(again, tmp_path / 'published.pth')([pair])[0]
    assert np.array_equal(direct.probability, wanted.probability)
    with pytest.raises(UserError, match="TinyCD authors' checkpoint, which is not the model of"):
        ChangeInferencer(tiny_config(), tmp_path / 'published.pth')


@pytest.mark.parametrize('given', [None, 200])
def test_training_size_is_no_more_than_the_images_have(weights, scenes, tmp_path, given):
    cfg = tiny_config(scenes)
    out = tmp_path / 'm.mtkd'
    bundle = create_bundle(cfg, weights['origin'], out, training_size=given)
    assert bundle.card.training_size == (given or 64)  # the config crops to 512


def test_tool_creates_inspects_and_verifies(tool, weights, tmp_path):
    out = tmp_path / 'm.mtkd'
    options = [f'{key}={value}' for key, value in TINY.items()]
    argv = ['create', CONFIGS / 'origin' / 'fc_ef.py', weights['origin'], '-o', out]
    argv += ['--no-validation', '--gsd', '0.5', '--licence', 'CC0', '--cfg-options', *options]
    code, said = tool('bundle', *argv)
    assert code == 0, said
    assert tool('bundle', *argv)[0] == 2  # it exists
    assert tool('bundle', 'inspect', out)[0] == 0
    assert tool('bundle', 'verify', out)[0] == 0
    shutil.copy(out, tmp_path / 'n.mtkd')
    with (tmp_path / 'n.mtkd').open('r+b') as file:
        file.seek(1000)
        file.write(b'\0' * 64)
    code, said = tool('bundle', 'verify', tmp_path / 'n.mtkd')
    assert code == 2
    assert 'Get it again' in said


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(threshold=7.0), 'threshold=7: a probability from 0 to 1'),
        (dict(training_size=0), 'training_size=0: at least one pixel'),
        (dict(gsd_m=float('nan')), 'gsd_m=nan: metres per pixel are above 0'),
        (dict(out='m.zip'), r'bundle .*m\.zip: its name ends in \.mtkd'),
        (dict(out='file/m.mtkd'), 'file is a file, not a folder'),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_predicted(tmp_path, given, message):
    (tmp_path / 'file').touch()
    out = tmp_path / given.pop('out', 'm.mtkd')
    with pytest.raises(UserError, match=message):
        create_bundle(tmp_path / 'none.py', None, out, **given)
