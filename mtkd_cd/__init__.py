"""mtkd-cd: change detection by origin-partition cascades and multi-teacher knowledge distillation
(arXiv:2502.13407).

Importing the package registers everything in scope ``mtkd_cd``.
"""

import contextlib
import io
import warnings

# mmseg prints a line about an optional package to the standard output, which belongs to the tools.
with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    # mmcv warns, for a part that nothing here uses, that its compiled ops are absent; torch that
    # TorchScript, which mmseg uses, is ageing.
    warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')
    warnings.filterwarnings('ignore', category=DeprecationWarning)
    import mmseg.datasets
    import mmseg.models  # noqa: F401

from mtkd_cd import data, drawing, engine, evaluation, models  # noqa: F401  (registers)
from mtkd_cd.version import __version__

__all__ = ['__version__']
