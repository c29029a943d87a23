"""Options that change what a config reads: folder and data set class, CAR range, values and bands,
the split of its test, batches and loader processes."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.images import normalization_of
from mtkd_cd.data.radiometry import from_spec
from mtkd_cd.engine.config import LOADERS, SPECIALIST_DATA, is_type, nodes, ranges_of
from mtkd_cd.registry import MODELS


def set_data(cfg: Config, root: str | Path | None = None, dataset_type: str | None = None) -> None:
    """Read another folder, and as another data set class, in every split.

    Where a config reads several folders, ``root`` holds them, each under its own name.
    """
    found = _data_sets_in(cfg)
    several = len({str(node.data_root) for node in found}) > 1
    for node in found:
        if root is not None:
            name = Path(str(node.data_root)).name if several else ''
            node.data_root = str(Path(root, name))
        node.type = dataset_type or node.type


def _data_sets_in(cfg: Config) -> list[Any]:
    # Not the variable of this name at the top of a config, from which data sets may differ.
    return [node for node in nodes(cfg) if 'data_root' in node and 'type' in node]


def set_range(cfg: Config, name: str) -> None:
    """Make a specialist's config that of the range ``name``: training and validation data.

    Raises:
        UserError: The config trains on no range, or there is no such range.
    """
    wrappers = [node for node in nodes(cfg) if is_type(node, SPECIALIST_DATA)]
    if not wrappers:
        raise UserError(
            f'--range {name}: {cfg.filename} trains on no CAR range; take the config of that '
            'name in configs/partition/'
        )
    for wrapper in wrappers:
        ranges_of(wrapper).index_of_name(name)
        wrapper.pop('partition', None)
        wrapper['range'] = name


def set_radiometry(cfg: Config, rule: str) -> None:
    """Bring the values of all images to 0..255 by this rule.

    Raises:
        UserError: No such rule.
    """
    described = from_spec(rule).describe()
    for node in _data_sets_in(cfg):
        node.radiometry = ConfigDict(described)


def set_bands(cfg: Config, bands: Sequence[int]) -> None:
    """Read these bands, and make the first convolutions and the normalisation of all detectors fit
    their number.

    Args:
        cfg: The config.
        bands: Numbers from 1, red, green and blue first.

    Raises:
        UserError: A backbone that takes three bands only.
    """
    count = len(bands)
    for node in _data_sets_in(cfg):
        node.bands = list(bands)
    for node in nodes(cfg):
        if count != 3 and isinstance(node.get('image_encoder'), dict):
            raise UserError(
                f'the image encoder of {node.type} takes three bands, found {count} in bands: '
                'choose three of them, or another model'
            )
        if isinstance(node.get('backbone'), dict):
            _widen_detector(node, count)
        if is_type(node, 'DualInputSegDataPreProcessor') and _is_for_other_bands(node, count):
            mean, std = normalization_of(count)
            node.mean, node.std = [*mean] * 2, [*std] * 2


def _is_for_other_bands(preprocessor: Any, count: int) -> bool:
    """Whether its normalisation does not fit pairs of so many bands; one that does may be another
    than ours, as that of BAN."""
    mean = preprocessor.get('mean')
    return isinstance(mean, (list, tuple)) and len(mean) not in (1, 2 * count)


def _widen_detector(detector: Any, count: int) -> None:
    backbone = detector.backbone
    if count == detector.get('backbone_inchannels', 3):
        return
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        kind = MODELS.get(backbone.type) if isinstance(backbone.type, str) else backbone.type
    names = {
        name
        for base in getattr(kind, '__mro__', ())
        for name in inspect.signature(base.__init__).parameters
    }
    if 'in_channels' not in names:
        raise UserError(
            f'{detector.get("type")} with backbone {backbone.type} takes three bands, found '
            f'{count} in bands: choose three of them, or another model'
        )
    # FC-EF and its like see both dates as one image.
    backbone.in_channels = 2 * count if backbone.get('in_channels') == 6 else count
    detector.backbone_inchannels = count


def set_test_data_to_validation(cfg: Config) -> None:
    """Let the config's test be one on the validation split.

    Raises:
        UserError: The config has none.
    """
    if not cfg.get('val_dataloader'):
        raise UserError(
            f'{cfg.filename} has no val_dataloader: what is chosen by validation needs validation '
            'data'
        )
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator


def set_loaders(cfg: Config, batch_size: int | None = None, num_workers: int | None = None) -> None:
    """Images per training step, and loader processes of every split."""
    if batch_size is not None:
        cfg.train_dataloader.batch_size = batch_size
    if num_workers is not None:
        for key in LOADERS:
            loader: Any = cfg.get(key)
            if not loader:
                continue
            loader.num_workers = num_workers
            loader.persistent_workers = num_workers > 0
