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

from mtkd_cd.core.car import DEFAULT_THRESHOLDS, CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.evaluation.counts import at_size_of, confusion_counts
from mtkd_cd.evaluation.names import image_names, image_paths
from mtkd_cd.evaluation.scores import MEAN_NAMES
from mtkd_cd.evaluation.tables import NUM_QUANTILES, ImageTable, check_table_suffix
from mtkd_cd.registry import METRICS


@METRICS.register_module()
class PerImageChangeMetric(BaseMetric):
    """Scores of each image, averaged over the images (arXiv:2502.13407, Appendix D), in percent.

    ``evaluate`` returns ``mIoU``, ``mRecall``, ``mPrecision``, ``mFscore``, the same of each class
    (``IoU_changed``, ...), the pooled figures (``pooled_mIoU``, ``pooled_Fscore_changed``,
    ``pooled_aAcc``, ...) and the means in each CAR range that has images (``mIoU_small``, ...); and
    logs them as tables. Without a single image it returns nothing.

    Works with every detector that writes ``pred_sem_seg``; predictions are compared at the label's
    own size. Evaluated by several processes, each image counts once: mmengine gathers what the
    processes found in the order of the data set, as its samplers deal them, and drops those that
    the sampler repeated to give every process equally many.

    Args:
        ignore_index: Label value of pixels that don't count.
        zero_division: Score, as a fraction, of what is undefined (0 / 0). 1: nothing to find and
            nothing found is perfect.
        thresholds: CAR thresholds of the breakdown by range.
        names: Names of the ranges; see :class:`~mtkd_cd.core.car.CARPartition`.
        num_quantiles: Bins of equally many images in the logged breakdown by CAR.
        out_file: Where to write the per-image table, ``.json`` or ``.csv``.
        collect_device: As in mmengine's ``BaseMetric``; likewise ``prefix`` and ``collect_dir``.

    Raises:
        UserError: ``zero_division`` outside [0, 1], ``num_quantiles`` below 1, an ``out_file`` of
            another kind, bad thresholds; while evaluating, an image without a label or a
            prediction, or a mask with other values than 0, 1 and ``ignore_index``.
    """

    default_prefix = ''  # not None, about which mmengine warns

    def __init__(
        self,
        ignore_index: int = 255,
        zero_division: float = 1.0,
        thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
        names: Sequence[str] | None = None,
        num_quantiles: int = NUM_QUANTILES,
        out_file: str | os.PathLike | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        if not 0 <= zero_division <= 1:
            raise UserError(
                f'zero_division={zero_division}: the score of 0 / 0 is a fraction from 0 to 1'
            )
        if num_quantiles < 1:
            raise UserError(f'num_quantiles={num_quantiles}: at least one bin is needed')
        if out_file is not None:
            check_table_suffix(out_file)
        self.ignore_index = ignore_index
        self.zero_division = zero_division
        self.partition = CARPartition(thresholds, names)
        self.num_quantiles = num_quantiles
        self.out_file = out_file

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch on its device and keep one row per image."""
        if not data_samples:
            return
        counts = torch.stack([self._count(sample) for sample in data_samples]).tolist()
        for sample, image_counts in zip(data_samples, counts):
            coarse_range = sample.get('range') if 'coarse_car' in sample else None
            self.results.append(
                (image_paths(sample), image_counts, sample.get('coarse_car'), coarse_range)
            )

    def _count(self, sample: Mapping[str, Any]) -> Tensor:
        prediction, label = _mask(sample, 'pred_sem_seg'), _mask(sample, 'gt_sem_seg')
        label = label.to(prediction.device)
        try:
            return confusion_counts(at_size_of(prediction, label), label, self.ignore_index)
        except UserError as error:
            raise UserError(f'{_file_of(sample)}: {error}') from None

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Scores from the rows of all images."""
        if not results:
            return {}
        paths, counts, coarse_cars, coarse_ranges = zip(*results)
        table = ImageTable(
            files=image_names(paths),
            counts=np.array(counts, np.int64),
            coarse_cars=list(coarse_cars),
            coarse_ranges=list(coarse_ranges),
            partition=self.partition,
            zero_division=self.zero_division,
        )
        print_log('\n' + table.report(self.num_quantiles), logger='current')
        if self.out_file is not None:
            table.save(self.out_file)
            print_log(f'per-image table: {self.out_file}', logger='current')
        pooled = {f'pooled_{name}': score for name, score in table.pooled().items()}
        ranges = {
            f'{name}_{car_bin.name}': car_bin.scores[name]
            for car_bin in table.ranges()
            if car_bin.scores
            for name in MEAN_NAMES
        }
        return table.means() | pooled | ranges


def _mask(sample: Mapping[str, Any], key: str) -> Tensor:
    if key in sample:
        return sample[key]['data'].squeeze(0)  # (1, H, W) -> (H, W)
    if key == 'gt_sem_seg':
        advice = 'no label to compare with (gt_sem_seg): the test pipeline must load annotations, and the split must have labels'
    else:
        advice = (
            'no prediction (pred_sem_seg): the model must return data samples from mode="predict"'
        )
    raise UserError(f'{_file_of(sample)}: {advice}')


def _file_of(sample: Mapping[str, Any]) -> str:
    paths = image_paths(sample)
    return paths[-1] if paths else 'a sample without img_path'
