"""Per-image evaluation: counts, scores, tables and the metric."""

from mtkd_cd.evaluation.counts import confusion_counts
from mtkd_cd.evaluation.masks import per_image_scores
from mtkd_cd.evaluation.metric import PerImageChangeMetric
from mtkd_cd.evaluation.scores import (
    image_scores,
    mean_scores,
    pooled_scores,
    scores_by_quantile,
    scores_by_range,
)
from mtkd_cd.evaluation.statistics import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    bootstrap_intervals,
    mean_and_deviation,
    paired_difference,
    paired_p_value,
)
from mtkd_cd.evaluation.tables import (
    ImageTable,
    format_markdown_table,
    format_score_table,
    load_table,
)

__all__ = [
    'ImageTable',
    'Interval',
    'PairedDifference',
    'PerImageChangeMetric',
    'bootstrap_interval',
    'bootstrap_intervals',
    'confusion_counts',
    'format_markdown_table',
    'format_score_table',
    'image_scores',
    'load_table',
    'mean_and_deviation',
    'mean_scores',
    'paired_difference',
    'paired_p_value',
    'per_image_scores',
    'pooled_scores',
    'scores_by_quantile',
    'scores_by_range',
]
