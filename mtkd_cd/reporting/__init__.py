"""Comparison of runs from their per-image tables: statistics, tables, figures and one report."""

from mtkd_cd.reporting.build import Pictures, build_report
from mtkd_cd.reporting.comparison import Comparison, Settings, compare
from mtkd_cd.reporting.report import Report
from mtkd_cd.reporting.runs import Run, aligned, collect_runs

__all__ = [
    'Comparison',
    'Pictures',
    'Report',
    'Run',
    'Settings',
    'aligned',
    'build_report',
    'collect_runs',
    'compare',
]
