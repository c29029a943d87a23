"""Import mmengine and mmseg without what they drag in and say needlessly.

``mmengine.optim`` imports transformers, where that is installed, to register one optimiser
(``Adafactor``): five seconds. The optimiser stays to be had, :data:`mtkd_cd.registry.OPTIMIZERS`
imports it when a config names it. mmcv warns that compiled ops are absent, for a part that nothing
here uses; torch warns that TorchScript, which mmseg uses, is ageing; an optional package of mmseg
prints a line to the standard output, which belongs to the tools.
"""

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

_HIDDEN = 'transformers'


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Import OpenMMLab's packages in this block."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings(
            'ignore', message='Fail to import ``MultiScaleDeformableAttention``'
        )
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        import_mmengine_optim()
        yield


def import_quietly(module: str) -> ModuleType:
    """``importlib.import_module`` under :func:`quiet_imports`."""
    with quiet_imports():
        return import_module(module)


def import_mmengine_optim() -> None:
    """Import ``mmengine.optim``, which nearly all of mmengine needs, without transformers."""
    if 'mmengine.optim' in sys.modules or _HIDDEN in sys.modules:
        return
    sys.modules[_HIDDEN] = None  # type: ignore[assignment]  # Python's own way to say: not there
    try:
        import_module('mmengine.optim')
    finally:
        del sys.modules[_HIDDEN]
