"""Configs of every family, written as Open-CD's users write them, under our tools."""

import shutil

import cv2
import numpy as np
import pytest

FAMILIES = [
    'fc_ef',
    'fc_siam_diff',
    'stanet_r18',
    'ifn_vgg16',
    'snunet_c16',
    'bit_r18',
    'changestar_farseg_r18',
    'changeformer_mitb0',
    'tinycd',
    'hanet',
    'changer_mitb0',
    'lightcdnet_s',
    'cgnet_vgg16',
    'ban_bit',
    'ttp_small',
]
# The loop does not depend on the family.
IN_EPOCHS = ('fc_ef', 'changer_mitb0')
# What a user types who has no network and no Open-CD.
OFFLINE = ('default_scope=mtkd_cd', 'model.pretrained=None')
_NO_WEIGHTS = {
    'tinycd': ('model.backbone.pretrained=False',),
    'ifn_vgg16': ('model.backbone.pretrained=False',),
    'cgnet_vgg16': ('model.backbone.pretrained=False',),
    'changestar_farseg_r18': ('model.backbone.init_cfg=None',),
}


def options(name: str) -> list[str]:
    return ['--cfg-options', *OFFLINE, *_NO_WEIGHTS.get(name, ())]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'epochs'),
    [*((name, False) for name in FAMILIES), *((name, True) for name in IN_EPOCHS)],
)
def test_config_trains_two_steps_and_is_tested(name, epochs, write_config, tool, tmp_path):
    path = write_config(name, epochs=epochs)
    work = tmp_path / 'work'
    code, said = tool('train', path, '--work-dir', work, *options(name))
    assert code == 0, said
    best = list(work.glob('best*.pth'))
    assert best, sorted(file.name for file in work.iterdir())
    code, said = tool('test', path, best[0], '--work-dir', tmp_path / 'test', *options(name))
    assert code == 0, said
    shutil.rmtree(work)


@pytest.mark.slow
def test_pictures_are_drawn_for_every_size(write_config, tool, tmp_path):
    path = write_config('fc_ef', lines='default_hooks = dict(visualization=dict(draw=True))')
    work = tmp_path / 'work'
    assert tool('train', path, '--work-dir', work, *options('fc_ef'))[0] == 0
    code, said = tool(
        'test', path, work / 'best.pth', '--work-dir', tmp_path / 'test', *options('fc_ef')
    )
    assert code == 0, said
    masks = list((tmp_path / 'test').rglob('vis_image/prediction/*.png'))
    assert len(masks) == 7
    mask = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (64, 64)
    assert set(np.unique(mask)) <= {0, 255}


def test_scope_of_a_toolbox_that_is_not_installed_is_explained(write_config, tool, tmp_path):
    code, said = tool('train', write_config('fc_ef'), '--work-dir', tmp_path / 'work')
    assert code == 2
    assert "default_scope='opencd'" in said
    assert 'default_scope=mtkd_cd' in said
