"""Names that a package promises and imports only when they are asked for (PEP 562)."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
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
