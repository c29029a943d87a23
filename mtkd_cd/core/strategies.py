"""The strategies: what they are called in tables and figures, and the order in which they are
listed."""

ORDER = ('origin', 'continued', 'op', 'mtkd')
_TITLES = {'op': 'O-P', 'mtkd': 'MTKD'}


def strategy_title(strategy: str) -> str:
    """As the paper writes it: ``op`` is ``O-P``, ``mtkd@0.1`` is ``MTKD @ 0.1``; ``mine:op``, of a
    labelled folder, ``mine: O-P``."""
    label, _, own = strategy.rpartition(':')
    base, at, variant = own.partition('@')
    title = _TITLES.get(base, base) + (f' @ {variant}' if at else '')
    return f'{label}: {title}' if label else title


def strategy_rank(strategy: str) -> tuple[str, int, str]:
    """Sort key of the strategies in a folder: origin, continued, O-P, MTKD, each followed by its
    variants; others behind."""
    label, _, own = strategy.rpartition(':')
    base, _, variant = own.partition('@')
    return (
        label,
        ORDER.index(base) if base in ORDER else len(ORDER),
        own if base not in ORDER else variant,
    )
