"""The front door for Python: which models there are, their configs, training, test, the recipe,
prediction. Importing it imports none of them."""

from mtkd_cd.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        '_models': ('get_config', 'list_models'),
        '_runs': ('run_recipe', 'test', 'train'),
        '_export': ('export_model',),
        '_inference': ('ChangeInferencer', 'inference_model', 'init_model'),
    },
)
