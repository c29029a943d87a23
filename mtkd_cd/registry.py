"""The registries of scope ``mtkd_cd``.

They are children of mmengine's root registries, so that configs of other scopes reach them as
``mtkd_cd.X`` (mmengine resolves such a prefix among the root's children only), with mmseg's behind
them, so that configs of our scope find mmseg's parts without a prefix. mmengine warns about every
registry without a child in the default scope: those we register nothing in are here for that.
"""

import difflib
from typing import Any

from mmengine.registry import Registry
from mmseg import registry as mmseg

# Open-CD's configs take LN2d from mmpretrain, which need not be installed here.
_FOREIGN_SCOPE = 'mmpretrain.'


class _ChildRegistry(Registry):
    def __init__(self, behind: Registry, location: str | None = None) -> None:
        super().__init__(
            behind.name,
            parent=behind.parent,
            scope='mtkd_cd',
            locations=[location] if location else [],
        )
        self._behind = behind

    def get(self, key: str) -> Any:
        self.import_from_location()
        key = (
            key.removeprefix(_FOREIGN_SCOPE)
            if key.removeprefix(_FOREIGN_SCOPE) in self._module_dict
            else key
        )
        if '.' in key or key in self._module_dict:
            return super().get(key)
        return self._behind.get(key)

    def names(self) -> set[str]:
        """All that configs can name here without a prefix."""
        self.import_from_location()
        return (
            set(self._module_dict)
            | set(self._behind.module_dict)
            | set(self.parent.module_dict if self.parent else ())
        )


DATASETS = _ChildRegistry(mmseg.DATASETS, 'mtkd_cd.data')
DATA_SAMPLERS = _ChildRegistry(mmseg.DATA_SAMPLERS, 'mtkd_cd.data')
TRANSFORMS = _ChildRegistry(mmseg.TRANSFORMS, 'mtkd_cd.data.transforms')
MODELS = _ChildRegistry(mmseg.MODELS, 'mtkd_cd.models')
TASK_UTILS = _ChildRegistry(mmseg.TASK_UTILS, 'mtkd_cd.models')
METRICS = _ChildRegistry(mmseg.METRICS, 'mtkd_cd.evaluation')
HOOKS = _ChildRegistry(mmseg.HOOKS, 'mtkd_cd.engine')
LOOPS = _ChildRegistry(mmseg.LOOPS, 'mtkd_cd.engine')
VISUALIZERS = _ChildRegistry(mmseg.VISUALIZERS, 'mtkd_cd.drawing')
RUNNERS = _ChildRegistry(mmseg.RUNNERS)
RUNNER_CONSTRUCTORS = _ChildRegistry(mmseg.RUNNER_CONSTRUCTORS)
MODEL_WRAPPERS = _ChildRegistry(mmseg.MODEL_WRAPPERS)
WEIGHT_INITIALIZERS = _ChildRegistry(mmseg.WEIGHT_INITIALIZERS)
OPTIMIZERS = _ChildRegistry(mmseg.OPTIMIZERS)
OPTIM_WRAPPERS = _ChildRegistry(mmseg.OPTIM_WRAPPERS)
OPTIM_WRAPPER_CONSTRUCTORS = _ChildRegistry(mmseg.OPTIM_WRAPPER_CONSTRUCTORS)
PARAM_SCHEDULERS = _ChildRegistry(mmseg.PARAM_SCHEDULERS)
EVALUATOR = _ChildRegistry(mmseg.EVALUATOR)
VISBACKENDS = _ChildRegistry(mmseg.VISBACKENDS)
LOG_PROCESSORS = _ChildRegistry(mmseg.LOG_PROCESSORS)
INFERENCERS = _ChildRegistry(mmseg.INFERENCERS)


def similar_names(name: str) -> list[str]:
    """What may have been meant by a ``type`` of a config that is in none of the registries, the
    most similar first."""
    known = set().union(
        *(
            registry.names()
            for registry in globals().values()
            if isinstance(registry, _ChildRegistry)
        )
    )
    return difflib.get_close_matches(name.rpartition('.')[2], sorted(known))
