"""Export, behind one name."""

from mtkd_cd.export.exporting import export_model

__all__ = ['export_model']
