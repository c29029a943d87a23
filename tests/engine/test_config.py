"""Reading configs and fitting them to the command line."""

import copy
from pathlib import Path

import pytest
import torch

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import Strategy
from mtkd_cd.engine import machine
from mtkd_cd.engine.config import check_checkpoints, load_config, work_dir_of
from mtkd_cd.engine.costs import set_amp
from mtkd_cd.engine.image_size import describe_scale, set_crop_size, set_image_size
from mtkd_cd.engine.inputs import set_data, set_range
from mtkd_cd.engine.machine import set_machine
from mtkd_cd.engine.schedule import set_iters, set_val_interval
from mtkd_cd.engine.tta import set_tta
from mtkd_cd.recipe.configs import step_config
from mtkd_cd.recipe.options import RecipeOptions
from mtkd_cd.recipe.steps import Step

CONFIGS = Path(__file__).parents[2] / 'configs'


def load(stage, options=None):
    return load_config(CONFIGS / stage / 'fc_ef.py', options)


def test_misspelt_config_suggests_the_closest():
    with pytest.raises(UserError, match=r"fc_eff.py does not exist: did you mean 'fc_ef'"):
        load_config(CONFIGS / 'origin' / 'fc_eff.py')


def test_shipped_config_is_found_outside_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config('configs/origin/fc_ef.py').model.type == 'DIEncoderDecoder'
    own = tmp_path / 'configs/origin/fc_ef.py'
    own.parent.mkdir(parents=True)
    own.write_text("model = dict(type='Mine')\n")
    assert load_config('configs/origin/fc_ef.py').model.type == 'Mine'


def test_config_with_an_error_in_it_is_named(tmp_path):
    path = tmp_path / 'broken.py'
    path.write_text("_base_ = 'nowhere.py'\n")
    with pytest.raises(UserError, match=r'broken.py cannot be read'):
        load_config(path)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'trian_cfg.max_iters': 3}, "did you mean 'train_cfg'"),
        ({'randomness.seed.x': 3}, 'seed'),
        ({'custom_hooks.7.metric': 'x'}, 'Index 7'),
    ],
)
def test_option_without_a_place_in_the_config(options, said):
    with pytest.raises(UserError, match=said):
        load('origin', options)


def test_places_of_the_stages():
    specialist = load('partition')
    set_range(specialist, 'large')
    assert work_dir_of(load('origin')) == Path('work_dirs/origin/fc_ef')
    assert work_dir_of(specialist) == Path('work_dirs/partition/fc_ef/large')
    assert (
        specialist.train_dataloader.dataset.range
        == specialist.val_dataloader.dataset.range
        == 'large'
    )


def test_unknown_range_lists_those_there_are():
    with pytest.raises(UserError, match=r"unknown CAR range 'tiny'.*small, medium, large"):
        set_range(load('partition'), 'tiny')
    with pytest.raises(UserError, match=r'no CAR range'):
        set_range(load('origin'), 'small')


def test_missing_checkpoint_names_the_command_that_makes_it():
    with pytest.raises(UserError, match=r'mtkd-cd train configs/origin/fc_ef.py'):
        check_checkpoints(load('mtkd'))


LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


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


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_what_needs_a_gpu_says_so():
    with pytest.raises(UserError, match='--device cpu'):
        set_machine(load('origin'), device='cuda')


def test_mixed_precision_on_the_cpu_is_bfloat16_and_only_when_asked_for():
    for model, parts in (
        ('fc_ef', {}),
        ('ban_vitl14_mitb2', dict(constructor='TrainableOptimWrapperConstructor')),
    ):
        cfg = load_config(CONFIGS / 'origin' / f'{model}.py')
        set_machine(cfg, device='cpu')
        assert cfg.optim_wrapper.type == 'OptimWrapper'
        set_amp(cfg)
        assert cfg.optim_wrapper.type == 'BFloat16OptimWrapper'
        assert not {'loss_scale', 'dtype'} & set(cfg.optim_wrapper)
        assert cfg.custom_hooks[-1] == dict(type='ChannelsLastHook')
        assert {key: cfg.optim_wrapper[key] for key in parts} == parts


def test_mixed_precision_on_a_gpu_scales_the_loss(monkeypatch):
    monkeypatch.setattr('mmengine.device.utils.DEVICE', 'cuda')
    cfg = load('origin')
    set_amp(cfg)
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.loss_scale) == ('AmpOptimWrapper', 'dynamic')


def test_launcher_without_torchrun_says_so():
    with pytest.raises(UserError, match='torchrun'):
        set_machine(load('origin'), launcher='pytorch')


def test_options_of_the_origin_reach_every_stage():
    options = RecipeOptions(
        CONFIGS,
        iters=40,
        loss_weight=0.5,
        seed=4,
        cfg_options={
            'model.backbone.base_channel': 4,
            'train_dataloader.dataset.img_suffix': '.tif',
            'optim_wrapper.optimizer.lr': 1.0,
        },
    )
    steps = [
        Step(Strategy('origin'), 'train'),
        Step(Strategy('partition'), 'train', 'medium'),
        Step(Strategy('op'), 'test'),
        Step(Strategy('mtkd'), 'train'),
    ]
    origin, specialist, cascade, student = (step_config(step, 'fc_ef', options) for step in steps)
    assert {
        cfg.base_channel
        for cfg in (origin.model.backbone, specialist.model.backbone, cascade.model.origin.backbone)
    } == {4}
    assert student.model.student.backbone.base_channel == 4
    assert (
        specialist.train_dataloader.dataset.dataset.img_suffix
        == student.train_dataloader.dataset.img_suffix
        == '.tif'
    )
    assert {cfg.optim_wrapper.optimizer.lr for cfg in (origin, specialist, student)} == {1.0}
    assert {cfg.randomness.seed for cfg in (origin, specialist, student)} == {4}
    assert (
        origin.train_cfg.max_iters,
        specialist.train_cfg.max_iters,
        student.train_cfg.max_iters,
    ) == (40, 40, 20)
    assert student.model.distill_loss.loss_weight == 0.5
    assert specialist.work_dir == 'work_dirs/partition/fc_ef/medium'


@pytest.mark.parametrize('stage', ['origin', 'continued'])
def test_val_interval_counts_iterations_whatever_the_schedule_counts(stage):
    step, options = Step(Strategy(stage), 'train'), RecipeOptions(CONFIGS, val_interval=50)
    cfg = step_config(step, 'ttp_vitsam_l', options)
    assert 'max_epochs' in cfg.train_cfg
    assert not cfg.train_cfg.val_by_epoch
    assert cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval == 50
    shortened = step_config(
        step, 'ttp_vitsam_l', RecipeOptions(CONFIGS, val_interval=50, iters=100, student_iters=100)
    )
    assert shortened.train_cfg == dict(type='ReplayableIterLoop', max_iters=100, val_interval=50)


@pytest.mark.parametrize(
    'loop', [dict(type='EpochBasedTrainLoop'), dict(by_epoch=True)], ids=['type', 'by_epoch']
)
def test_schedule_of_mmengines_loop_by_epochs_becomes_one_in_iterations(loop):
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    cfg.train_cfg = dict(**loop, max_epochs=30, val_interval=1)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=5)  # of epochs
    with pytest.raises(UserError, match='validates by epochs'):
        set_val_interval(cfg, 7)
    set_iters(cfg, 100)
    assert cfg.train_cfg == dict(type='IterBasedTrainLoop', max_iters=100, val_interval=10)
    checkpoint = cfg.default_hooks.checkpoint
    assert (checkpoint.interval, checkpoint.by_epoch) == (10, False)


def test_steps_of_a_schedule_keep_their_places():
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=40_000, val_interval=400)
    cfg.param_scheduler = [
        dict(type='MultiStepLR', milestones=[20_000, 30_000], by_epoch=False),
        dict(type='StepLR', step_size=10_000, by_epoch=False),
    ]
    set_iters(cfg, 100)
    several, one = cfg.param_scheduler
    assert (several.milestones, several.end) == ([50, 75], 100)
    assert (one.step_size, one.end) == (25, 100)


def test_parts_of_a_schedule_keep_their_shares_of_it():
    """Also where none of them ends with the training, or the first is no warm-up."""
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    warmup = cfg.param_scheduler[0]
    cosine = dict(type='CosineAnnealingLR', T_max=149_000, begin=1000, end=150_000)
    flat = dict(type='ConstantLR', factor=0.1, begin=150_000, end=200_000)
    cfg.param_scheduler = [warmup, cosine, flat]
    set_iters(cfg, 20_000)
    places = [(one.begin, one.end) for one in cfg.param_scheduler]
    middle = 1000 + round(149 / 199 * 19_000)
    assert places == [(0, 1000), (1000, middle), (middle, 20_000)]
    assert cfg.param_scheduler[1].T_max == 14_900
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    cfg.param_scheduler = [dict(type='PolyLR', power=0.9, begin=0, end=180_000, by_epoch=False)]
    set_iters(cfg, 1000)
    assert [(one.begin, one.end) for one in cfg.param_scheduler] == [(0, 900)]


def test_data_root_at_the_top_of_a_config_is_no_data_set():
    """A config that inherits ours and reads another folder leaves that variable as it is."""
    cfg = load('origin')
    set_data(cfg, 'my/data')
    set_data(cfg, 'other')
    assert cfg.data_root == 'data/JL1-CD'
    assert {cfg[loader].dataset.data_root for loader in LOADERS} == {'other'}


def test_views_are_those_of_every_data_set_of_a_test():
    cfg = load('origin')
    one = cfg.test_dataloader.dataset
    folds = dict(type='FoldDataset', folds=2, dataset=copy.deepcopy(one))
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[one, folds])
    set_tta(cfg)
    plain, wrapped = cfg.test_dataloader.dataset.datasets
    for dataset in (plain, wrapped.dataset):
        kinds = [step['type'] for step in dataset.pipeline]
        assert kinds == ['MultiImgLoadImageFromFile', 'TestTimeAug']
    assert cfg.model.type == 'mtkd_cd.ChangeTTAModel'


def test_config_without_an_environment_runs_in_several_processes(monkeypatch):
    cfg = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    cfg.pop('env_cfg')  # which mmengine has defaults for
    started = []
    monkeypatch.setattr(torch.distributed, 'is_torchelastic_launched', lambda: True)
    monkeypatch.setattr(torch.distributed, 'init_process_group', started.append)
    monkeypatch.setattr(machine, 'set_multi_processing', lambda **kwargs: started.append(kwargs))
    set_machine(cfg, device='cpu', launcher='pytorch')
    assert started == [dict(distributed=True), 'gloo']


@pytest.mark.parametrize(('given', 'kept'), [({}, 'torch'), ({'sync_bn': None}, None)])
def test_batch_norms_are_synchronised_among_gpus_unless_the_config_says_otherwise(
    monkeypatch, given, kept
):
    cfg = load('origin', given)
    monkeypatch.setattr(torch.distributed, 'is_torchelastic_launched', lambda: True)
    monkeypatch.setattr(machine.mmengine.device.utils, 'get_device', lambda: 'cuda')
    for name in ('set_multi_processing', 'init_dist'):
        monkeypatch.setattr(machine, name, lambda *args, **kwargs: None)
    set_machine(cfg, launcher='pytorch')
    assert cfg.sync_bn == kept


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('fc_ef', 'does not exist: did you mean configs/origin/fc_ef.py'),
        ('configs/mtkd/fc_fe.py', "does not exist: did you mean 'fc_ef'?"),
        ('notes.py', 'config notes.py does not exist: check the path'),
        ('min.py', "config min.py does not exist: did you mean 'mine'?"),
        ('folder', 'config folder is a folder: give a file .py, .json'),
        ('mine.txt', 'config mine.txt is none: give a file .py, .json'),
    ],
)
def test_path_that_is_no_config(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'mine.py').touch()
    (tmp_path / 'mine.txt').touch()
    with pytest.raises(UserError) as error:
        load_config(path)
    assert message in str(error.value)
