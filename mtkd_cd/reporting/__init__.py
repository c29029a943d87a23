"""Comparison of runs from their per-image tables: statistics, tables, figures and one report."""

from mtkd_cd.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        'build': ('Pictures', 'build_report'),
        'collect': ('aligned', 'collect_runs', 'restricted'),
        'comparison': ('Comparison', 'Settings', 'compare'),
        'scored_run': ('Run',),
        'document': ('ComparisonReport',),
    },
)
