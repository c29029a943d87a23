"""Open-CD's MTKD configs, rewritten."""

import pytest
from mmengine.config import Config

from mtkd_cd.core.errors import UserError
from mtkd_cd.opencd.migrate import migrate_config
from mtkd_cd.registry import MODELS

STEP_3 = """
model = dict(
    type='{kind}',
    distill_loss=dict(
        type='{loss}', temperature=2.0, loss_weight=0.0, pixel_weight=0.005
    ),
    init_cfg=dict(type='Pretrained', checkpoint='origin.pth'),
    init_cfg_t_l=dict(type='Pretrained', checkpoint='l.pth'),
    init_cfg_t_s=dict(type='Pretrained', checkpoint='s.pth'),
"""
MEDIUM = "    init_cfg_t_m=dict(type='Pretrained', checkpoint='m.pth'),\n"


def step_3(kind: str, loss: str = 'DistillLossWithPixel', medium: bool = True) -> str:
    return STEP_3.format(kind=kind, loss=loss) + (MEDIUM if medium else '') + ')\n'


@pytest.mark.parametrize(
    ('kind', 'model', 'detector'),
    [
        ('DistillDIEncoderDecoder', 'changer_mitb0', 'DIEncoderDecoder'),
        ('DistillDIEncoderDecoder_S', 'snunet_c16', 'DIEncoderDecoder'),
        ('DistillSiamEncoderDecoder', 'bit_r18', 'SiamEncoderDecoder'),
        ('DistillSiamEncoderDecoder_ChangeStar', 'changestar_farseg_r18', 'SiamEncoderDecoder'),
        ('DistillBAN', 'ban_vitl14_mitb2', 'BAN'),
        ('DistillTimeTravellingPixels', 'ttp_vitsam_l', 'TimeTravellingPixels'),
    ],
)
def test_distilling_class_becomes_a_distiller_round_its_detector(
    kind, model, detector, write_config, opencd_models
):
    loss = 'DistillLossWithPixel_ChangeStar' if 'ChangeStar' in kind else 'DistillLossWithPixel'
    migration = migrate_config(write_config(model, lines=step_3(kind, loss)))
    new = migration.cfg.model
    assert (new.type, new.student.type) == ('MultiTeacherDistiller', detector)
    assert new.thresholds == (0.05, 0.2)
    assert new.checkpoints == dict(
        student='origin.pth', small='s.pth', medium='m.pth', large='l.pth'
    )
    assert new.distill_loss == dict(type='ChangeMapMSELoss', loss_weight=0.005)
    assert migration.cfg.default_scope == 'mtkd_cd'
    plain = {key: value for key, value in new.student.items() if key != 'type'}
    wanted = {key: value for key, value in opencd_models[model].items() if key != 'type'}
    assert plain == Config(dict(model=wanted)).model
    assert not migration.left
    assert any('never reached a gradient' in note for note in migration.notes)


@pytest.mark.parametrize(
    ('kind', 'model'),
    [
        ('DistillDIEncoderDecoder_S_TwoTeachers', 'tinycd'),
        ('DistillTimeTravellingPixels_TwoTeachers', 'ttp_vitsam_l'),
    ],
)
def test_two_teachers_meet_at_a_tenth(kind, model, write_config):
    new = migrate_config(write_config(model, lines=step_3(kind, medium=False))).cfg.model
    assert new.thresholds == (0.1,)
    assert new.checkpoints == dict(student='origin.pth', small='s.pth', large='l.pth')


def test_checkpoint_that_is_not_named_gets_a_place_and_is_said(write_config):
    lines = step_3('DistillDIEncoderDecoder').replace("checkpoint='m.pth'", 'checkpoint=None')
    migration = migrate_config(write_config('tinycd', lines=lines))
    place = 'work_dirs/partition/tinycd_64x64/medium/best.pth'
    assert migration.cfg.model.checkpoints.medium == place
    assert [line for line in migration.left if 'init_cfg_t_m' in line and place in line]


def test_term_that_has_no_counterpart_is_said(write_config):
    lines = step_3('DistillDIEncoderDecoder').replace('loss_weight=0.0', 'loss_weight=0.3')
    left = migrate_config(write_config('tinycd', lines=lines)).left
    assert [line for line in left if 'KL' in line and 'loss_weight=0.3' in line]


@pytest.mark.parametrize(('suffix', 'name'), [('s', 'small'), ('m', 'medium'), ('l', 'large')])
def test_folders_of_a_range_become_a_partition_of_the_whole_split(suffix, name, write_config):
    cfg = migrate_config(write_config('fc_ef', part=f'_{suffix}')).cfg
    wrapper = cfg.train_dataloader.dataset
    assert (wrapper.type, wrapper.range) == ('CARPartitionDataset', name)
    assert wrapper.dataset.data_prefix == dict(
        seg_map_path='train/label', img_path_from='train/A', img_path_to='train/B'
    )
    assert cfg.val_dataloader.dataset.type == 'LEVIR_CD_Dataset'


def test_range_in_the_root_is_found_too(write_config):
    path = write_config(
        'fc_ef', lines="train_dataloader = dict(dataset=dict(data_root='d/train_m'))"
    )
    wrapper = migrate_config(path).cfg.train_dataloader.dataset
    assert (wrapper.range, wrapper.dataset.data_root) == ('medium', 'd/train')


def test_prefix_and_imports_of_the_toolbox_go(write_config):
    lines = (
        "model = dict(type='opencd.DIEncoderDecoder')\ncustom_imports = dict(imports=['opencd'])"
    )
    cfg = migrate_config(write_config('fc_ef', lines=lines)).cfg
    assert cfg.model.type == 'DIEncoderDecoder'
    assert cfg.custom_imports.imports == ['mtkd_cd']


@pytest.mark.parametrize(
    ('kind', 'said'),
    [
        ('DIEncoderDecodr', "did you mean 'DIEncoderDecoder'"),
        ('SiamEncoderMultiDecoder', 'semantic change detection is out of scope'),
    ],
)
def test_unknown_type_is_listed(kind, said, write_config):
    left = migrate_config(write_config('fc_ef', lines=f"model = dict(type='{kind}')")).left
    assert [line for line in left if kind in line and said in line]


def test_file_that_it_inherits_from_must_be_there(write_config):
    path = write_config('fc_ef')
    path.with_name('common.py').unlink()
    with pytest.raises(UserError, match=r'inherits from a file that is not there.*common\.py'):
        migrate_config(path)


def test_tool_writes_a_config_that_loads_and_says_what_it_did(tool, write_config, tmp_path):
    path = write_config('changer_mitb0', lines=step_3('DistillDIEncoderDecoder'))
    out = tmp_path / 'my folder' / 'new.py'
    code, said = tool('migrate', path, '-o', out)
    assert code == 0
    assert said.rstrip().endswith(f"Train it with: mtkd-cd train '{out}'")
    assert Config.fromfile(out).model.type == 'MultiTeacherDistiller'
    assert 'Changed' in said
    assert 'never reached a gradient' in said
    assert tool('migrate', path, '-o', out)[0] == 2
    assert tool('migrate', path, '-o', out, '--overwrite')[0] == 0


def test_misspelt_distilling_class_is_told_its_name(tool, write_config, tmp_path):
    path = write_config('changer_mitb0', lines=step_3('DistillDIEncoderDecodr'))
    migration = migrate_config(path)
    assert any("did you mean 'DistillDIEncoderDecoder'?" in line for line in migration.left)
    code, said = tool('migrate', path, '-o', tmp_path / 'new.py')
    assert code == 0
    assert 'Change by hand what could not be changed, then train it with' in said


def test_distilling_class_in_a_config_that_was_not_rewritten_is_told_the_way():
    with pytest.raises(UserError, match='mtkd-cd migrate CONFIG -o'):
        MODELS.build(dict(type='DistillDIEncoderDecoder'))
