"""The part of a data set in chosen CAR ranges, round and inside other data sets and wrappers."""

import pickle

import numpy as np
import pytest
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset, pseudo_collate
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.structures import BaseDataElement
from mmseg.datasets import BaseSegDataset
from torch.utils.data import DataLoader

from mtkd_cd.core.errors import UserError
from mtkd_cd.data import car_partition
from mtkd_cd.data.benchmarks import JL1_CD_Dataset
from mtkd_cd.data.car_partition import CARPartitionDataset
from mtkd_cd.registry import DATASETS

# CARs 0, 0.05, 0.0525, 0.2, 0.2025, 1 with thresholds 0.05 and 0.2.
CHANGED = [0, 20, 21, 80, 81, 400]
RANGES = {'small': [0, 1], 'medium': [2, 3], 'large': [4, 5]}


def pack(results):
    """A pipeline step that makes a data sample of the results that it sees."""
    return {
        'inputs': np.zeros(1),
        'data_samples': BaseDataElement(metainfo={'img_path': results['img_path']}),
    }


@pytest.fixture
def root(tmp_path, write_pairs):
    write_pairs(tmp_path / 'train', CHANGED)
    write_pairs(tmp_path / 'val', [0])
    return tmp_path


@pytest.fixture
def config(root):
    return {'type': 'JL1_CD_Dataset', 'data_root': str(root), 'split': 'train'}


def rows_of(dataset):
    paths = [dataset.get_data_info(idx)['seg_map_path'] for idx in range(len(dataset))]
    return [int(path.rsplit('/', 1)[1].removesuffix('.png')) for path in paths]


@pytest.mark.parametrize('name', RANGES)
def test_thresholds_belong_to_the_range_below(config, name):
    dataset = DATASETS.build({'type': 'CARPartitionDataset', 'range': name, 'dataset': config})
    assert rows_of(dataset) == RANGES[name]
    assert dataset.cars.tolist() == [CHANGED[row] / 400 for row in RANGES[name]]


def test_several_ranges_own_names_and_own_thresholds(config):
    assert rows_of(CARPartitionDataset(config, ['small', 'large'])) == [0, 1, 4, 5]
    assert rows_of(CARPartitionDataset(config, 'large', thresholds=(0.1,))) == [3, 4, 5]
    assert rows_of(
        CARPartitionDataset(
            config, ('tiny',), thresholds=[0.01, 0.1, 0.5], names=['tiny', 'low', 'mid', 'high']
        )
    ) == [0]


def test_parts_are_the_whole(config):
    assert sorted(
        row for name in RANGES for row in rows_of(CARPartitionDataset(config, name))
    ) == list(range(6))


def test_sample_of_a_foreign_pipeline_carries_its_car(config):
    dataset = CARPartitionDataset({**config, 'pipeline': [pack]}, 'medium')
    for idx, row in enumerate(RANGES['medium']):
        sample = dataset[idx]['data_samples']
        assert sample.car == CHANGED[row] / 400
        assert 'car' in sample.metainfo_keys()
    assert len(list(dataset)) == 2  # iteration ends


def test_car_that_the_pipeline_wrote_stays(config):
    def pack_own(results):
        return {'data_samples': BaseDataElement(metainfo={'car': 0.125})}

    dataset = CARPartitionDataset({**config, 'pipeline': [pack_own]}, 'medium')
    assert dataset[0]['data_samples'].car == 0.125


def test_each_sample_of_test_time_augmentation_carries_the_car(config):
    dataset = CARPartitionDataset(
        {
            **config,
            'pipeline': [lambda results: {'data_samples': [BaseDataElement(), BaseDataElement()]}],
        },
        'large',
    )
    assert [sample.car for sample in dataset[1]['data_samples']] == [1.0, 1.0]


def test_metainfo_and_category_ids(config):
    dataset = CARPartitionDataset(config, list(RANGES))
    assert (
        dataset.metainfo
        == JL1_CD_Dataset(**{key: value for key, value in config.items() if key != 'type'}).metainfo
    )
    assert [dataset.get_cat_ids(idx) for idx in (0, 1, 5)] == [[0], [0, 1], [1]]


def test_lazy_init_reads_nothing_until_it_is_asked(config, monkeypatch):
    looked_up = []
    monkeypatch.setattr(
        car_partition,
        'cars_of_data_infos',
        lambda infos: looked_up.append(1) or np.zeros(len(list(infos))),
    )
    dataset = CARPartitionDataset({**config, 'lazy_init': True}, 'small', lazy_init=True)
    assert looked_up == []
    assert dataset.metainfo['classes'] == ('unchanged', 'changed')
    dataset.full_init()
    dataset.full_init()
    assert looked_up == [1]
    assert len(dataset) == 6


def test_empty_range_shows_the_cars_and_suggests_thresholds(config):
    with pytest.raises(UserError) as caught:
        CARPartitionDataset(config, 'medium', thresholds=(0.3, 0.4))
    text = str(caught.value)
    assert 'medium (0.3 < CAR <= 0.4)' in text
    assert 'CAR = 0      1' in text
    suggested = eval(text.split('thresholds=')[1].split(')')[0] + ')')
    for name in RANGES:
        assert len(CARPartitionDataset(config, name, thresholds=suggested)) > 0


def test_unknown_range_and_wrong_data_sets_are_refused(config, root):
    with pytest.raises(UserError, match=r"'tiny'.*small, medium, large"):
        CARPartitionDataset(config, 'tiny')
    with pytest.raises(UserError, match='get_data_info'):
        CARPartitionDataset([1, 2], 'small')
    unlabelled = {
        'type': 'CDDataset',
        'data_prefix': {
            'img_path_from': str(root / 'train/A'),
            'img_path_to': str(root / 'train/B'),
        },
    }
    with pytest.raises(UserError, match='has no label'):
        CARPartitionDataset(unlabelled, 'small')


@pytest.mark.parametrize('serialize', [True, False])
def test_pickled_copy_and_workers_give_the_same_samples(config, serialize):
    dataset = CARPartitionDataset(
        {**config, 'serialize_data': serialize, 'pipeline': [pack]}, 'large'
    )
    assert rows_of(pickle.loads(pickle.dumps(dataset))) == RANGES['large']
    loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=pseudo_collate)
    assert [sample.car for batch in loader for sample in batch['data_samples']] == [81 / 400, 1.0]


def test_rejected_sample_is_replaced_by_one_of_the_same_range(config):
    def reject_first(results):
        return None if results['seg_map_path'].endswith('004.png') else pack(results)

    np.random.seed(0)
    dataset = CARPartitionDataset({**config, 'pipeline': [reject_first]}, 'large')
    assert [dataset[0]['data_samples'].car for _ in range(5)] == [1.0] * 5
    nothing = CARPartitionDataset(
        {**config, 'pipeline': [lambda results: None], 'max_refetch': 3}, 'large'
    )
    with pytest.raises(UserError, match='None 4 times'):
        nothing[0]


def test_test_mode_never_replaces_a_sample(config):
    dataset = CARPartitionDataset(
        {**config, 'test_mode': True, 'pipeline': [lambda results: None]}, 'large'
    )
    with pytest.raises(UserError, match='None 1 times'):
        dataset[0]


class TestWrappers:
    """mmengine's wrappers, inside and outside."""

    def test_round_concat(self, config, tmp_path, write_pairs):
        write_pairs(tmp_path / 'more/train', [10, 200])
        write_pairs(tmp_path / 'more/val', [0])
        other = {**config, 'data_root': str(tmp_path / 'more'), 'pipeline': [pack]}
        both = {'type': 'ConcatDataset', 'datasets': [{**config, 'pipeline': [pack]}, other]}
        dataset = CARPartitionDataset(both, 'small')
        assert dataset.cars.tolist() == [0, 20 / 400, 10 / 400]
        assert '/more/' in dataset[2]['data_samples'].img_path[0]
        assert dataset[2]['data_samples'].car == 10 / 400

    def test_round_repeat_and_class_balanced(self, config):
        packed = {**config, 'pipeline': [pack]}
        repeated = CARPartitionDataset(
            {'type': 'RepeatDataset', 'times': 2, 'dataset': packed}, 'medium'
        )
        assert rows_of(repeated) == [2, 3, 2, 3]
        assert repeated[3]['data_samples'].car == 80 / 400
        balanced = CARPartitionDataset(
            {'type': 'ClassBalancedDataset', 'oversample_thr': 0.9, 'dataset': packed}, 'medium'
        )
        assert set(rows_of(balanced)) == {2, 3}
        assert balanced[len(balanced) - 1]['data_samples'].car == 80 / 400

    def test_inside_concat_repeat_and_class_balanced(self, config):
        parts = [
            {
                'type': 'CARPartitionDataset',
                'range': name,
                'dataset': {**config, 'pipeline': [pack]},
            }
            for name in RANGES
        ]
        dataset = MMENGINE_DATASETS.build({'type': 'ConcatDataset', 'datasets': parts})
        assert [dataset[idx]['data_samples'].car for idx in range(6)] == [
            changed / 400 for changed in CHANGED
        ]
        repeated = RepeatDataset(parts[0], times=3)
        assert rows_of(repeated) == RANGES['small'] * 3
        balanced = MMENGINE_DATASETS.build(
            {'type': 'ClassBalancedDataset', 'oversample_thr': 0.9, 'dataset': parts[0]}
        )
        assert rows_of(balanced) == [
            0,
            1,
            1,
        ]  # half of the labels hold change: sqrt(0.9 / 0.5), rounded up

    def test_partition_of_a_partition(self, config):
        inner = CARPartitionDataset({**config, 'pipeline': [pack]}, ['medium', 'large'])
        outer = CARPartitionDataset(inner, 'large', thresholds=(0.5,))
        assert outer[0]['data_samples'].car == 1.0
        assert len(outer) == 1


def test_mmseg_dataset_with_one_image_per_sample(tmp_path, write_pairs):
    write_pairs(tmp_path, CHANGED, white=1)
    arguments = {
        'data_prefix': {'img_path': str(tmp_path / 'A'), 'seg_map_path': str(tmp_path / 'label')},
        'img_suffix': '.png',
    }
    dataset = CARPartitionDataset(BaseSegDataset(**arguments, pipeline=[pack]), 'large')
    assert rows_of(dataset) == RANGES['large']
    sample = dataset[0]['data_samples']
    assert sample.img_path == str(tmp_path / 'A/004.png')
    assert sample.car == 81 / 400
    assert len(CARPartitionDataset(ConcatDataset([BaseSegDataset(**arguments)] * 2), 'small')) == 4


def test_foreign_dataset_of_black_and_white_labels_has_to_say_so(tmp_path, write_pairs):
    """As mmseg reads them, 255 is ignored, and every pair would be one of small changes."""
    write_pairs(tmp_path, CHANGED)
    paths = {'img_path': str(tmp_path / 'A'), 'seg_map_path': str(tmp_path / 'label')}
    dataset = BaseSegDataset(data_prefix=paths, img_suffix='.png', pipeline=[pack])
    with pytest.raises(UserError, match=r"'to_binary'.*'with_ignored'"):
        CARPartitionDataset(dataset, 'small')


def test_foreign_dataset_that_prepares_its_samples_itself(config):
    class Foreign(BaseDataset):
        def load_data_list(self):
            return JL1_CD_Dataset(
                **{key: value for key, value in config.items() if key != 'type'},
                serialize_data=False,
            ).data_list

        def prepare_data(self, idx):
            return {'data_samples': BaseDataElement(metainfo={'own': idx})}

    sample = CARPartitionDataset(Foreign(), 'large')[1]['data_samples']
    assert (sample.own, sample.car) == (5, 1.0)
