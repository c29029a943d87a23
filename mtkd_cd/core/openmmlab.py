"""Import mmengine and mmseg without what they drag in and say needlessly.

mmengine imports transformers, where that is installed, to register one optimiser (``Adafactor``),
which takes five seconds. :data:`mtkd_cd.registry.OPTIMIZERS` imports it when a config names it.
mmengine also imports torch's sharding of models, and sympy with it, for three classes that few
configs name. mmseg reads the vocabulary of a text model, and imports scipy for functions that its
transformers and augmentations may call. All these are imported when they are first used. mmcv warns
that compiled ops are absent, for a part that nothing here uses. torch warns that TorchScript, which
mmseg uses, is ageing. An optional package of mmseg prints a line to the standard output, which
belongs to the tools.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

# By module, the package that seems not to be installed while it is imported.
_HIDDEN = {'mmengine.optim.optimizer.builder': 'transformers'}
# By module, the module whose functions it imports when it calls them.
_BORROWED = {
    'mmseg.models.backbones.beit': 'scipy.interpolate',
    'mmseg.models.losses.huasdorff_distance_loss': 'scipy.ndimage',
    'mmseg.models.assigners.hungarian_assigner': 'scipy.optimize',
    'mmseg.datasets.transforms.transforms': 'scipy.ndimage',
}
# Modules that are imported when what others take from them is first used: a class and mmengine's
# registry that it is in, or a function.
_LATER = {
    'mmengine.optim.optimizer.zero_optimizer': ('ZeroRedundancyOptimizer', 'OPTIMIZERS'),
    'mmengine.model.wrappers.fully_sharded_distributed': (
        'MMFullyShardedDataParallel',
        'MODEL_WRAPPERS',
    ),
    'mmengine._strategy.fsdp': ('FSDPStrategy', 'STRATEGIES'),
    'mmseg.utils.tokenizer': ('tokenize', None),
}
# The first warns of the compiled ops, the others print that an optional package is absent.
_TALKATIVE = (
    'mmcv.cnn.bricks.transformer',
    'mmseg.datasets',
    'mmseg.datasets.transforms',
)


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Import OpenMMLab's packages in this block."""
    import io
    import warnings
    from contextlib import redirect_stdout

    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.filterwarnings(
            'ignore', message='Fail to import ``MultiScaleDeformableAttention``'
        )
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        yield


def import_quietly(module: str) -> ModuleType:
    """``importlib.import_module`` under :func:`quiet_imports`."""
    from importlib import import_module

    with quiet_imports():
        return import_module(module)


def import_less() -> None:
    """Let OpenMMLab's modules, whoever imports them from now on, import what they seldom use when
    it is used."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]


class _Finder:
    """Finds a few modules of OpenMMLab, and hands their loaders out wrapped."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> object:
        if fullname in _LATER:
            wrap: Callable[[object], object] = _LaterLoader
        elif fullname in _TALKATIVE:
            wrap = _QuietLoader
        elif fullname in _BORROWED or _HIDDEN.get(fullname, 'sys') not in sys.modules:
            wrap = _InsteadLoader
        else:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(fullname, path)  # type: ignore[arg-type]
        if spec is not None and spec.loader is not None:
            spec.loader = wrap(spec.loader)  # type: ignore[assignment]
        return spec


class _Loader:
    """A loader that changes how its module runs."""

    def __init__(self, loader: object) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: object) -> object:
        return self._loader.create_module(spec)  # type: ignore[attr-defined]


class _QuietLoader(_Loader):
    """Runs its module without what it says, whoever imports it."""

    def exec_module(self, module: ModuleType) -> None:
        with quiet_imports():
            self._loader.exec_module(module)  # type: ignore[attr-defined]


class _InsteadLoader(_Loader):
    """Runs its module while another is hidden, or stood in for."""

    def exec_module(self, module: ModuleType) -> None:
        name = _HIDDEN.get(module.__name__) or _BORROWED[module.__name__]
        if name in sys.modules:
            self._loader.exec_module(module)  # type: ignore[attr-defined]
            return
        # `None` is Python's own "not there".
        stand_in = None if module.__name__ in _HIDDEN else _Borrowed(name)
        sys.modules[name] = stand_in  # type: ignore[assignment]
        try:
            self._loader.exec_module(module)  # type: ignore[attr-defined]
        finally:
            del sys.modules[name]


class _Borrowed(ModuleType):
    """Stands in for a module whose functions others import and call later."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)

        def function(*args: object, **kwargs: object) -> object:
            from importlib import import_module

            return getattr(import_module(self.__name__), name)(*args, **kwargs)

        function.__name__ = function.__qualname__ = name
        return function


class _LaterLoader(_Loader):
    """Runs its module when the one thing that others take from it is first used."""

    def exec_module(self, module: ModuleType) -> None:
        name, registry = _LATER[module.__name__]
        loaded: list[object] = []

        def load() -> object:
            if not loaded:
                if registry:
                    _registry(registry).module_dict.pop(name, None)  # type: ignore[attr-defined]
                self._loader.exec_module(module)  # type: ignore[attr-defined]
                loaded.append(getattr(module, name))
            return loaded[0]

        def function(*args: object, **kwargs: object) -> object:
            return load()(*args, **kwargs)  # type: ignore[operator]

        def other(attribute: str) -> object:
            if not attribute.startswith('__'):
                load()
            if attribute not in vars(module):
                raise AttributeError(f'module {module.__name__!r} has no attribute {attribute!r}')
            return vars(module)[attribute]

        module.__getattr__ = other  # type: ignore[method-assign]
        if registry:
            names = dict(__module__=module.__name__, _load=staticmethod(load), _loaded=loaded)
            found: object = _LaterClass(name, (), names)
            _registry(registry).register_module(name, module=found)  # type: ignore[attr-defined]
        else:
            function.__name__ = function.__qualname__ = name
            found = function
        setattr(module, name, found)


class _LaterClass(type):
    """The type of a class that stands in for one that is imported when it is first used: called,
    looked into, or derived from. It has the instances and subclasses of the other."""

    _load: Callable[[], type]
    _loaded: list[type]

    def __new__(mcs, name: str, bases: tuple[type, ...], names: dict) -> type:
        if not bases:
            return super().__new__(mcs, name, bases, names)
        from types import new_class

        real = (base._load() if isinstance(base, _LaterClass) else base for base in bases)
        return new_class(name, tuple(real), {}, lambda own: own.update(names))

    def __call__(cls, *args: object, **kwargs: object) -> object:
        return cls._load()(*args, **kwargs)

    def __getattr__(cls, name: str) -> object:
        if name.startswith('__'):
            raise AttributeError(name)
        return getattr(cls._load(), name)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, tuple(cls._loaded))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return subclass is cls or any(issubclass(subclass, real) for real in cls._loaded)


def _registry(name: str) -> object:
    from mmengine import registry

    return getattr(registry, name)
