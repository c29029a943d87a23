"""The functions of ``mtkd_cd.apis`` that need no trained model."""

from pathlib import Path

import pytest

from mtkd_cd import apis
from mtkd_cd.core.errors import UserError


def test_all_benchmark_models_are_listed_and_have_a_config():
    models = apis.list_models()
    assert len(models) == 21
    assert models == sorted(models)
    assert {'fc_ef', 'changer_mitb0', 'ttp_vitsam_l'} <= set(models)


def test_config_of_each_strategy_is_the_one_that_the_recipe_runs(tmp_path):
    kinds = {
        'origin': 'SiamEncoderDecoder',
        'op': 'OriginPartitionCascade',
        'mtkd': 'MultiTeacherDistiller',
    }
    for strategy, kind in kinds.items():
        cfg = apis.get_config('changer_mitb0', strategy, work_dir=tmp_path)
        assert cfg.model.type.rpartition('.')[2] in (kind, 'DIEncoderDecoder')
        assert cfg.work_dir == str(tmp_path / strategy / 'changer_mitb0')


def test_options_and_variants_reach_the_config():
    cfg = apis.get_config('fc_ef', 'mtkd', thresholds=(0.1,), iters=100, data_root='my/data')
    assert tuple(cfg.model.thresholds) == (0.1,)
    assert cfg.train_cfg.max_iters == 50  # a student trains half as long
    assert cfg.train_dataloader.dataset.data_root == 'my/data'
    several = apis.get_config(Path('configs/origin/fc_ef.py'), thresholds=0.1, bands=[4, 3, 2, 8])
    assert several.train_dataloader.dataset.bands == [4, 3, 2, 8]
    large = apis.get_config('fc_ef', 'partition', range='large')
    assert large.train_dataloader.dataset.range == 'large'
    assert large.work_dir.endswith('large')


@pytest.mark.parametrize('model', ['fc_ef', 'ttp_vitsam_l'])
@pytest.mark.parametrize('options', [dict(iters=40, val_interval=5), dict(student_iters=30)])
def test_a_written_config_keeps_the_length_of_the_students_training(model, options, tmp_path):
    path = tmp_path / 'mine.py'
    apis.get_config(model, **options).dump(path)
    for strategy in ('mtkd', 'continued'):
        wanted, found = apis.get_config(model, strategy, **options), apis.get_config(path, strategy)
        for key in ('train_cfg', 'param_scheduler'):
            assert found[key] == wanted[key]


def test_unknown_model_and_option_are_refused():
    with pytest.raises(UserError, match=r"unknown model 'fc_eff'.*fc_ef"):
        apis.get_config('fc_eff')
    with pytest.raises(TypeError, match='nope'):
        apis.get_config('fc_ef', nope=1)


@pytest.mark.parametrize(
    'option', [dict(iters=0), dict(crop_size=-1), dict(image_size=(64, 64)), dict(num_workers='2')]
)
def test_options_that_count_are_whole_numbers(option):
    (name,) = option
    with pytest.raises(UserError, match=rf'{name}=.*: a whole number from [01] up is needed'):
        apis.get_config('fc_ef', **option)


def test_every_public_name_can_be_had():
    for name in apis.__all__:
        assert callable(getattr(apis, name)), name
