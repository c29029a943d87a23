"""Helps the site's builder to read our sources, which it does without importing them."""

import ast
import re
from typing import Any

import griffe

_ROLE = re.compile(r':(?:class|func|meth|mod|attr|data|exc):`~?([^`]+)`')


class Sources(griffe.Extension):
    """Shows the names that packages hand out lazily, and the docstrings without Sphinx's roles."""

    def on_module_members(self, *, node: Any, mod: griffe.Module, **_: Any) -> None:
        """Add an alias for each name that the module passes to ``lazy_names``."""
        if not isinstance(node, ast.Module):
            return
        for name, home in _lazy_names(node):
            mod.set_member(name, griffe.Alias(name, f'{mod.path}.{home}.{name}', parent=mod))

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Write ``:func:`f``` as ```f```."""
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(r'`\1`', obj.docstring.value)


def _lazy_names(tree: ast.Module) -> list[tuple[str, str]]:
    """Each lazy name of :mod:`mtkd_cd.core.lazy`, and the module that it is in."""
    for statement in tree.body:
        call = getattr(statement, 'value', None)
        if isinstance(call, ast.Call) and getattr(call.func, 'id', '') == 'lazy_names':
            table = ast.literal_eval(call.args[1])
            return [(name, module) for module, names in table.items() for name in names]
    return []
