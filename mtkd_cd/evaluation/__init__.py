"""Per-image evaluation: counts, scores, tables and the metric."""

from mtkd_cd.evaluation.counts import confusion_counts
from mtkd_cd.evaluation.metric import PerImageChangeMetric
from mtkd_cd.evaluation.scores import image_scores, mean_scores, pooled_scores, scores_by_quantile, scores_by_range
from mtkd_cd.evaluation.tables import ImageTable, format_markdown_table, format_score_table, load_table

__all__ = [
    'ImageTable',
    'PerImageChangeMetric',
    'confusion_counts',
    'format_markdown_table',
    'format_score_table',
    'image_scores',
    'load_table',
    'mean_scores',
    'pooled_scores',
    'scores_by_quantile',
    'scores_by_range',
]
