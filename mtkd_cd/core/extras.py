"""Optional dependencies: imported where they are needed, with an error that names the command that
installs them."""

import importlib
from typing import Any

from mtkd_cd.core.errors import UserError


def require(module: str, extra: str, purpose: str) -> Any:
    """Import an optional module.

    Args:
        module: For instance ``'rasterio'``.
        extra: The extra of this package that installs it.
        purpose: What needs it, as the subject of a sentence.

    Raises:
        UserError: It is not installed; names the command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or '').partition('.')[0] != module.partition('.')[0]:
            raise
        raise UserError(
            f"{purpose} needs {module}, which is not installed: pip install 'mtkd-cd[{extra}]'"
        ) from None
