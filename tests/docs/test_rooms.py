"""The rooms of the package as CONTRIBUTING describes them."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).parents[2]
PACKAGE = REPO / 'mtkd_cd'
TEXT = (REPO / 'CONTRIBUTING.md').read_text()


def levels() -> dict[str, int]:
    """How far up each room is."""
    order = re.search(r'^core <- .*$', TEXT, re.MULTILINE)[0]
    return {
        room: level for level, rooms in enumerate(order.split(' <- ')) for room in rooms.split(', ')
    }


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules that a file imports, but for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, 'id', '') == 'TYPE_CHECKING':
            continue
        if isinstance(node, ast.ImportFrom):
            yield node.module or ''
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        yield from imported(node)


def test_every_room_has_its_line():
    rooms = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    assert rooms == set(levels())
    assert all(re.search(rf'^  {room}/ +\w', TEXT, re.MULTILINE) for room in rooms)


def test_a_name_means_one_thing():
    """But for `main`, and for functions of the front door, which are called as what they open."""
    places = defaultdict(list)
    for file in sorted(PACKAGE.glob('**/*.py')):
        if file.relative_to(PACKAGE).parts[0] in ('configs', 'apis'):
            continue
        for node in ast.parse(file.read_text()).body:
            name = getattr(node, 'name', '_')
            if not name.startswith('_') and name != 'main':
                places[name].append(str(file.relative_to(REPO)))
    shared = {name: files for name, files in places.items() if len(files) > 1}
    assert not shared


def test_imports_run_downwards():
    level = levels()
    upward = []
    for file in PACKAGE.glob('*/**/*.py'):
        room = file.relative_to(PACKAGE).parts[0]
        if room not in level:
            continue
        for module in imported(ast.parse(file.read_text())):
            package, *rest = module.split('.')
            if package == 'mtkd_cd' and rest and level.get(rest[0], 0) > level[room]:
                upward.append(f'{file.relative_to(REPO)} imports {module}')
    assert not upward, '\n'.join(upward)
