"""The data sets of a config, opened, and what there is to know of their files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.stamp import data_stamp
from mtkd_cd.engine.config import SPECIALIST_DATA, is_type, range_of
from mtkd_cd.registry import DATASETS


def open_training_data(cfg: Config) -> Any:
    """The data set that a config trains on.

    Raises:
        UserError: As :func:`open_test_data`.
    """
    return _open_dataset(cfg, cfg.train_dataloader.dataset)


def open_validation_data(cfg: Config) -> tuple[Any, list[str]]:
    """The data set that a config validates on, if it does, and what there is to say about it.

    A specialist whose CAR range has no validation image is made to validate on all of them.

    Raises:
        UserError: As :func:`open_test_data`.
    """
    if not cfg.get('val_dataloader'):
        return None, []
    dataset = cfg.val_dataloader.dataset
    try:
        return _open_dataset(cfg, dataset), []
    except UserError:
        if not is_type(dataset, SPECIALIST_DATA):
            raise
        opened = _open_dataset(cfg, dataset.dataset)
        cfg.val_dataloader.dataset = dataset.dataset
        return opened, [
            f'No validation image has a CAR in the range {range_of(cfg)!r}: validating on all of '
            'them'
        ]


def open_test_data(cfg: Config) -> Any:
    """The data set that a config tests on.

    Raises:
        UserError: What is wrong with the data as far as can be told without reading every image.
    """
    return _open_dataset(cfg, cfg.test_dataloader.dataset)


def _open_dataset(cfg: Config, dataset_cfg: Mapping[str, Any]) -> Any:
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mtkd_cd')):
        dataset = DATASETS.build(dataset_cfg)
    dataset.full_init()
    return dataset


def stamp_of_test_data(cfg: Config) -> dict[str, str]:
    """Digests of the files that a config tests on, see :mod:`mtkd_cd.data.stamp`.

    Raises:
        UserError: As :func:`open_test_data`.
    """
    return data_stamp(open_test_data(cfg))


def folders_read(dataset: Any) -> set[str]:
    """The folders that a data set's files lie in."""
    folders = set()
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        paths = info.get('img_path') or []
        paths = [paths] if isinstance(paths, str) else list(paths)
        folders |= {str(Path(path).parent) for path in (*paths, info.get('seg_map_path')) if path}
    return folders


def has_labels(dataset: Any) -> bool:
    """Whether the samples of a data set have labels; those of one have them or have not."""
    return len(dataset) == 0 or bool(dataset.get_data_info(0).get('seg_map_path'))
