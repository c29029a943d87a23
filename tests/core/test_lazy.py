"""Modules that run late."""

import sys
from concurrent.futures import ThreadPoolExecutor
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


def test_late_module_is_whole_in_each_thread(ran, tmp_path):
    (tmp_path / 'late_one.py').write_text('import time\ntime.sleep(0.1)\nANSWER = 42\n')
    with late_modules('late_one'):
        module = import_module('late_one')
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: module.ANSWER, range(4))) == [42] * 4


def test_what_is_set_on_a_late_module_stays(ran):
    with late_modules('late_one'):
        module = import_module('late_one')
    module.ANSWER = 1
    assert module.ANSWER == 1


def test_late_module_that_fails_fails_again(ran, tmp_path):
    (tmp_path / 'late_one.py').write_text('1 / 0\n')
    with late_modules('late_one'):
        module = import_module('late_one')
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            module.ANSWER  # noqa: B018
