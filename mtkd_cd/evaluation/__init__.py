"""Per-image evaluation: counts, scores, tables and the metric."""

from mtkd_cd.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        'counts': ('confusion_counts',),
        'image_table': ('ImageTable', 'Provenance', 'load_table'),
        'masks': ('per_image_scores',),
        'metric': ('PerImageChangeMetric',),
        'scores': (
            'image_scores',
            'mean_scores',
            'pooled_scores',
            'scores_by_quantile',
            'scores_by_range',
        ),
        'statistics': (
            'Interval',
            'PairedDifference',
            'bootstrap_interval',
            'bootstrap_intervals',
            'mean_and_deviation',
            'paired_difference',
            'paired_p_value',
        ),
    },
)
