"""The registries of scope ``mtkd_cd``.

They are children of mmengine's root registries: mmengine looks among these for the scope of
``mtkd_cd.X``, and imports this module to do so. mmseg's registries are behind them: configs of our
scope find mmseg's parts without a prefix. Our modules and mmseg's are imported when a config first
names something. mmengine warns when it builds from a registry without a child in the default scope:
those we register nothing in are here for that.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, wraps
from importlib import import_module
from typing import Any

from mmengine import registry as mmengine
from mmengine.config import Config
from mmengine.registry import DefaultScope, Registry

import mtkd_cd.core.backend  # noqa: F401  (registers what configs name)
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.openmmlab import import_quietly, quiet_imports
from mtkd_cd.core.text import did_you_mean

# Open-CD's configs take LN2d from mmpretrain, which need not be installed here.
_FOREIGN_SCOPE = 'mmpretrain.'
# Keys that mmengine's builder of schedulers takes out of the config before it calls the class.
_SCHEDULER_SETTINGS = {'convert_to_iter_based', 'epoch_length'}


class _ChildRegistry(Registry):
    """A registry of our scope.

    Args:
        attribute: Name of mmengine's and mmseg's registry for the same kind of thing.
        locations: Modules of this package that register into it.
        elsewhere: Further names, and where they are imported from when a config asks for one.
    """

    def __init__(
        self, attribute: str, *locations: str, elsewhere: Mapping[str, str] | None = None
    ) -> None:
        root = getattr(mmengine, attribute)
        super().__init__(
            root.name,
            parent=root,
            scope='mtkd_cd',
            locations=[f'mtkd_cd.{location}' for location in locations],
        )
        self._attribute = attribute
        self._elsewhere = dict(elsewhere or {})

    @cached_property
    def _behind(self) -> Registry:
        return getattr(import_quietly('mmseg.registry'), self._attribute)

    def import_from_location(self) -> None:
        """Import our modules that register here."""
        if not self._imported:
            with quiet_imports():
                super().import_from_location()

    def get(self, key: str) -> Any:
        """The class or function that a config means by ``key``; ``None`` if there is none."""
        self.import_from_location()
        if (name := key.removeprefix(_FOREIGN_SCOPE)) in self._module_dict:
            key = name
        if '.' in key or key in self._module_dict:
            return super().get(key)
        with quiet_imports():
            found = self._behind.get(key)
        if found is None and key in self._elsewhere:
            try:
                return getattr(import_module(self._elsewhere[key]), key)
            except ImportError:
                return None
        return found

    def build(self, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        """Build ``cfg``.

        Raises:
            UserError: ``type`` is not registered, or its class lacks an argument or takes none of
                that name.
        """
        return _explaining(self.build_func)(cfg, *args, **kwargs, registry=self)

    def names(self) -> set[str]:
        """All that configs can name here without a prefix."""
        self.import_from_location()
        with quiet_imports():
            self._behind.import_from_location()
        parent = set(self.parent.module_dict) if self.parent else set()
        return {*self._module_dict, *self._behind.module_dict, *parent}


DATASETS = _ChildRegistry(
    'DATASETS', 'data.benchmarks', 'data.car_partition', 'data.subsets', 'engine.replay'
)
DATA_SAMPLERS = _ChildRegistry('DATA_SAMPLERS', 'data.samplers', 'engine.replay')
TRANSFORMS = _ChildRegistry('TRANSFORMS', 'data.transforms')
MODELS = _ChildRegistry(
    'MODELS',
    'models.backbones',
    'models.necks',
    'models.decode_heads',
    'models.losses',
    'models.layers',
    'models.detectors',
    'models.data_preprocessor',
    'models.tta',
    'models.mtkd.cascade',
    'models.mtkd.distiller',
)
TASK_UTILS = _ChildRegistry('TASK_UTILS', 'models.decode_heads')
METRICS = _ChildRegistry('METRICS', 'evaluation.metric')
HOOKS = _ChildRegistry('HOOKS', 'engine.hooks', 'drawing.hook', 'opencd.visualization')
LOOPS = _ChildRegistry('LOOPS', 'engine.replay')
VISUALIZERS = _ChildRegistry(
    'VISUALIZERS', 'drawing.visualizer', 'drawing.tracking', 'opencd.visualization'
)
VISBACKENDS = _ChildRegistry('VISBACKENDS', 'drawing.tracking', 'opencd.visualization')
OPTIMIZERS = _ChildRegistry('OPTIMIZERS', elsewhere={'Adafactor': 'transformers'})
OPTIM_WRAPPERS = _ChildRegistry('OPTIM_WRAPPERS', 'engine.optim')
OPTIM_WRAPPER_CONSTRUCTORS = _ChildRegistry('OPTIM_WRAPPER_CONSTRUCTORS', 'engine.optim')
PARAM_SCHEDULERS = _ChildRegistry('PARAM_SCHEDULERS')
RUNNERS = _ChildRegistry('RUNNERS')
MODEL_WRAPPERS = _ChildRegistry('MODEL_WRAPPERS')
WEIGHT_INITIALIZERS = _ChildRegistry('WEIGHT_INITIALIZERS')
EVALUATOR = _ChildRegistry('EVALUATOR')
LOG_PROCESSORS = _ChildRegistry('LOG_PROCESSORS', 'engine.log')

_ALL = [found for found in list(globals().values()) if isinstance(found, _ChildRegistry)]


def is_known(name: str) -> bool:
    """Whether a ``type`` of a config of our scope is in one of the registries."""
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        return any(registry.get(name) is not None for registry in _ALL)


def _is_ours(name: str, kind: str) -> bool:
    """Whether a ``type`` names one of these in a config of our scope: a ``'model'``, ..."""
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        return any(found.name == kind and found.get(name) is not None for found in _ALL)


def similar_name(name: str) -> str:
    """``did you mean 'x'?`` for a ``type`` of a config that is in none of the registries, or what
    to do with a class of Open-CD's MTKD; empty where nothing in them is like it."""
    if name.rpartition('.')[2].startswith('Distill'):
        return (
            "it is one of Open-CD's MTKD: `mtkd-cd migrate CONFIG -o NEW.py` rewrites its configs"
        )
    known = set().union(*(registry.names() for registry in _ALL))
    return did_you_mean(name.rpartition('.')[2], sorted(known))


@contextmanager
def config_errors_explained() -> Iterator[None]:
    """Within this block mmengine's own registries raise :class:`UserError` for what a config says
    wrong, as ours always do.

    For a process that is ours, such as a tool's: others may wait for a ``KeyError``.
    """
    builders = {}
    for ours in _ALL:
        if ours.parent is None or ours is RUNNERS:
            continue
        for registry in (ours.parent, *ours.parent.children.values()):
            if registry not in _ALL:
                builders[registry] = registry.build_func
    for registry, build_func in builders.items():
        registry.build_func = _explaining(build_func)
    try:
        yield
    finally:
        for registry, build_func in builders.items():
            registry.build_func = build_func


def _explaining(build_func: Callable) -> Callable:
    @wraps(build_func)
    def build(cfg: Any, *args: Any, registry: Registry, **kwargs: Any) -> Any:
        try:
            return build_func(cfg, *args, registry=registry, **kwargs)
        except (KeyError, TypeError) as error:
            defaults = args[0] if args else kwargs.get('default_args')
            problem = _problem_of(cfg, defaults, registry)
            if problem is None:
                raise
            raise UserError(f'the config cannot be built: {problem}') from error

    return build


def _problem_of(cfg: Any, defaults: Mapping | None, registry: Registry) -> str | None:
    """What the user did wrong in a config that failed to be built; ``None`` if it is in order."""
    if not isinstance(cfg, (dict, Config)):
        return f'expected a dict with the key "type" for the {registry.name}, found {cfg!r}'
    settings = {**(defaults or {}), **cfg}
    if 'type' not in settings:
        return f'the config of a {registry.name} needs the key "type", found {cfg}'
    kind, scope = settings.pop('type'), settings.pop('_scope_', None)
    with registry.switch_scope_and_registry(scope) as found:
        target = found.get(kind) if isinstance(kind, str) else kind
    if target is None:
        return _unknown(kind, found)
    if not callable(target):
        return f'"type" names no class, found {target!r}'
    signature = inspect.signature(target)
    for name in _SCHEDULER_SETTINGS - set(signature.parameters):
        settings.pop(name, None)
    try:
        signature.bind_partial(**settings)  # names that are not taken are told before those missing
        signature.bind(**settings)
        _refuse_names_nobody_takes(target, settings)
    except TypeError as error:
        return f'{getattr(target, "__name__", target)}: {error}'
    return None


def _refuse_names_nobody_takes(target: Any, settings: Mapping) -> None:
    """Raise ``TypeError`` for a name that a class hands on in ``**kwargs`` and no base takes."""
    taken: set[str] = set()
    for owner in inspect.getmro(target) if inspect.isclass(target) else ():
        if '__init__' not in vars(owner) or owner is object:
            continue
        parameters = inspect.signature(vars(owner)['__init__']).parameters.values()
        taken |= {parameter.name for parameter in parameters}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            for name in settings.keys() - taken:
                raise TypeError(f'got an unexpected keyword argument {name!r}')
            return


def _unknown(name: str, registry: Registry) -> str:
    said = f'{name} is not in the {registry.scope}::{registry.name} registry'
    advice = similar_name(name) or 'check its spelling, or name its module in custom_imports'
    if registry not in _ALL and _is_ours(name, registry.name):
        advice = f"it is in scope mtkd_cd: write 'mtkd_cd.{name}', or default_scope = 'mtkd_cd'"
    return f'{said}: {advice}'
