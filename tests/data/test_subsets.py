import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.structures import SegDataSample

import mtkd_cd
from mtkd_cd.core.errors import UserError
from mtkd_cd.data import subsets
from mtkd_cd.data.samplers import RatioSampler
from mtkd_cd.data.subsets import FoldDataset, UnlabelledDataset, image_fold
from mtkd_cd.engine.replay import NumberedSampler
from mtkd_cd.registry import DATASETS

PIPELINE = [
    dict(type='MultiImgLoadImageFromFile'),
    dict(type='MultiImgLoadAnnotations'),
    dict(type='MultiImgRandomRotate', prob=1.0, degree=30),
    dict(type='MultiImgPackSegInputs'),
]


@pytest.fixture(autouse=True)
def our_scope():
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        yield


@pytest.fixture
def pairs(write_pairs, tmp_path):
    """``pairs(number, labels=True)``: config of a data set of so many pairs of 20 x 20 pixels."""

    def make(number, labels=True, name='set'):
        write_pairs(tmp_path / name, [10 * i for i in range(number)])
        folders = dict(img_path_from='A', img_path_to='B')
        if labels:
            folders['seg_map_path'] = 'label'
        return dict(
            type='_BaseCDDataset',
            data_root=str(tmp_path / name),
            data_prefix=folders,
            img_suffix='.png',
            format_seg_map='to_binary',
            pipeline=PIPELINE,
        )

    return make


def names(dataset):
    return [dataset.get_data_info(i)['img_path'][0] for i in range(len(dataset))]


def test_folds_share_out_the_pairs_and_do_not_depend_on_the_others(pairs):
    whole = DATASETS.build(pairs(30))
    parts = [FoldDataset(pairs(30), folds=3, keep=fold) for fold in range(3)]
    assert sorted(name for part in parts for name in names(part)) == names(whole)
    assert min(len(part) for part in parts) >= 5
    rest = FoldDataset(pairs(30), folds=3, leave_out=1)
    assert set(names(rest)) == set(names(parts[0])) | set(names(parts[2]))
    info = dict(img_path=['elsewhere/A/003.tif', 'elsewhere/B/003.tif'])
    assert '003.png' in ' '.join(names(parts[image_fold(info, 3)]))  # by the name alone
    assert names(FoldDataset(pairs(30), folds=3, keep=0, seed=1)) != names(parts[0])


def test_a_fold_without_pairs_is_told(pairs, monkeypatch):
    """A specialist that leaves out such a fold teaches nothing."""
    said = []
    monkeypatch.setattr(subsets, 'print_log', lambda text, **_: said.append(text))
    whole = DATASETS.build(pairs(6))
    folds = [image_fold(whole.get_data_info(i), 40) for i in range(6)]
    empty = next(fold for fold in range(40) if fold not in folds)
    assert len(FoldDataset(pairs(6), folds=40, leave_out=folds[0])) < 6
    assert not said
    assert len(FoldDataset(pairs(6), folds=40, leave_out=empty)) == 6
    assert f'none of 6 pairs lies in the folds [{empty}] of 40' in said[0]


def test_sample_carries_its_fold_through_the_car_partition(pairs):
    dataset = DATASETS.build(
        dict(
            type='CARPartitionDataset',
            partition=('small', 'medium', 'large'),
            dataset=dict(type='FoldDataset', dataset=pairs(12), folds=2),
        )
    )
    for i in range(len(dataset)):
        metainfo = dataset[i]['data_samples'].metainfo
        assert metainfo['fold'] == image_fold(dataset.get_data_info(i), 2)
        assert metainfo['car'] == pytest.approx(10 * i / 400)


def test_rejected_sample_of_a_fold_gives_way_to_one_of_the_same_range(pairs, monkeypatch):
    dataset = DATASETS.build(
        dict(
            type='CARPartitionDataset',
            range='large',
            dataset=dict(type='FoldDataset', dataset=pairs(20), folds=2, keep=0),
        )
    )
    pipeline, calls = dataset.dataset.dataset.pipeline, []

    def reject_first(info):
        calls.append(10 * int(Path(info['img_path'][0]).stem) / 400)
        return None if len(calls) == 1 else pipeline(info)

    monkeypatch.setattr(dataset.dataset.dataset, 'pipeline', reject_first)
    assert dataset[0]['data_samples'].car > 0.2
    assert len(calls) == 2
    assert min(calls) > 0.2


@pytest.mark.parametrize(
    'wrappers',
    [
        [dict(type='FoldDataset')],
        [dict(type='RepeatDataset', times=2), dict(type='FoldDataset')],
        [dict(type='UnlabelledDataset'), dict(type='FoldDataset')],
        [dict(type='CARPartitionDataset', range='large'), dict(type='FoldDataset')],
        [dict(type='FoldDataset'), dict(type='UnlabelledDataset')],
        [dict(type='FoldDataset'), dict(type='RepeatDataset', times=2)],
    ],
)
def test_rejected_sample_of_a_fold_gives_way_to_one_of_the_same_fold(pairs, wrappers):
    config = pairs(20)
    for wrapper in wrappers:
        folds = dict(folds=4, keep=1) if wrapper['type'] == 'FoldDataset' else {}
        config = dict(wrapper, dataset=config, **folds)
    dataset = base = DATASETS.build(config)
    while hasattr(base, 'dataset'):
        base = base.dataset
    first, seen = dataset.get_data_info(0)['img_path'][0], []

    def all_but_the_first(info):
        seen.append(image_fold(info, 4))
        if info['img_path'][0] == first:
            return None
        sample = SegDataSample(metainfo=dict(img_path=info['img_path']))
        return dict(inputs=torch.zeros(6, 20, 20), data_samples=sample)

    base.pipeline = all_but_the_first
    for _ in range(10):
        assert dataset[0]['data_samples'].fold == 1
    assert len(seen) > 10
    assert set(seen) == {1}


def test_parts_of_a_concat_dataset_are_drawn_at_their_ratio_in_folds_too(pairs):
    both = dict(type='ConcatDataset', datasets=[pairs(8, name='one'), pairs(20, name='two')])
    dataset = FoldDataset(both, folds=3, leave_out=1)
    first = sum('one' in name for name in names(dataset))
    assert dataset.cumulative_sizes == [first, len(dataset)]
    assert 0 < first < 8
    drawn = itertools.islice(RatioSampler(dataset, ratio=(1, 3), seed=0), 40)
    of_first = ['one' in names(dataset)[index] for index in drawn]
    assert all(sum(of_first[i : i + 4]) == 1 for i in range(0, 40, 4))


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(folds=3, keep=3), r'fold \[3\]: there are 3 folds, 0 to 2'),
        (dict(folds=1), 'there are 1 folds'),
        (dict(folds=3, keep=0, leave_out=1), 'give one of them'),
        (dict(folds=500, keep=499), r'none of 4 pairs'),
    ],
)
def test_bad_folds_are_refused(pairs, wrong, message):
    with pytest.raises(UserError, match=message):
        FoldDataset(pairs(4), **wrong)


@pytest.mark.parametrize('labels', [True, False])
def test_unlabelled_pairs_come_with_a_label_that_ignores_everything(pairs, labels):
    dataset = UnlabelledDataset(pairs(3, labels))
    assert len(dataset) == 3
    sample = dataset[1]
    label = sample['data_samples'].gt_sem_seg.data
    assert label.shape == (1, 20, 20)
    assert (label == 255).all()
    assert sample['data_samples'].metainfo['unlabelled'] is True
    assert 'car' not in sample['data_samples'].metainfo
    assert dataset.get_data_info(1)['unlabelled']
    assert sample['inputs'].shape == (6, 20, 20)


def test_label_of_an_unlabelled_pair_has_the_size_that_its_images_were_given(pairs):
    config = pairs(2)
    config['pipeline'] = [*PIPELINE]
    config['pipeline'].insert(1, dict(type='MultiImgResize', scale=(32, 24)))
    sample = UnlabelledDataset(config)[0]
    assert sample['inputs'].shape == (6, 24, 32)
    label = sample['data_samples'].gt_sem_seg.data
    assert label.shape == (1, 24, 32)
    assert (label == 255).all()


def test_data_set_given_as_an_object_keeps_its_own_labels(pairs):
    labelled = DATASETS.build(pairs(3))
    UnlabelledDataset(labelled)
    assert (labelled[2]['data_samples'].gt_sem_seg.data == 1).any()


def test_wrapper_without_a_pipeline_is_refused(pairs):
    with pytest.raises(UserError, match='found ConcatDataset'):
        UnlabelledDataset(dict(type='ConcatDataset', datasets=[pairs(3)]))


def concatenation(pairs, labelled=4, unlabelled=10):
    return DATASETS.build(
        dict(
            type='ConcatDataset',
            datasets=[
                pairs(labelled),
                dict(type='UnlabelledDataset', dataset=pairs(unlabelled, False, 'more')),
            ],
        )
    )


@pytest.mark.parametrize('ratio', [(1, 1), (1, 3), (3, 2)])
def test_every_batch_holds_the_ratio_and_parts_are_drawn_through(pairs, ratio):
    dataset = concatenation(pairs)
    stream = iter(RatioSampler(dataset, ratio, seed=3))
    size = sum(ratio)
    batches = [[next(stream) for _ in range(size)] for _ in range(40)]
    for batch in batches:
        assert sum(index < 4 for index in batch) == ratio[0]
    labelled = [index for batch in batches for index in batch if index < 4]
    unlabelled = [index for batch in batches for index in batch if index >= 4]
    assert all(sorted(labelled[i : i + 4]) == [0, 1, 2, 3] for i in range(0, 40, 4))
    assert sorted(unlabelled[:10]) == list(range(4, 14))
    assert labelled[:4] != labelled[4:8] or labelled[4:8] != labelled[8:12]  # shuffled anew


def test_two_processes_share_each_part_without_overlap(pairs, monkeypatch):
    dataset = concatenation(pairs)
    drawn = []
    for rank in (0, 1):
        monkeypatch.setattr('mtkd_cd.data.samplers.get_dist_info', lambda rank=rank: (rank, 2))
        stream = iter(RatioSampler(dataset, (1, 1), seed=3))
        drawn.append([next(stream) for _ in range(4)])
    for own in drawn:
        assert sum(index < 4 for index in own) == 2
    assert sorted(index for own in drawn for index in own if index < 4) == [0, 1, 2, 3]


def test_resumed_stream_goes_on_where_it_was_cut(pairs):
    dataset = concatenation(pairs)
    config = dict(type='RatioSampler', ratio=(1, 3))
    whole = iter(NumberedSampler(dataset, config, seed=5))
    whole = [next(whole) for _ in range(50)]
    resumed = NumberedSampler(dataset, config, seed=5)
    resumed.skip(23)
    resumed = iter(resumed)
    assert [next(resumed) for _ in range(27)] == whole[23:]


def test_ratio_without_parts_is_refused(pairs):
    with pytest.raises(UserError, match='no ConcatDataset'):
        RatioSampler(DATASETS.build(pairs(3)), (1, 1))
    with pytest.raises(UserError, match='of 2 parts'):
        RatioSampler(concatenation(pairs), (1, 1, 2))
    with pytest.raises(UserError, match='integers'):
        RatioSampler(concatenation(pairs), (0.5, 1))


def test_share_of_an_empty_part_is_refused(pairs):
    class Parts(list):  # a FoldDataset that has kept no pair of the second part
        cumulative_sizes = (3, 3)

    with pytest.raises(UserError, match=r'part 1 .* holds no pair'):
        RatioSampler(Parts('abc'), (1, 1), seed=0)
    assert sorted(itertools.islice(RatioSampler(Parts('abc'), (1, 0), seed=0), 3)) == [0, 1, 2]


def test_unlabelled_batch_trains_a_distiller(pairs):
    """From files to a step: labelled and unlabelled pairs in one batch of our own model."""
    from mmengine.config import Config
    from mmengine.dataset import pseudo_collate

    from mtkd_cd.registry import MODELS

    models = Path(mtkd_cd.__file__).parent / 'configs' / '_base_' / 'models'
    student = Config.fromfile(models / 'fc_siam_diff.py').model
    dataset = concatenation(pairs)
    stream = iter(RatioSampler(dataset, (1, 1), seed=0))
    torch.manual_seed(0)
    np.random.seed(0)
    batch = pseudo_collate([dataset[next(stream)] for _ in range(4)])
    model = MODELS.build(
        dict(type='MultiTeacherDistiller', student=student, unlabelled={}, routing='best')
    )
    data = model.data_preprocessor(batch, training=True)
    losses = model.loss(**data)
    assert losses['loss_distill'] > 0
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
