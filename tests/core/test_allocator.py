"""Freed arrays serve the next ones: seen from the pages that the system has to hand out."""

import os
import platform
import subprocess
import sys

import pytest

_MIB = 8
_PAGES = _MIB * 2**20 // os.sysconf('SC_PAGE_SIZE')
_CODE = f"""
import resource
from mtkd_cd.core.allocator import keep_freed_memory
{{call}}
def touch(length=1):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b'x' * ({_MIB} << 20 | length)  # made at run time, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
touch()
print(max(touch() for _ in range(3)))
"""


def _pages(call: str, **variables: str) -> int:
    """Pages that were asked for to make an array again."""
    run = subprocess.run(
        [sys.executable, '-c', _CODE.format(call=call)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='it is glibc that gives memory back')
def test_arrays_are_made_where_freed_ones_were():
    # A threshold of the user's holds, and it shows what is asked for where memory goes back.
    kept = _pages('keep_freed_memory()', GLIBC_TUNABLES='glibc.rtld.optional_static_tls=512')
    assert kept < _PAGES / 10
    for variable, value in (
        ('MALLOC_MMAP_THRESHOLD_', '1048576'),
        ('GLIBC_TUNABLES', 'glibc.malloc.mmap_threshold=1048576'),
    ):
        assert _pages('keep_freed_memory()', **{variable: value}) > _PAGES / 2


@pytest.mark.parametrize('passes_over', [False, True])
def test_garbage_is_looked_for_rarely_until_the_imports_are_done(passes_over):
    code = """
import gc
from mtkd_cd.core.allocator import looking_for_garbage_rarely, pass_over_imports
gc.set_threshold(600, 5, 5)
with looking_for_garbage_rarely():
    print(gc.get_threshold(), gc.get_freeze_count() > 0)
    {call}
    print(gc.get_threshold(), gc.get_freeze_count() > 0)
print(gc.get_threshold(), gc.get_freeze_count() > 0)
"""
    run = subprocess.run(
        [sys.executable, '-c', code.format(call='pass_over_imports()' * passes_over)],
        capture_output=True,
        text=True,
        check=True,
    )
    before, usual = '(50000, 5, 5) False', f'(600, 5, 5) {passes_over}'
    assert run.stdout.splitlines() == [before, usual if passes_over else before, usual]
