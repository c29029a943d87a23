"""Names that a package promises and imports only when they are asked for (PEP 562), and other
people's modules that run when something of them is asked for."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
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
            spec.loader = LazyLoader(spec.loader)
        return spec
