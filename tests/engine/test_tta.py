"""The views of test-time augmentation in a config."""

import copy
from pathlib import Path

from mtkd_cd.engine.config import load_config
from mtkd_cd.engine.tta import set_tta

CONFIGS = Path(__file__).parents[2] / 'configs'


def load(stage, options=None):
    return load_config(CONFIGS / stage / 'fc_ef.py', options)


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
