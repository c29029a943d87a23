"""Work on a second thread."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from mtkd_cd.core import background
from mtkd_cd.core.background import begin


@pytest.fixture
def two_processors(monkeypatch):
    monkeypatch.setattr(background, 'processors', lambda: 2)
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)


def test_the_caller_goes_on_meanwhile(two_processors):
    may_end = threading.Event()
    wait = begin(lambda: may_end.wait(10) and threading.current_thread())
    may_end.set()
    assert wait() not in (False, threading.current_thread())


def test_an_error_comes_where_the_result_is_asked_for(two_processors):
    def call():
        raise ValueError('no such teacher')

    wait = begin(call)
    with pytest.raises(ValueError, match='no such teacher'):
        wait()


@pytest.mark.parametrize(('processors', 'processes'), [(1, ''), (3, '2'), (1, 'many')])
def test_without_a_processor_to_spare_the_call_is_made_at_once(
    processors, processes, two_processors, monkeypatch
):
    monkeypatch.setattr(background, 'processors', lambda: processors)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', processes)
    called = []
    wait = begin(lambda: called.append(threading.current_thread()) or 5)
    assert called == [threading.current_thread()]
    assert wait() == 5


def test_torch_takes_as_many_threads_there(two_processors):
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        # In a thread of its own, for those that have run keep their number.
        background._second_thread.cache_clear()
        assert begin(torch.get_num_threads)() == 3
    finally:
        torch.set_num_threads(usual)
        background._second_thread.cache_clear()


def test_when_the_interpreter_ends_the_call_is_made_at_once():
    code = (
        'import atexit\n'
        'from mtkd_cd.core import background\n'
        'background.processors = lambda: 2\n'
        'assert background.begin(lambda: 1)() == 1\n'
        'atexit.register(lambda: print(background.begin(lambda: 5)()))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.stdout == '5\n', done.stderr


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='there are no forks')
def test_a_forked_process_has_a_second_thread_of_its_own(two_processors):
    assert begin(lambda: 1)() == 1
    child = os.fork()
    if not child:
        os._exit(begin(lambda: 7)())
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
