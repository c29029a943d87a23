"""Training, testing and the recipe through ``mtkd_cd.apis``, against each other."""

import pytest
import torch
from mmengine.config import Config

from mtkd_cd import apis
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import Strategy
from mtkd_cd.evaluation import load_table
from tests.conftest import TINY, UNSERIALIZED


@pytest.fixture
def options(scenes, tmp_path):
    """Options of a recipe of two iterations on crops of 32 x 32."""
    entries = (entry.split('=') for entry in (*TINY, *UNSERIALIZED))
    values = {key: eval(value) for key, value in entries}
    return dict(
        data_root=scenes,
        work_dir=tmp_path / 'recipe',
        iters=2,
        val_interval=2,
        image_size=32,
        batch_size=2,
        num_workers=0,
        seed=1,
        cfg_options={**values, 'log_level': 'ERROR'},
    )


def test_train_and_test_do_what_the_recipe_does(options, tmp_path):
    results = apis.run_recipe('fc_ef', ['origin'], **options)
    metrics = results.metrics[Strategy('origin')]

    record = apis.train(apis.get_config('fc_ef', **options), tmp_path / 'alone')
    assert record['iter'] == 2
    assert (tmp_path / 'alone/best.pth').is_file()

    table = tmp_path / 'table.json'
    cfg = apis.get_config('fc_ef', **options)
    weights = tmp_path / 'alone/best.pth'
    tested = apis.test(cfg, weights, out=table, work_dir=tmp_path / 'test')
    assert tested['mIoU'] == metrics['mIoU']
    assert load_table(table).means()['mIoU'] == pytest.approx(metrics['mIoU'])

    # Without weights, those that the config's own training left are tested.
    again = apis.test(apis.get_config('fc_ef', **options))
    assert again['mIoU'] == metrics['mIoU']


def test_scores_of_another_metric_come_back(options, tmp_path):
    cfg = apis.get_config('fc_ef', **options)
    own = dict(type='mmseg.IoUMetric', iou_metrics=['mIoU'])
    cfg.val_evaluator = cfg.test_evaluator = own
    record = apis.train(cfg, tmp_path / 'alone')
    cfg = apis.get_config('fc_ef', **options)
    cfg.test_evaluator = own
    tested = apis.test(cfg, tmp_path / 'alone/best.pth', work_dir=tmp_path / 'test')
    assert set(tested) == {'aAcc', 'mIoU', 'mAcc'}
    assert 0 < tested['mIoU'] < 100
    assert record['metric'] == 'mIoU'


def test_recipe_goes_on_where_it_stopped(options):
    apis.run_recipe('fc_ef', ['origin'], **options)
    weights = options['work_dir'] / 'origin/fc_ef/best.pth'
    written = weights.stat().st_mtime_ns
    results = apis.run_recipe('fc_ef', ['origin', 'continued'], **options)
    assert weights.stat().st_mtime_ns == written
    assert set(results.metrics) == {Strategy('origin'), Strategy('continued')}
    assert set(results.differences) == {Strategy('continued')}


def test_a_config_is_tested_twice_and_trained_on(options):
    cfg = apis.get_config('fc_ef', **options)
    trained = apis.train(cfg)
    before = cfg.to_dict()
    first = apis.test(cfg)
    assert cfg.to_dict() == before
    assert apis.test(cfg) == first
    assert apis.train(cfg, resume=True) == trained


def test_a_config_that_was_not_read_from_a_file_is_trained(options, tmp_path):
    cfg = Config(apis.get_config('fc_ef', **options).to_dict())
    cfg.work_dir = str(tmp_path / 'own')
    apis.train(cfg)
    apis.test(cfg, out=tmp_path / 'table.json')
    assert len(load_table(tmp_path / 'table.json')) == 7


def test_strategies_of_a_recipe_are_one_name_or_any_of_them(options):
    origin = apis.run_recipe('fc_ef', 'origin', **options)
    assert set(origin.metrics) == {Strategy('origin')}
    named = (name for name in ('continued', 'origin'))
    assert set(apis.run_recipe('fc_ef', named, **options).metrics) == {
        Strategy('origin'),
        Strategy('continued'),
    }
    with pytest.raises(UserError, match=r"unknown strategy 'orign': there are origin, "):
        apis.run_recipe('fc_ef', ['orign'], **options)


def test_precision_of_a_test_is_asked_for(options, tmp_path, convolved):
    apis.run_recipe('fc_ef', ['origin'], **options)
    convolved.clear()
    table = tmp_path / 'table.json'
    apis.test(apis.get_config('fc_ef', **options), out=table, precision='bfloat16')
    assert torch.bfloat16 in convolved
    assert load_table(table).provenance.precision == 'bfloat16'


@pytest.mark.parametrize('tta', [False, True])
def test_precision_at_the_top_of_a_config_is_that_of_its_cascade(options, tmp_path, convolved, tta):
    apis.run_recipe('fc_ef', ['origin', 'partition'], **options)
    table = tmp_path / 'table.json'
    for precision in (None, 'float32'):
        cfg = apis.get_config('fc_ef', 'op', tta=tta, **options)
        cfg.precision = 'bfloat16'
        convolved.clear()
        apis.test(cfg, out=table, precision=precision)
        assert (torch.bfloat16 in convolved) == (precision is None)
        assert load_table(table).provenance.precision == (None if precision else 'bfloat16')


def test_teachers_of_a_recipe_compute_in_their_precision_which_its_record_keeps(options, convolved):
    low = dict(options, teacher_precision='bfloat16')
    apis.run_recipe('fc_ef', ['origin', 'partition'], **low)
    assert convolved == {torch.float32}
    apis.run_recipe('fc_ef', ['mtkd'], **low)
    assert torch.bfloat16 in convolved
    with pytest.raises(UserError, match=r'teacher_options\.precision'):
        apis.run_recipe('fc_ef', ['mtkd'], **options)
