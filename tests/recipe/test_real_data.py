"""A short run of the whole recipe on real image pairs."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from mtkd_cd.core.car import CARPartition
from mtkd_cd.evaluation import load_table

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(
        'MTKD_CD_DATA' not in os.environ,
        reason='MTKD_CD_DATA names no folder with real image pairs',
    ),
]


def car_of(path: Path) -> float:
    return float((cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) >= 128).mean())


def copy_pairs(source: Path, names: list[str], target: Path) -> None:
    for folder in ('A', 'B', 'label'):
        (target / folder).mkdir(parents=True)
        for name in names:
            shutil.copy(source / folder / name, target / folder / name)


def first_of_each_range(source: Path, count: int, partition: CARPartition) -> list[str]:
    chosen: dict[str, list[str]] = {name: [] for name in partition.names}
    for path in sorted((source / 'label').iterdir()):
        members = chosen[partition.names[partition.range_of(float(car_of(path)))]]
        if len(members) < count:
            members.append(path.name)
    return [name for members in chosen.values() for name in members]


def check_report(place: Path, tested: Path, variant: str = '') -> None:
    folder = place / 'report' / 'fc_ef'
    strategies = {'origin', f'op{variant}', f'mtkd{variant}'}
    assert set(json.loads((folder / 'report.json').read_text())['metrics']) == strategies
    for strategy in strategies:
        rows = {row['file']: row for row in load_table(folder / f'{strategy}.json').rows()}
        assert len(rows) == len(list((tested / 'label').iterdir()))
        for name, row in rows.items():
            assert float(row['car']) == pytest.approx(car_of(tested / 'label' / name), abs=1e-6)
            assert 0 <= float(row['mIoU']) <= 100


def test_recipe_on_ombria(tool, recipe_argv, tmp_path):
    source, data = Path(os.environ['MTKD_CD_DATA']) / 'ombria', tmp_path / 'ombria'
    for split, count in (('train', 6), ('val', 2), ('test', 2)):
        copy_pairs(
            source / split, first_of_each_range(source / split, count, CARPartition()), data / split
        )
    assert tool('run_mtkd', *recipe_argv(data=data)) == (0, '')
    check_report(tmp_path / 'recipe', data / 'test')


def test_recipe_on_levir_with_thresholds_of_its_own_and_a_held_out_validation(
    tool, recipe_argv, tmp_path
):
    source, data = Path(os.environ['MTKD_CD_DATA']) / 'levir_samples', tmp_path / 'levir'
    names = sorted(path.name for path in (source / 'label').iterdir())
    thresholds = [
        float(value)
        for value in np.round(
            np.quantile([car_of(source / 'label' / name) for name in names], (0.35, 0.7)), 3
        )
    ]
    copy_pairs(source, names[2:], data / 'train')
    copy_pairs(source, names[:2], data / 'test')
    assert tool('run_mtkd', *recipe_argv('--thresholds', *thresholds, data=data)) == (0, '')
    check_report(tmp_path / 'recipe', data / 'test', f'@{"_".join(map(str, thresholds))}')
