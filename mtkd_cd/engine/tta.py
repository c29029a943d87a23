"""Test-time augmentation of a config's test (``--tta``)."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config, ConfigDict

from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.config import is_type, nodes

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
    pipeline = cfg.get('tta_pipeline')
    if pipeline is not None and not any(
        'TestTimeAug' in str(step.get('type')) for step in pipeline
    ):
        raise UserError(
            f'{cfg.filename}: tta_pipeline has no TestTimeAug, which makes the views of a pair'
        )
    for dataset in datasets_of_test(cfg):
        dataset.pipeline = _with_views(dataset.pipeline) if pipeline is None else pipeline
    model = dict(cfg.get('tta_model') or dict(type='mtkd_cd.ChangeTTAModel'))
    if is_type(model, 'SegTTAModel'):
        # mmseg's takes neither a cascade nor the label of a pair whose views are mirrored first.
        model['type'] = 'mtkd_cd.ChangeTTAModel'
    cfg.model = ConfigDict(model, module=cfg.model)


def datasets_of_test(cfg: Config) -> list[Any]:
    """The configs of the data sets behind the wrappers of a test's data: those with a pipeline."""
    return [
        node
        for node in nodes(cfg.test_dataloader.dataset)
        if isinstance(node.get('pipeline'), (list, tuple))
    ]


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
