"""Several data sets as one: the data of an experiment's configs (``configs/experiments/mix``)."""

import copy
from collections.abc import Sequence
from typing import Any

# Small enough a load for one CPU core beside a GPU: 256 x 256 pairs whole, read once.
_LOAD = [
    dict(type='MultiImgLoadImageFromFile', cache=True),
    dict(type='MultiImgLoadAnnotations', cache=True),
]
_PACK = [dict(type='MultiImgPackSegInputs')]
_AUGMENT = [
    dict(type='MultiImgRandomFlip', prob=0.5, direction='horizontal'),
    dict(type='MultiImgRandomFlip', prob=0.5, direction='vertical'),
    dict(type='MultiImgExchangeTime', prob=0.5),
]
_BATCH_OF_TESTS = 16


def mixture(
    sets: Sequence[str], root: str = 'data', labelled_in: int | None = None
) -> dict[str, Any]:
    """Entries of a config that trains, validates and tests on several sets together.

    Args:
        sets: Folders below ``root``, each with ``train``, ``val`` and ``test``, as ``CDDataset``
            reads them.
        root: The folder that holds them; ``--data-root`` puts another in its place.
        labelled_in: Keep the labels of one pair in so many, chosen by file name. The student alone
            learns from the others too, without their labels: as many of them in a batch as of the
            labelled pairs.

    Returns:
        Loaders and evaluators, to be merged into an origin's config.
    """

    def concat(split: str, pipeline: list, **fold: Any) -> dict[str, Any]:
        parts: list[dict[str, Any]] = []
        for name in sets:
            part: dict[str, Any] = dict(
                type='CDDataset',
                data_root=f'{root}/{name}',
                split=split,
                pipeline=pipeline,
                serialize_data=False,  # for workers; it costs a garbage collection of everything
            )
            if fold:
                part = dict(type='FoldDataset', folds=labelled_in, dataset=part, **fold)
            if 'leave_out' in fold:
                part = dict(type='UnlabelledDataset', dataset=part)
            parts.append(part)
        return copy.deepcopy(dict(type='ConcatDataset', datasets=parts))

    training, testing = [*_LOAD, *_AUGMENT, *_PACK], [*_LOAD, *_PACK]
    train = concat('train', training, **(dict(keep=0) if labelled_in else {}))
    evaluator = dict(_delete_=True, type='PerImageChangeMetric', whole_names=True)
    entries: dict[str, Any] = dict(
        train_dataloader=dict(dataset=dict(_delete_=True, **train)),
        val_evaluator=evaluator,
        test_evaluator=dict(evaluator),
    )
    for split in ('val', 'test'):
        entries[f'{split}_dataloader'] = dict(
            batch_size=_BATCH_OF_TESTS,
            dataset=dict(_delete_=True, **concat(split, testing)),
        )
    if labelled_in:
        both = [copy.deepcopy(train), concat('train', training, leave_out=0)]
        entries['student_model'] = dict(unlabelled=dict(weight=1.0, confidence='probability'))
        entries['student_train_dataloader'] = dict(
            batch_size=16,
            sampler=dict(_delete_=True, type='RatioSampler', ratio=(1, 1)),
            dataset=dict(_delete_=True, type='ConcatDataset', datasets=both),
        )
    return entries
