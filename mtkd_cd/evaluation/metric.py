"""The benchmark's metric as an mmengine evaluator: per-image scores and their means, pooled scores,
breakdown by CAR."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from mtkd_cd.core.car import DEFAULT_THRESHOLDS, IGNORE_INDEX, CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.evaluation.counts import at_size_of, confusion_counts, outcome_counts
from mtkd_cd.evaluation.image_names import image_names, image_paths
from mtkd_cd.evaluation.image_table import (
    NUM_QUANTILES,
    ImageTable,
    Provenance,
    check_table_suffix,
)
from mtkd_cd.evaluation.scores import MEAN_NAMES, check_zero_division
from mtkd_cd.registry import METRICS

_UNNAMED = 'a sample without img_path'
_NEVER_WAIT = ('cpu', 'meta')  # devices that the host need not wait for
# What our metric's names get in front where another metric of the evaluator has the same ones.
PREFIX = 'per_image'


@METRICS.register_module()
class PerImageChangeMetric(BaseMetric):
    """Scores of each image, averaged over the images (arXiv:2502.13407, Appendix D), in percent.

    ``evaluate`` returns ``mIoU``, ``mRecall``, ``mPrecision``, ``mFscore`` and the same of each
    class (``IoU_changed``, ...). It returns the pooled figures (``pooled_mIoU``,
    ``pooled_Fscore_changed``, ``pooled_aAcc``, ...) and the means in each CAR range that has images
    (``mIoU_small``, ...). It logs all of them as tables. Without a single image it returns nothing.

    Works with every detector that writes ``pred_sem_seg``; predictions are compared at the label's
    own size. In an evaluation by several processes each image counts once. mmengine gathers what
    the processes found in the order of the data set. It drops the images that the sampler repeated
    to give every process equally many.

    Beside ``mmseg.IoUMetric``, whose scores have the same names, give it a ``prefix``
    (:func:`with_distinct_names` does); mmengine refuses two scores of one name.

    Args:
        ignore_index: Label value of pixels that don't count.
        zero_division: Score, as a fraction, of what is undefined (0 / 0). 1: nothing to find and
            nothing found is perfect.
        thresholds: CAR thresholds of the breakdown by range.
        names: Names of the ranges; see :class:`~mtkd_cd.core.car.CARPartition`.
        num_quantiles: Bins of equally many images in the logged breakdown by CAR.
        out_file: Where to write the per-image table, ``.json`` or ``.csv``.
        provenance: Which run the table is of: a dict of
            :class:`~mtkd_cd.evaluation.image_table.Provenance`'s fields, ``dict(model='fc_ef',
            strategy='mtkd', seed=0, dataset='JL1-CD/test')``; a JSON table keeps them.
        whole_names: Whether the rows of the table are called by their path below the folder that
            all images share, ``levir/test/B/0.png``: which of several data sets one is from.
        collect_device: As in mmengine's ``BaseMetric``; likewise ``prefix`` and ``collect_dir``.

    Raises:
        UserError: ``zero_division`` outside [0, 1], ``num_quantiles`` below 1, an ``out_file`` of
            another kind, bad thresholds; while evaluating, an image without a label or a
            prediction, or a mask with other values than 0, 1 and ``ignore_index``.
    """

    default_prefix = ''  # not None, about which mmengine warns

    def __init__(
        self,
        ignore_index: int = IGNORE_INDEX,
        zero_division: float = 1.0,
        thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
        names: Sequence[str] | None = None,
        num_quantiles: int = NUM_QUANTILES,
        out_file: str | os.PathLike | None = None,
        provenance: Mapping[str, Any] | None = None,
        whole_names: bool = False,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        check_zero_division(zero_division)
        if num_quantiles < 1:
            raise UserError(f'num_quantiles={num_quantiles}: at least one bin is needed')
        if out_file is not None:
            check_table_suffix(out_file)
        self.ignore_index = ignore_index
        self.zero_division = zero_division
        self.partition = CARPartition(thresholds, names)
        self.num_quantiles = num_quantiles
        self.out_file = out_file
        self.provenance = Provenance.of(provenance or {})
        self.whole_names = whole_names

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch on its device and keep one row per image.

        Counts of an accelerator stay there until :meth:`evaluate`: to read them, the host would
        have to wait for the device in every batch. Only the first image is checked at once, so that
        masks of another coding are refused before hours have passed.
        """
        for sample in data_samples:
            coarse_range = sample.get('range') if 'coarse_car' in sample else None
            row = (image_paths(sample), self._count(sample), sample.get('coarse_car'), coarse_range)
            self.results.append(row)

    def _count(self, sample: Mapping[str, Any]) -> list[int] | Tensor:
        """TP, FP, FN, TN; or a tensor of them and of what :func:`outcome_counts` adds."""
        prediction, label = _mask(sample, 'pred_sem_seg'), _mask(sample, 'gt_sem_seg')
        label = label.to(prediction.device, non_blocking=True)
        prediction = at_size_of(prediction, label)
        if self.results and prediction.device.type not in _NEVER_WAIT:
            return outcome_counts(prediction, label, self.ignore_index)
        try:
            return confusion_counts(prediction, label, self.ignore_index).tolist()
        except UserError as error:
            raise UserError(f'{_file_of(sample)}: {error}') from None

    def evaluate(self, size: int) -> dict[str, float]:
        """Scores of the ``size`` images of the data set, from what all processes counted.

        Raises:
            UserError: A mask with other values than 0, 1 and ``ignore_index``.
        """
        places = [i for i, row in enumerate(self.results) if isinstance(row[1], Tensor)]
        if places:
            outcomes = torch.stack([self.results[place][1] for place in places]).tolist()
            for place, (*counts, strange_predictions, strange_labels) in zip(places, outcomes):
                paths, _, *coarse = self.results[place]
                _refuse_strange(paths, 'prediction', strange_predictions, '0 and 1')
                _refuse_strange(paths, 'label', strange_labels, f'0, 1 and {self.ignore_index}')
                self.results[place] = (paths, counts, *coarse)
        return super().evaluate(size)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Scores from the rows of all images."""
        if not results:
            return {}
        paths, counts, coarse_cars, coarse_ranges = zip(*results)
        table = ImageTable(
            files=image_names(paths, self.whole_names),
            counts=np.array(counts, np.int64),
            coarse_cars=list(coarse_cars),
            coarse_ranges=list(coarse_ranges),
            partition=self.partition,
            zero_division=self.zero_division,
            provenance=self.provenance,
        )
        print_log('\n' + table.report(self.num_quantiles), logger='current')
        if self.out_file is not None:
            table.save(self.out_file)
            print_log(f'per-image table: {self.out_file}', logger='current')
        pooled = {f'pooled_{name}': score for name, score in table.pooled().items()}
        ranges: dict[str, float] = {}
        for car_bin in table.ranges():
            if car_bin.scores:
                ranges |= {f'{name}_{car_bin.name}': car_bin.scores[name] for name in MEAN_NAMES}
        return table.means() | pooled | ranges


def with_distinct_names(evaluators: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Configs of the metrics of one evaluator, none of which hides another's scores.

    ``mmseg.IoUMetric`` returns ``mIoU``, ``mFscore``, ... too, of all pixels together, and mmengine
    refuses two scores of one name. Beside a metric without a prefix :class:`PerImageChangeMetric`
    gets the prefix ``per_image``, ``per_image/mIoU``, unless it has one. So ``save_best='mIoU'``
    goes on to mean what it meant in the config before ours was added.

    Args:
        evaluators: The config's metrics, in order.
    """
    ours = [_is_ours(evaluator.get('type')) for evaluator in evaluators]
    named = [dict(evaluator) for evaluator in evaluators]
    if any(not own and not evaluator.get('prefix') for evaluator, own in zip(named, ours)):
        for evaluator, own in zip(named, ours):
            if own and not evaluator.get('prefix'):
                evaluator['prefix'] = PREFIX
    return named


def _is_ours(kind: Any) -> bool:
    if isinstance(kind, str):
        return kind.rpartition('.')[2] == PerImageChangeMetric.__name__
    return isinstance(kind, type) and issubclass(kind, PerImageChangeMetric)


def _mask(sample: Mapping[str, Any], key: str) -> Tensor:
    if key in sample:
        return sample[key]['data'].squeeze(0)  # (1, H, W) -> (H, W)
    if key == 'gt_sem_seg':
        advice = (
            'no label to compare with (gt_sem_seg): the test pipeline must load annotations, and '
            'the split must have labels'
        )
    else:
        advice = (
            'no prediction (pred_sem_seg): the model must return data samples from mode="predict"'
        )
    raise UserError(f'{_file_of(sample)}: {advice}')


def _refuse_strange(paths: Sequence[str], what: str, num_pixels: int, wanted: str) -> None:
    if num_pixels:
        raise UserError(
            f'{paths[-1] if paths else _UNNAMED}: a {what} mask holds {wanted}; found other values '
            f'in {num_pixels} pixels'
        )


def _file_of(sample: Mapping[str, Any]) -> str:
    paths = image_paths(sample)
    return paths[-1] if paths else _UNNAMED
