import json
import logging

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mtkd_cd.core.errors import UserError
from mtkd_cd.evaluation import PerImageChangeMetric, Provenance, load_table, metric
from mtkd_cd.evaluation.counts import confusion_counts
from mtkd_cd.evaluation.metric import with_distinct_names
from mtkd_cd.evaluation.scores import mean_scores, pooled_scores
from mtkd_cd.registry import METRICS


def _sample(prediction, label=None, name='0.png', dtype=torch.int64, **metainfo):
    sample = SegDataSample(
        metainfo=dict(img_path=[f'/data/A/{name}', f'/data/B/{name}'], **metainfo)
    )
    sample.pred_sem_seg = PixelData(data=torch.as_tensor(prediction, dtype=dtype)[None])
    if label is not None:
        sample.gt_sem_seg = PixelData(data=torch.as_tensor(label, dtype=torch.uint8)[None])
    return sample


def _masks(num=7, size=(8, 10)):
    rng = np.random.default_rng(1)
    prediction, label = (
        rng.random((2, num, *size)) < [[[0]], [[0.04]], [[0.15]], [[0.3]], [[0.5]], [[0.9]], [[1]]]
    ).astype(np.uint8)
    label[3, 0] = 255
    return prediction, label


def _evaluate(samples, batch_size=3, **kwargs):
    evaluator = Evaluator(PerImageChangeMetric(**kwargs))
    for start in range(0, len(samples), batch_size):
        evaluator.process(samples[start : start + batch_size])
    return evaluator.evaluate(len(samples))


@pytest.fixture
def log(caplog):
    """What mmengine's logger, which doesn't propagate, receives."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_it_is_built_by_name_without_a_warning(log):
    metric = METRICS.build(dict(type='mtkd_cd.PerImageChangeMetric', thresholds=(0.1,)))
    assert metric.partition.names == ('small', 'large')
    assert [record.message for record in log.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize('dtype', [torch.int64, torch.float32])
def test_figures_are_means_over_images_pooled_figures_and_means_in_ranges(dtype):
    prediction, label = _masks()
    counts = confusion_counts(prediction, label)
    scores = _evaluate(
        [_sample(p, t, f'{i}.png', dtype) for i, (p, t) in enumerate(zip(prediction, label))]
    )
    expected = mean_scores(counts) | {
        f'pooled_{name}': value for name, value in pooled_scores(counts).items()
    }
    assert {key: scores[key] for key in expected} == pytest.approx(expected)
    cars = np.array([(t == 1).sum() / (t != 255).sum() for t in label])
    for name, members in {
        'small': cars <= 0.05,
        'medium': (cars > 0.05) & (cars <= 0.2),
        'large': cars > 0.2,
    }.items():
        assert scores[f'mFscore_{name}'] == pytest.approx(mean_scores(counts[members])['mFscore'])


def test_figures_are_plain_numbers_that_a_log_can_hold():
    prediction, label = _masks()
    assert json.loads(json.dumps(_evaluate([_sample(prediction[1], label[1])])))['mIoU'] > 0


def test_a_range_without_images_has_no_figure():
    scores = _evaluate([_sample(np.zeros((4, 4)), np.zeros((4, 4)))])
    assert scores['mIoU_small'] == 100
    assert 'mIoU_large' not in scores


def test_names_thresholds_prefix_and_zero_division_are_heeded():
    scores = _evaluate(
        [_sample(np.zeros((4, 4)), np.zeros((4, 4)))],
        thresholds=(0.5,),
        names=('lo', 'hi'),
        prefix='val',
        zero_division=0,
    )
    assert scores['val/mIoU_lo'] == scores['val/mIoU'] == 50


def test_predictions_of_another_size_are_compared_at_the_labels_size():
    label = np.zeros((8, 12), np.uint8)
    label[:4, :6] = 1
    small = np.array([[1, 0], [0, 0]])
    assert _evaluate([_sample(small, label)])['mIoU'] == 100


def test_images_of_different_sizes_meet_in_one_batch():
    samples = [_sample(np.ones(size), np.ones(size), f'{size}.png') for size in ((4, 4), (6, 5))]
    assert _evaluate(samples)['mIoU'] == 100


def test_the_table_keeps_one_row_per_image_with_what_a_cascade_wrote(tmp_path):
    prediction, label = _masks()
    samples = [_sample(p, t, f'town/{i}.png') for i, (p, t) in enumerate(zip(prediction, label))]
    samples[2].set_metainfo(dict(coarse_car=0.07, range='medium'))
    for name in ('table.json', 'table.csv'):
        _evaluate(samples, out_file=tmp_path / name)
        table = load_table(tmp_path / name)
        assert table.files == [f'town/{i}.png' for i in range(7)]
        assert (table.counts == confusion_counts(prediction, label)).all()
        assert table.coarse_cars == [None, None, 0.07, *[None] * 4]
        assert table.coarse_ranges == [None, None, 'medium', *[None] * 4]


def test_tables_are_logged(log):
    prediction, label = _masks()
    _evaluate(
        [_sample(p, t, f'{i}.png') for i, (p, t) in enumerate(zip(prediction, label))],
        num_quantiles=3,
    )
    assert all(part in log.text for part in ('unchanged', 'pooled', 'CAR <= 0.05', '| q3 '))
    assert '| q4 ' not in log.text


def test_results_are_forgotten_between_evaluations():
    evaluator = Evaluator(PerImageChangeMetric())
    figures = []
    for prediction in (np.ones((4, 4)), np.zeros((4, 4))):
        evaluator.process([_sample(prediction, np.ones((4, 4)))])
        figures.append(evaluator.evaluate(1)['mIoU'])
    assert figures == [100, 0]


def test_nothing_evaluated_gives_no_figures_and_no_file(tmp_path):
    assert _evaluate([], out_file=tmp_path / 'table.json') == {}
    metric = PerImageChangeMetric()
    metric.process(None, [])
    assert metric.results == []
    assert list(tmp_path.iterdir()) == []


def test_a_missing_label_is_a_clear_error():
    with pytest.raises(UserError, match=r'/data/B/0\.png: no label.*load annotations'):
        _evaluate([_sample(np.ones((4, 4)))])


def test_a_missing_prediction_is_a_clear_error():
    sample = _sample(np.ones((4, 4)), np.ones((4, 4)))
    del sample.pred_sem_seg
    with pytest.raises(UserError, match=r'/data/B/0\.png: no prediction'):
        _evaluate([sample])


def test_a_label_of_another_coding_names_its_image():
    with pytest.raises(UserError, match=r'/data/B/0\.png: a label mask holds 0, 1 and 255'):
        _evaluate([_sample(np.ones((4, 4)), np.full((4, 4), 2))])


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(zero_division=2), 'zero_division=2'),
        (dict(num_quantiles=0), 'num_quantiles=0'),
        (dict(out_file='table.txt'), r'table\.txt'),
        (dict(thresholds=(0.2, 0.05)), 'increasing order'),
        (dict(names=('a', 'b')), '3 different names'),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(UserError, match=message):
        PerImageChangeMetric(**kwargs)


@pytest.fixture
def accelerator(monkeypatch):
    """CPU tensors are treated like those of a device that the host would have to wait for."""
    monkeypatch.setattr(metric, '_NEVER_WAIT', ())


def test_counts_that_stay_on_their_device_give_the_same_scores(accelerator):
    prediction, label = _masks()
    samples = [_sample(p, t, f'{i}.png') for i, (p, t) in enumerate(zip(prediction, label))]
    evaluated = PerImageChangeMetric()
    for start in range(0, 7, 3):
        evaluated.process(None, [sample.to_dict() for sample in samples[start : start + 3]])
    kept = [row[1] for row in evaluated.results]
    assert isinstance(kept[0], list)
    assert all(isinstance(counts, torch.Tensor) for counts in kept[1:])
    scores = evaluated.evaluate(7)
    expected = mean_scores(confusion_counts(prediction, label))
    assert {name: scores[name] for name in expected} == expected


def test_the_first_mask_of_another_coding_is_refused_at_once(accelerator):
    evaluated = PerImageChangeMetric()
    with pytest.raises(UserError, match=r'/data/B/0\.png: a prediction mask holds 0 and 1'):
        evaluated.process(None, [_sample(np.full((4, 4), 255), np.ones((4, 4))).to_dict()])


@pytest.mark.parametrize(('which', 'what'), [(0, 'prediction'), (1, 'label')])
def test_a_later_mask_of_another_coding_is_refused_in_the_end(accelerator, which, what):
    masks = [np.ones((4, 4)), np.ones((4, 4))]
    masks[which] = np.full((4, 4), 7)
    samples = [_sample(np.ones((4, 4)), np.ones((4, 4))), _sample(*masks, name='1.png')]
    with pytest.raises(UserError, match=rf'/data/B/1\.png: a {what} mask .* in 16 pixels'):
        _evaluate(samples)


def test_the_table_says_which_run_it_is_of(tmp_path):
    told = dict(model='fc_ef', strategy='mtkd', seed=0, dataset='toy/test')
    sample = _sample(np.ones((4, 4)), np.ones((4, 4)))
    _evaluate([sample], out_file=tmp_path / 'table.json', provenance=told)
    assert load_table(tmp_path / 'table.json').provenance == Provenance(**told)


def test_the_prefix_keeps_our_scores_apart_from_those_of_mmsegs_metric():
    configs = [
        dict(type='mmseg.IoUMetric', iou_metrics=['mIoU']),
        dict(type='mtkd_cd.PerImageChangeMetric'),  # whatever the default scope
    ]
    evaluator = Evaluator([METRICS.build(cfg) for cfg in with_distinct_names(configs)])
    evaluator.dataset_meta = dict(classes=('unchanged', 'changed'))
    sample = _sample(np.ones((4, 4)), np.ones((4, 4)))
    evaluator.process([sample])
    scores = evaluator.evaluate(1)
    assert {'mIoU', 'per_image/mIoU'} <= scores.keys()


def test_a_prefix_of_the_users_and_a_metric_alone_stay_as_they_are():
    alone = [dict(type=PerImageChangeMetric)]
    assert with_distinct_names(alone) == alone
    named = [dict(type='IoUMetric'), dict(type='mtkd_cd.PerImageChangeMetric', prefix='mine')]
    assert with_distinct_names(named) == named
    other = [dict(type='PerImageChangeMetric'), dict(type='mmseg.IoUMetric', prefix='mmseg')]
    assert with_distinct_names(other) == other
