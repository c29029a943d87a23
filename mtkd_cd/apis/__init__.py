"""The front door for Python."""

from mtkd_cd.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        '_inference': ('ChangeInferencer', 'inference_model', 'init_model'),
    },
)
