"""Test-time augmentation of a config's test (``--tta``)."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config, ConfigDict

from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.config import is_type

# The pair as it is stored, and mirrored both ways.
VIEWS = (
    dict(type='MultiImgRandomFlip', prob=0.0, direction='horizontal'),
    dict(type='MultiImgRandomFlip', prob=1.0, direction='horizontal'),
    dict(type='MultiImgRandomFlip', prob=1.0, direction='vertical'),
)
_LAST = ('Annotations', 'Pack')  # what a pipeline ends with: labels are not mirrored


def set_tta(cfg: Config) -> None:
    """Test several views of each pair, and average what is predicted. The views are those of the
    config's ``tta_pipeline`` and ``tta_model``; without them, the pair as it is stored and mirrored
    both ways.

    Raises:
        UserError: The config's own pipeline has no ``TestTimeAug``.
    """
    dataset = dataset_of_test(cfg)
    pipeline = cfg.get('tta_pipeline')
    if pipeline is None:
        pipeline = _with_views(dataset.pipeline)
    elif not any('TestTimeAug' in str(step.get('type')) for step in pipeline):
        raise UserError(
            f'{cfg.filename}: tta_pipeline has no TestTimeAug, which makes the views of a pair'
        )
    dataset.pipeline = pipeline
    model = dict(cfg.get('tta_model') or dict(type='mtkd_cd.ChangeTTAModel'))
    if is_type(model, 'SegTTAModel'):
        # mmseg's takes neither a cascade nor the label of a pair whose views are mirrored first.
        model['type'] = 'mtkd_cd.ChangeTTAModel'
    cfg.model = ConfigDict(model, module=cfg.model)


def dataset_of_test(cfg: Config) -> Any:
    """The config of the data set behind the wrappers of a test's data."""
    dataset = cfg.test_dataloader.dataset
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset


def _with_views(pipeline: list) -> list:
    first = next(
        (
            index
            for index, step in enumerate(pipeline)
            if any(name in str(step.get('type')) for name in _LAST)
        ),
        len(pipeline),
    )
    views = [list(map(dict, VIEWS)), *([step] for step in pipeline[first:])]
    return [*pipeline[:first], ConfigDict(type='TestTimeAug', transforms=views)]


def without_labels(pipeline: list) -> list:
    """A pipeline that loads no labels, its views neither."""
    return list(_without_labels(pipeline))


def _without_labels(pipeline: list) -> Iterator[Any]:
    for step in pipeline:
        kind = str(step.get('type')) if isinstance(step, dict) else ''
        if 'TestTimeAug' in kind:
            branches = [without_labels(branch) for branch in step['transforms']]
            yield ConfigDict(step, transforms=[branch for branch in branches if branch])
        elif 'Annotations' not in kind:
            yield step
