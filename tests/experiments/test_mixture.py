"""Several data sets as one, with labels for some of the pairs."""

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mtkd_cd.core.files import CONFIGS
from mtkd_cd.data.transforms import loading
from mtkd_cd.engine.config import load_config
from mtkd_cd.engine.inputs import set_data
from mtkd_cd.experiments.mixture import mixture
from mtkd_cd.registry import DATASETS

SETS = ('one', 'two')


@pytest.fixture
def root(tmp_path):
    """Two sets of twelve training pairs each, pictures of one colour."""
    for number, name in enumerate(SETS):
        for split, count in (('train', 12), ('val', 2), ('test', 2)):
            for folder in ('A', 'B', 'label'):
                (tmp_path / name / split / folder).mkdir(parents=True)
            for i in range(count):
                picture = np.full((8, 8, 3), 10 * number + i, np.uint8)
                label = np.zeros((8, 8), np.uint8)
                label[: i % 8] = 255
                for folder, image in (('A', picture), ('B', picture), ('label', label)):
                    cv2.imwrite(str(tmp_path / name / split / folder / f'{i}.png'), image)
    return tmp_path


def built(cfg):
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        return DATASETS.build(cfg)


def paths(dataset):
    return [dataset.get_data_info(i)['img_path'][1] for i in range(len(dataset))]


def test_labelled_and_unlabelled_pairs_are_all_pairs_and_none_is_both(root):
    entries = Config(mixture(SETS, str(root), labelled_in=3))
    entries.train_dataloader.dataset.pop('_delete_')
    entries.student_train_dataloader.dataset.pop('_delete_')
    labelled = built(entries.train_dataloader.dataset)
    both = built(entries.student_train_dataloader.dataset)
    first, rest = paths(labelled), paths(both)[len(labelled) :]
    assert paths(both)[: len(labelled)] == first
    assert sorted(first + rest) == sorted(str(path) for path in root.glob('*/train/B/*.png'))
    assert not both[0]['data_samples'].metainfo.get('unlabelled')
    hidden = both[len(labelled)]['data_samples']
    assert hidden.unlabelled
    assert (hidden.gt_sem_seg.data == 255).all()


def test_data_root_holds_the_sets_of_a_mixture(root):
    cfg = load_config(CONFIGS / 'experiments' / 'mix' / 'fc_siam_diff_10.py')
    set_data(cfg, root)
    sets = cfg.test_dataloader.dataset.datasets
    assert [part.data_root for part in sets] == [str(root / s) for s in ('gzcd', 'clcd', 'levir')]
    single = load_config(CONFIGS / 'origin' / 'fc_ef.py')
    set_data(single, root)
    assert single.test_dataloader.dataset.data_root == str(root)


def test_cached_pictures_are_read_once_unless_the_file_changes(root, monkeypatch):
    load = loading.MultiImgLoadImageFromFile(cache=True)
    file = str(root / 'one' / 'test' / 'B' / '1.png')
    first = load.transform(dict(img_path=[file, file]))
    first['img'][0][:] = 200  # as a transform may
    monkeypatch.setattr(loading, 'read_image', lambda *_, **__: pytest.fail('was read again'))
    assert load.transform(dict(img_path=[file, file]))['img'][0].max() == 1
    monkeypatch.undo()
    cv2.imwrite(file, np.full((9, 9, 3), 77, np.uint8))
    assert load.transform(dict(img_path=[file, file]))['img'][0].max() == 77
