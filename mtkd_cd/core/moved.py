"""Modules under the names that they once had: imported with a warning."""

import sys

# A name stands for everything below it, too; the longest that fits counts.
MOVED = {
    'mtkd_cd.errors': 'mtkd_cd.core.errors',
    'mtkd_cd.files': 'mtkd_cd.core.files',
    'mtkd_cd.car': 'mtkd_cd.core.car',
    'mtkd_cd.checkpoint': 'mtkd_cd.core.checkpoint',
    'mtkd_cd.routing': 'mtkd_cd.models.mtkd.routing',
    'mtkd_cd.datasets': 'mtkd_cd.data',
    'mtkd_cd.datasets.check': 'mtkd_cd.analysis.check',
    'mtkd_cd.datasets.car_stats': 'mtkd_cd.analysis.car_stats',
    'mtkd_cd.visualization': 'mtkd_cd.drawing',
    'mtkd_cd.models.cascade': 'mtkd_cd.models.mtkd.cascade',
    'mtkd_cd.models.distiller': 'mtkd_cd.models.mtkd.distiller',
    'mtkd_cd.models.change_map': 'mtkd_cd.models.mtkd.change_map',
    'mtkd_cd.workflow': 'mtkd_cd.engine',
    'mtkd_cd.workflow.run': 'mtkd_cd.engine.training',
    'mtkd_cd.workflow.stages': 'mtkd_cd.recipe.steps',
    'mtkd_cd.engine.run': 'mtkd_cd.engine.training',
}


def new_name(name: str) -> str | None:
    """Where the module called ``name`` is today; None for one that was never moved."""
    parts = name.split('.')
    for length in range(len(parts), 1, -1):
        place = MOVED.get('.'.join(parts[:length]))
        if place is not None:
            return '.'.join([place, *parts[length:]])
    return None


class _Alias:
    """A loader whose module is another one, imported already or now."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._spec: object = None

    def create_module(self, spec: object) -> object:
        import importlib

        module = importlib.import_module(self.name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: object) -> None:
        module.__spec__ = self._spec  # type: ignore[attr-defined]  # the alias's is there now


class _Finder:
    """Finds the modules of old names; nothing is imported for it but when one is asked for."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> object:
        name = new_name(fullname) if fullname.startswith('mtkd_cd.') else None
        if name is None:
            return None
        import importlib.machinery
        import warnings

        warnings.warn(
            f'{fullname} is {name} now; the old name goes with version 0.2',
            FutureWarning,
            stacklevel=2,
        )
        return importlib.machinery.ModuleSpec(fullname, _Alias(name))  # type: ignore[arg-type]


def find_moved_modules() -> None:
    """Let imports of the old names find the new ones."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
