"""Modules that run late."""

import sys
from importlib import import_module

import pytest

from mtkd_cd.core.lazy import late_modules


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Where ``late_one`` and ``late_two`` write their names when they run."""
    log = tmp_path / 'ran'
    log.touch()
    for name in ('late_one', 'late_two'):
        code = f'open({str(log)!r}, "a").write(__name__ + " ")\nANSWER = 42\n'
        (tmp_path / f'{name}.py').write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    yield log.read_text
    for name in ('late_one', 'late_two'):
        sys.modules.pop(name, None)


def test_late_module_runs_once_when_something_of_it_is_asked_for(ran):
    with late_modules('late_one'):
        module = import_module('late_one')
        import_module('late_two')
    assert ran() == 'late_two '
    assert sys.modules['late_one'] is module
    assert (module.ANSWER, import_module('late_one').ANSWER) == (42, 42)
    assert ran() == 'late_two late_one '


def test_modules_are_late_only_inside(ran):
    with (
        late_modules('late_one', 'no_such_module'),
        pytest.raises(ModuleNotFoundError, match='no_such_module'),
    ):
        import_module('no_such_module')
    import_module('late_one')
    assert ran() == 'late_one '
