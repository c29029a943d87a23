"""Names that a package promises and imports only when they are asked for (PEP 562), and other
people's modules that run when something of them is asked for."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import Any


def lazy_names(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What a package's ``__init__`` assigns to ``__getattr__``, ``__dir__`` and ``__all__``.

    Args:
        package: ``__name__`` of the package.
        names: The public names of each of its modules; a module without names is itself public.
    """
    if clashes := [module for module, found in names.items() if module in found]:
        # Importing the module would put it in the place of what it defines.
        raise ValueError(f'{package} cannot hand out {clashes} lazily: a module has that name')
    homes = {name: module for module, found in names.items() for name in found}
    modules = {module for module, found in names.items() if not found}
    public = sorted({*homes, *modules})

    def getattribute(name: str) -> Any:
        if name in modules:
            return import_module(f'{package}.{name}')
        if name not in homes:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        value = getattr(import_module(f'{package}.{homes[name]}'), name)
        setattr(sys.modules[package], name, value)
        return value

    return getattribute, lambda: public, public


@contextmanager
def late_modules(*names: str) -> Iterator[None]:
    """Inside, importing one of these modules does not run it yet: the first look at something in
    it does. ``import NAME`` is such a promise, ``from NAME import SOMETHING`` looks at once.

    Args:
        names: Modules that an import elsewhere takes along and that few runs use.
    """
    finder = _LateFinder(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _LateFinder:
    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in self._names else None
        if spec and spec.loader:
            spec.loader = _LateLoader(spec.loader)
        return spec


class _LateLoader(Loader):
    """What :class:`importlib.util.LazyLoader` is, for threads: that of Python 3.11 shows half a
    module to the second thread that looks."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec: Any = module.__spec__
        spec.loader = module.__loader__ = self._loader
        spec.loader_state = _Run()
        module.__class__ = _LateModule


class _Run:
    def __init__(self) -> None:
        self.lock = RLock()
        self.has_begun = False


class _LateModule(ModuleType):
    # No `super()`: another thread may give the module its usual class meanwhile.

    def __getattribute__(self, name: str) -> Any:
        spec = ModuleType.__getattribute__(self, '__spec__')
        if name == '__spec__':  # every `import` of a module that is there looks at it
            return spec
        run = spec.loader_state
        with run.lock:
            if not run.has_begun:
                run.has_begun = True
                try:
                    spec.loader.exec_module(self)
                except BaseException:
                    run.has_begun = False
                    raise
                self.__class__ = ModuleType  # type: ignore[assignment]
        return ModuleType.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ = self.__dict__  # or running would set it anew
        ModuleType.__setattr__(self, name, value)
