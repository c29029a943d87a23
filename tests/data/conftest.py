"""Registered data sets, and a cache of CARs of their own."""

import pytest
from mmengine.registry import init_default_scope

import mtkd_cd  # noqa: F401  (registers)


@pytest.fixture(autouse=True)
def _scope_and_own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    init_default_scope('mtkd_cd')
    # mmengine collects garbage each time that a data set is initialised, which takes longer than
    # all the rest here.
    monkeypatch.setattr('gc.collect', lambda *args: 0)
