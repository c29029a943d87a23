"""Matplotlib for commands of a second or two."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_AXES_3D = 'mpl_toolkits.mplot3d'


def import_matplotlib_quickly() -> None:
    """Import matplotlib's figures without the lists of properties in the docstrings and signatures
    of its classes.

    To make these lists takes half of the import's time, and a command shows none of them. They
    are gone for the process, so this is not for a library. Nor are there axes of three
    dimensions.
    """
    with _without_axes_3d():
        from matplotlib import artist

        usual: Any = getattr(artist, 'ArtistInspector', None)
        made = set()

        def inspect(inspected: Any) -> Any:
            # A class is inspected for its own signature when it is made, and by others later.
            if inspected in made:
                return usual(inspected)
            made.add(inspected)
            return _NoProperties()

        with (
            _replaced(artist, 'kwdoc', lambda artist: ''),
            _replaced(artist, 'ArtistInspector', inspect),
        ):
            import matplotlib.backends.backend_agg
            import matplotlib.backends.backend_svg
            import matplotlib.figure  # noqa: F401


@contextmanager
def _without_axes_3d() -> Iterator[None]:
    """Inside, matplotlib finds them missing, and goes on without."""
    if _AXES_3D in sys.modules:
        yield
        return
    sys.modules[_AXES_3D] = None  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Unable to import Axes3D')
            yield
    finally:
        del sys.modules[_AXES_3D]


class _NoProperties:
    def get_setters(self) -> list[str]:
        return []


@contextmanager
def _replaced(module: Any, name: str, other: object) -> Iterator[None]:
    """Inside, ``module`` has another ``name``, if it has one at all."""
    usual = getattr(module, name, None)
    setattr(module, name, other)
    try:
        yield
    finally:
        if usual is None:  # a matplotlib that makes its lists otherwise
            delattr(module, name)
        else:
            setattr(module, name, usual)
