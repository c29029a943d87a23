"""Import mmengine and mmseg without what they drag in and say needlessly.

mmengine imports transformers, where that is installed, to register one optimiser (``Adafactor``):
five seconds. The optimiser stays to be had, :data:`mtkd_cd.registry.OPTIMIZERS` imports it when a
config names it. mmcv warns that compiled ops are absent, for a part that nothing here uses. torch
warns that TorchScript, which mmseg uses, is ageing. An optional package of mmseg prints a line to
the standard output, which belongs to the tools.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_HIDDEN = 'transformers'
_HIDDEN_FROM = 'mmengine.optim.optimizer.builder'


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


def hide_transformers() -> None:
    """Let mmengine's builder of optimisers, whoever imports it from now on, not find
    transformers."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]


class _Finder:
    """Finds one module of mmengine, and hands its loader out wrapped."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> object:
        if fullname != _HIDDEN_FROM or _HIDDEN in sys.modules:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(fullname, path)  # type: ignore[arg-type]
        if spec is not None and spec.loader is not None:
            spec.loader = _HidingLoader(spec.loader)  # type: ignore[assignment]
        return spec


class _HidingLoader:
    """A loader whose module runs while transformers seems not to be installed."""

    def __init__(self, loader: object) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: object) -> object:
        return self._loader.create_module(spec)  # type: ignore[attr-defined]

    def exec_module(self, module: object) -> None:
        sys.modules[_HIDDEN] = None  # type: ignore[assignment]  # Python's own "not there"
        try:
            self._loader.exec_module(module)  # type: ignore[attr-defined]
        finally:
            del sys.modules[_HIDDEN]
