"""The data set classes: layouts, splits, the held-out tenth, Open-CD's arguments and errors."""

import pickle
import random

import numpy as np
import pytest
from mmengine.dataset import ClassBalancedDataset, pseudo_collate
from mmengine.logging import MMLogger
from PIL import Image
from torch.utils.data import DataLoader

from mtkd_cd.core.errors import UserError
from mtkd_cd.data import base
from mtkd_cd.data.benchmarks import CDDataset, JL1_CD_Dataset
from mtkd_cd.registry import DATASETS

# Name: folders of date A, date B and label; image suffix; label suffix; label coding.
FOLDER_LAYOUTS = {
    'JL1_CD_Dataset': ('A', 'B', 'label', '.png', '.png', 'to_binary'),
    'SYSU_CD_Dataset': ('A', 'B', 'label', '.png', '.png', 'to_binary'),
    'LEVIR_CD_Dataset': ('A', 'B', 'label', '.png', '.png', 'to_binary'),
    'SVCD_Dataset': ('A', 'B', 'OUT', '.jpg', '.jpg', 'to_binary'),
    'CDD_Dataset': ('A', 'B', 'OUT', '.jpg', '.jpg', 'to_binary'),
    'DSIFN_Dataset': ('t1', 't2', 'mask', '.jpg', '.png', None),
    'CLCD_Dataset': ('time1', 'time2', 'label', '.png', '.png', 'to_binary'),
    'S2Looking_Dataset': ('Image1', 'Image2', 'label', '.png', '.png', 'to_binary'),
    'RSIPAC_CD_Dataset': ('A', 'B', 'label', '.tif', '.png', None),
    'CDDataset': ('A', 'B', 'label', '.bmp', '.tif', 'to_binary'),
}


def names_of(dataset):
    return [
        dataset.get_data_info(idx)['img_path'][0].rsplit('/', 1)[1].split('.')[0]
        for idx in range(len(dataset))
    ]


@pytest.mark.parametrize('name', FOLDER_LAYOUTS)
def test_each_class_finds_its_own_layout(tmp_path, write_pairs, name):
    date_a, date_b, label, suffix, label_suffix, coding = FOLDER_LAYOUTS[name]
    for split, count in (('train', 3), ('val', 1), ('test', 2)):
        write_pairs(
            tmp_path / split,
            [4] * count,
            (date_a, date_b, label),
            suffix,
            label_suffix,
            white=1 if coding is None else 255,
        )
    for split, count in (('train', 3), ('val', 1), ('test', 2)):
        dataset = DATASETS.build({'type': name, 'data_root': str(tmp_path), 'split': split})
        assert len(dataset) == count
        assert dataset.get_data_info(count - 1) == {
            'img_path': [
                str(tmp_path / split / folder / f'00{count - 1}{suffix}')
                for folder in (date_a, date_b)
            ],
            'seg_map_path': str(tmp_path / split / label / f'00{count - 1}{label_suffix}'),
            'label_map': None,
            'format_seg_map': coding,
            'reduce_zero_label': False,
            'seg_fields': [],
            'sample_idx': count - 1,
        }
        assert dataset.metainfo['classes'] == ('unchanged', 'changed')
        assert dataset.metainfo['palette'] == [[0, 0, 0], [255, 255, 255]]
        assert dataset.get_cat_ids(0) == [0, 1]


@pytest.mark.parametrize('name', ['WHU_CD_Dataset', 'LEVIR_CD_Dataset', 'CDDataset'])
def test_list_layout(tmp_path, write_pairs, name):
    files = write_pairs(tmp_path, [4] * 6)
    (tmp_path / 'list').mkdir()
    for split, chosen in (('train', files[:3]), ('val', files[3:4]), ('test', files[:3:-1])):
        (tmp_path / 'list' / f'{split}.txt').write_text('\n'.join(chosen))
    build = {'type': name, 'data_root': str(tmp_path)}
    assert [
        names_of(DATASETS.build({**build, 'split': split})) for split in ('train', 'val', 'test')
    ] == [
        ['000', '001', '002'],
        ['003'],
        ['005', '004'],
    ]


def test_open_cd_arguments(tmp_path, write_pairs):
    write_pairs(tmp_path / 'train', [4] * 3)
    (tmp_path / 'some.txt').write_text('002\n\n000\n')
    prefix = {'img_path_from': 'train/A', 'img_path_to': 'train/B', 'seg_map_path': 'train/label'}
    arguments = {
        'type': 'LEVIR_CD_Dataset',
        'data_root': str(tmp_path),
        'data_prefix': prefix,
        'pipeline': [],
    }
    assert names_of(DATASETS.build(arguments)) == ['000', '001', '002']
    assert names_of(DATASETS.build({**arguments, 'ann_file': 'some.txt'})) == ['002', '000']
    assert names_of(
        DATASETS.build(
            {**arguments, 'ann_file': 'some.txt', 'img_suffix': '', 'seg_map_suffix': ''}
        )
    ) == ['002', '000']
    assert names_of(DATASETS.build({**arguments, 'indices': 2})) == ['000', '001']
    assert names_of(DATASETS.build({**arguments, 'backend_args': {'backend': 'local'}})) == [
        '000',
        '001',
        '002',
    ]
    unlabelled = DATASETS.build(
        {**arguments, 'data_prefix': {key: prefix[key] for key in ('img_path_from', 'img_path_to')}}
    )
    assert 'seg_map_path' not in unlabelled.get_data_info(0)
    own_classes = {
        'img_suffix': '.png',
        'format_seg_map': 'to_binary',
        'metainfo': {'classes': ('old', 'new')},
    }
    base_class = DATASETS.build({**arguments, 'type': '_BaseCDDataset', **own_classes})
    assert base_class.metainfo['classes'] == ('old', 'new')
    assert np.shape(base_class.metainfo['palette']) == (2, 3)


def test_custom_classes_make_a_label_map(tmp_path, write_pairs):
    write_pairs(tmp_path / 'train', [4])
    dataset = JL1_CD_Dataset(
        data_root=str(tmp_path), split='train', metainfo={'classes': ('changed',)}, lazy_init=True
    )
    assert dataset.metainfo['label_map'] == {0: 255, 1: 0}
    assert dataset.metainfo['palette'] == [[255, 255, 255]]


def test_val_is_a_stratified_tenth_of_train_and_never_of_test(tmp_path, write_pairs):
    changed = [0] * 20 + [2] * 20 + [30] * 20 + [60] * 20 + [200] * 20
    write_pairs(tmp_path / 'train', changed)
    write_pairs(tmp_path / 'test', [0] * 50)
    train, val, test = (
        JL1_CD_Dataset(data_root=str(tmp_path), split=split) for split in ('train', 'val', 'test')
    )
    assert (len(train), len(val), len(test)) == (90, 10, 50)
    assert sorted(names_of(train) + names_of(val)) == [f'{index:03d}' for index in range(100)]
    assert sorted(changed[int(name)] for name in names_of(val)) == [
        0,
        0,
        2,
        2,
        30,
        30,
        60,
        60,
        200,
        200,
    ]
    for dataset in (train, val):
        assert all(
            '/train/' in dataset.get_data_info(idx)['img_path'][0] for idx in range(len(dataset))
        )


def test_held_out_tenth_depends_on_neither_order_nor_place(tmp_path, write_pairs, monkeypatch):
    changed = np.random.default_rng(1).integers(0, 400, 40).tolist()
    roots = [tmp_path / 'one', tmp_path / 'other']
    for root in roots:
        write_pairs(root / 'train', changed)
    expected = names_of(JL1_CD_Dataset(data_root=str(roots[0]), split='val'))
    listing = base.list_pairs

    def shuffled(*args):
        pairs, problems = listing(*args)
        return random.Random(3).sample(pairs, len(pairs)), problems

    monkeypatch.setattr(base, 'list_pairs', shuffled)
    assert sorted(names_of(JL1_CD_Dataset(data_root=str(roots[1]), split='val'))) == expected


def test_held_out_tenth_is_a_golden_one(tmp_path, write_pairs):
    write_pairs(tmp_path / 'train', list(range(0, 400, 20)))
    # Written down: another choice would mix training and validation pairs of earlier runs.
    assert names_of(JL1_CD_Dataset(data_root=str(tmp_path), split='val')) == ['005', '015']


@pytest.mark.parametrize('count', [2, 5, 9])
def test_small_train_still_gives_a_val(tmp_path, write_pairs, count):
    write_pairs(tmp_path / 'train', [7] * count)
    assert [
        len(JL1_CD_Dataset(data_root=str(tmp_path), split=split)) for split in ('train', 'val')
    ] == [count - 1, 1]


def test_single_pair_cannot_be_split(tmp_path, write_pairs):
    write_pairs(tmp_path / 'train', [7])
    with pytest.raises(UserError, match='at least 2'):
        JL1_CD_Dataset(data_root=str(tmp_path), split='val')


def test_choice_of_validation_is_logged_once(tmp_path, write_pairs, caplog):
    write_pairs(tmp_path / 'train', [7] * 20)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    for split in ('train', 'val', 'train'):
        JL1_CD_Dataset(data_root=str(tmp_path), split=split)
    logger.removeHandler(caplog.handler)
    messages = [message for message in caplog.messages if 'held out' in message]
    assert len(messages) == 1
    assert '2 of the 20' in messages[0]


def test_existing_val_leaves_train_whole(tmp_path, write_pairs):
    write_pairs(tmp_path / 'train', [7] * 20)
    write_pairs(tmp_path / 'val', [7] * 3)
    assert [
        len(JL1_CD_Dataset(data_root=str(tmp_path), split=split)) for split in ('train', 'val')
    ] == [20, 3]


def test_missing_test_split_is_not_replaced(tmp_path, write_pairs):
    write_pairs(tmp_path / 'train', [7] * 20)
    with pytest.raises(UserError, match=r"no split 'test' .*found train"):
        JL1_CD_Dataset(data_root=str(tmp_path), split='test')


@pytest.mark.parametrize('name', FOLDER_LAYOUTS)
def test_a_test_does_without_labels_and_a_training_does_not(tmp_path, write_pairs, name):
    date_a, date_b, label, suffix, *_ = FOLDER_LAYOUTS[name]
    for split in ('train', 'test'):
        write_pairs(tmp_path / split, [7], folders=(date_a, date_b), suffix=suffix)
    pipeline = [{'type': 'MultiImgLoadImageFromFile'}, {'type': 'MultiImgLoadAnnotations'}]
    build = {'type': name, 'data_root': str(tmp_path), 'pipeline': pipeline}
    dataset = DATASETS.build({**build, 'split': 'test'})
    assert 'seg_map_path' not in dataset.get_data_info(0)
    sample = dataset[0]
    assert len(sample['img']) == 2
    assert not {'gt_seg_map', 'car'} & set(sample)
    with pytest.raises(UserError, match=f'{label} does not exist'):
        DATASETS.build({**build, 'split': 'train'})


def test_unlabelled_pairs_by_folder_need_test_mode(tmp_path, write_pairs):
    write_pairs(tmp_path, [7], folders=('A', 'B'))
    arguments = {
        'data_root': str(tmp_path),
        'data_prefix': {'img_path_from': 'A', 'img_path_to': 'B'},
        'pipeline': [{'type': 'MultiImgLoadAnnotations'}],
    }
    assert 'gt_seg_map' not in CDDataset(**arguments, test_mode=True)[0]
    with pytest.raises(UserError, match='has no label, which training needs'):
        CDDataset(**arguments)[0]


def test_classes_may_have_other_names(tmp_path, write_pairs):
    write_pairs(tmp_path / 'test', [7])
    build = {'data_root': str(tmp_path), 'split': 'test'}
    dataset = CDDataset(**build, metainfo={'classes': ('background', 'building')})
    assert dataset.metainfo['classes'] == ('background', 'building')
    assert dataset.metainfo['label_map'] is None
    with pytest.raises(UserError, match=r"metainfo\.classes=\('building',\)"):
        CDDataset(**build, metainfo={'classes': ('building',)})


def test_path_that_became_a_list_is_named(tmp_path):
    with pytest.raises(UserError, match=r"data_root=\['/data/a', 'b'\] is no path.*comma"):
        CDDataset(data_root=['/data/a', 'b'], split='test')


def test_all_ignored_or_black_and_white_is_decided_for_the_whole_data_set(tmp_path, write_pairs):
    write_pairs(tmp_path / 'test', [0, 0], white=1)
    build = {'data_root': str(tmp_path), 'split': 'test', 'format_seg_map': None}
    label = np.zeros((20, 20), np.uint8)
    label[:5] = 255
    Image.fromarray(label).save(tmp_path / 'test/label/001.png')
    with pytest.raises(UserError, match=r"'to_binary'.*'with_ignored'"):
        CDDataset(**build)
    assert len(CDDataset(**{**build, 'format_seg_map': 'with_ignored'})) == 2
    label[5] = 1
    Image.fromarray(label).save(tmp_path / 'test/label/000.png')
    assert len(CDDataset(**build)) == 2


def test_change_that_is_declared_as_nodata_is_named(tmp_path, write_pairs):
    rasterio = pytest.importorskip('rasterio')
    write_pairs(tmp_path / 'test', [30, 0])
    build = {'data_root': str(tmp_path), 'split': 'test'}
    assert len(CDDataset(**build)) == 2
    for path in sorted((tmp_path / 'test/label').glob('*.png')):
        stored = np.asarray(Image.open(path))
        path.unlink()
        profile = dict(height=20, width=20, count=1, dtype='uint8', nodata=255)
        with rasterio.open(path.with_suffix('.tif'), 'w', driver='GTiff', **profile) as file:
            file.write(stored[None])
    with pytest.raises(UserError, match=r'000\.tif says that its value 255 means no data.*unset'):
        CDDataset(**build)
    assert len(CDDataset(**{**build, 'format_seg_map': 'with_ignored'})) == 2
    with rasterio.open(tmp_path / 'test/label/001.tif', 'r+') as file:
        file.write(np.eye(20, dtype=np.uint8)[None])  # 0 / 1, so that 255 is ignored
    assert len(CDDataset(**build)) == 2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'split': 'train', 'data_root': 'nowhere'}, 'nowhere does not exist'),
        ({'split': 'train'}, 'needs data_root'),
        ({'split': 'training', 'data_root': 'x'}, "split='training'"),
        ({'split': 'train', 'data_root': 'x', 'ann_file': 'y'}, 'leave one out'),
        ({'data_root': 'x'}, 'img_path_from and img_path_to'),
        (
            {'data_root': 'x', 'data_prefix': {'img_path_from': 'A', 'seg_map_path': 'label'}},
            'lacks img_path_to',
        ),
        (
            {'data_root': 'x', 'data_prefix': {'img_path_from': 'A', 'img_path_to': 'B'}},
            'x/A does not exist',
        ),
        ({'data_root': 'x', 'format_seg_map': 'to_ternary'}, 'to_ternary'),
    ],
)
def test_wrong_arguments_say_what_to_do(arguments, message):
    with pytest.raises(UserError, match=message):
        DATASETS.build({'type': 'JL1_CD_Dataset', **arguments})


def test_bad_files_stop_initialisation(tmp_path, write_pairs):
    write_pairs(tmp_path / 'train', [7] * 3)
    write_pairs(tmp_path / 'val', [7])
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(tmp_path / 'train/label/001.png')
    lazy = JL1_CD_Dataset(data_root=str(tmp_path), split='train', lazy_init=True)
    with pytest.raises(UserError, match=r'train/label/001\.png: is 10 x 10'):
        lazy.full_init()
    (tmp_path / 'train/B/001.png').unlink()
    with pytest.raises(UserError, match=r'A/001\.png: has no partner'):
        JL1_CD_Dataset(data_root=str(tmp_path), split='train')


@pytest.mark.parametrize('split', ['train', 'val', None])
def test_oddly_coded_label_stops_initialisation(tmp_path, write_pairs, split):
    write_pairs(tmp_path / 'train', [7] * 3)
    Image.fromarray(np.eye(20, dtype=np.uint8) * 7).save(tmp_path / 'train/label/002.png')
    prefix = {'img_path_from': 'train/A', 'img_path_to': 'train/B', 'seg_map_path': 'train/label'}
    with pytest.raises(UserError, match=r'train/label/002\.png holds the values \{0, 7\}'):
        JL1_CD_Dataset(data_root=str(tmp_path), split=split, data_prefix=None if split else prefix)


def test_works_pickled_in_workers_and_under_class_balance(tmp_path, write_pairs):
    write_pairs(tmp_path / 'train', [0, 0, 0, 0, 0, 4])
    write_pairs(tmp_path / 'val', [0])
    dataset = JL1_CD_Dataset(data_root=str(tmp_path), split='train')
    assert names_of(pickle.loads(pickle.dumps(dataset))) == names_of(dataset)
    loader = DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=pseudo_collate)
    assert sum(len(batch['img_path'][0]) for batch in loader) == 6
    balanced = ClassBalancedDataset(dataset, oversample_thr=0.7)
    assert names_of(balanced).count('005') == 3  # ceil(sqrt(0.7 / (1 / 6)))
