"""The models: detectors and their parts, and the two that make them a method, the cascade (O-P) and
the distiller (MTKD)."""

from mtkd_cd.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        'backbones': (),
        'decode_heads': (),
        'detectors': (),
        'layers': (),
        'necks': (),
        'data_preprocessor': ('DualInputSegDataPreProcessor',),
        'losses': ('ChangeMapMSELoss',),
        'mtkd.cascade': ('OriginPartitionCascade',),
        'mtkd.distiller': ('MultiTeacherDistiller',),
    },
)
