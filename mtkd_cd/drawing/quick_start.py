"""Matplotlib for commands of a second or two."""


def import_matplotlib_quickly() -> None:
    """Import matplotlib's figures without the lists of properties in the docstrings of its classes.

    To make these lists takes a third of the import's time, and a command shows none of them. They
    are gone for the process, so this is not for a library.
    """
    from matplotlib import artist

    usual = getattr(artist, 'kwdoc', None)
    artist.kwdoc = lambda artist: ''
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.backends.backend_svg
        import matplotlib.figure  # noqa: F401
    finally:
        if usual is None:  # a matplotlib that makes them otherwise
            del artist.kwdoc
        else:
            artist.kwdoc = usual
