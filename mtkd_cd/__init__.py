"""mtkd-cd: change detection by origin-partition cascades and multi-teacher knowledge distillation
(arXiv:2502.13407).

``mmengine`` finds everything in scope ``mtkd_cd`` once :mod:`mtkd_cd.registry` is imported, which
it does itself where a config names the scope. :mod:`mtkd_cd.apis` is the front door for Python.
"""

from mtkd_cd.core.moved import find_moved_modules
from mtkd_cd.core.openmmlab import import_less
from mtkd_cd.version import __version__

find_moved_modules()
import_less()

__all__ = ['__version__']
