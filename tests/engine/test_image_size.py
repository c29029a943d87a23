"""The size at which a config trains and tests."""

from pathlib import Path

import pytest

from mtkd_cd.engine.config import load_config
from mtkd_cd.engine.image_size import describe_scale, set_crop_size, set_image_size

CONFIGS = Path(__file__).parents[2] / 'configs'


LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def load(stage, options=None):
    return load_config(CONFIGS / stage / 'fc_ef.py', options)


def steps(cfg, loader, name):
    dataset = cfg[loader].dataset
    return [step for step in dataset.get('dataset', dataset).pipeline if name in step.type]


@pytest.mark.parametrize('stage', ['origin', 'partition'])
def test_images_keep_their_resolution_unless_asked(stage):
    cfg = load(stage)
    assert not any(steps(cfg, loader, 'Resize') for loader in LOADERS)
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(512, 512), stride=(384, 384))
    assert 'native resolution' in describe_scale(cfg)
    assert '512 x 512' in describe_scale(cfg)


def test_crop_size_is_that_of_crops_and_windows():
    cfg = load('mtkd')
    set_crop_size(cfg, 64)
    assert steps(cfg, 'train_dataloader', 'Crop')[0].crop_size == (64, 64)
    assert not any(steps(cfg, loader, 'Resize') for loader in LOADERS)
    assert cfg.model.student.test_cfg == dict(mode='slide', crop_size=(64, 64), stride=(48, 48))


def test_image_size_resizes_images_of_training_and_tests_alike():
    cfg = load('partition')
    set_image_size(cfg, 96)
    assert [steps(cfg, loader, 'Resize')[0].scale for loader in LOADERS] == [(96, 96)] * 3
    assert steps(cfg, 'train_dataloader', 'Crop')[0].crop_size == (96, 96)
    assert cfg.model.test_cfg.crop_size == (96, 96)
    # Predictions are compared with a test's label at its own size; a training label goes along.
    order = [step.type for step in cfg.test_dataloader.dataset.pipeline]
    assert order.index('MultiImgResize') < order.index('MultiImgLoadAnnotations')
    order = [step.type for step in cfg.train_dataloader.dataset.dataset.pipeline]
    assert order.index('MultiImgResize') > order.index('MultiImgLoadAnnotations')
    assert 'resized to (96, 96)' in describe_scale(cfg)


def test_training_label_is_resized_with_its_image_where_nothing_is_cropped():
    cfg = load('origin')
    del cfg.train_dataloader.dataset.pipeline[3]
    set_image_size(cfg, 96)
    for loader, comes_after in (('train_dataloader', True), ('test_dataloader', False)):
        order = [step.type for step in cfg[loader].dataset.pipeline]
        after = order.index('MultiImgResize') > order.index('MultiImgLoadAnnotations')
        assert after == comes_after


def test_window_of_resized_images_is_theirs():
    cfg = load('partition')
    set_image_size(cfg, 96)
    set_image_size(cfg, 80)
    set_crop_size(cfg, 48)
    assert [len(steps(cfg, loader, 'Resize')) for loader in LOADERS] == [1] * 3
    assert steps(cfg, 'train_dataloader', 'Crop')[0].crop_size == (48, 48)
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(80, 80), stride=(60, 60))
